"""Resample the detectors of a visit onto a patch."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.formats.obs_info import night_of
from tololo.reduction.formats.skymap import from_definition
from tololo.reduction.patch_warp import to_cell_coadd, warp_visit


class MakeDirectWarpConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit", "skymap", "tract", "patch")
):
    """Visit images in, one warp out."""

    visit_images = ct.Input(
        doc="Calibrated detectors of the visit.",
        name="visit_image",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    sky_map = ct.PrerequisiteInput(
        doc="Definition of the sky map.",
        name="skyMap",
        storageClass="StructuredDataDict",
        dimensions=("skymap",),
    )
    warp = ct.Output(
        doc="The visit on the pixels of the patch; its PSF by cell.",
        name="direct_warp",
        storageClass="CellCoadd",
        dimensions=("instrument", "visit", "skymap", "tract", "patch"),
    )


class MakeDirectWarpConfig(pipe_base.PipelineTaskConfig, pipelineConnections=MakeDirectWarpConnections):
    """No choices."""


class MakeDirectWarpTask(pipe_base.PipelineTask):
    """Resample with Lanczos 3, fluxes kept; see `tololo.reduction.patch_warp.warp_visit`."""

    ConfigClass = MakeDirectWarpConfig
    _DefaultName = "makeDirectWarp"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Warp one visit onto one patch."""
        data_id = outputRefs.warp.dataId
        patch = from_definition(butlerQC.get(inputRefs.sky_map))[data_id["tract"]].patch(data_id["patch"])
        handles = sorted(butlerQC.get(inputRefs.visit_images), key=lambda handle: handle.dataId["detector"])
        images = [handle.get() for handle in handles]
        warped = warp_visit(images, patch)
        if warped is None or warped.planes.bad.all():
            raise pipe_base.NoWorkFound(
                f"Visit {data_id['visit']} has no good pixel on patch {data_id['patch']}"
            )
        metadata = {"VISIT": int(data_id["visit"]), "DAY_OBS": night_of(images[0].obs_info)}
        butlerQC.put(
            to_cell_coadd(warped, data_id["skymap"], patch, images[0].band, metadata), outputRefs.warp
        )

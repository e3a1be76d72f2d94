"""Resample the detectors of a visit onto a patch, and bring them to a common seeing."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.obs_info import night_of
from tololo.reduction.formats.skymap import from_definition
from tololo.reduction.patch_warp import to_cell_coadd, warp_visit
from tololo.reduction.psf_matching import match_warp


class MakePsfMatchedWarpConnections(
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
        doc="The visit on the pixels of the patch, brought to a common seeing; its PSF by cell.",
        name="psf_matched_warp",
        storageClass="CellCoadd",
        dimensions=("instrument", "visit", "skymap", "tract", "patch"),
    )


class MakePsfMatchedWarpConfig(
    pipe_base.PipelineTaskConfig, pipelineConnections=MakePsfMatchedWarpConnections
):
    """Which seeing."""

    fwhm = pex_config.RangeField[float](
        doc="Seeing of all warps, FWHM in arcsec; no visit may have a worse one.",
        default=1.6,
        min=0.3,
        max=10.0,
    )


class MakePsfMatchedWarpTask(pipe_base.PipelineTask):
    """Resample with Lanczos 3 and convolve; see `tololo.reduction.psf_matching.match_warp`."""

    ConfigClass = MakePsfMatchedWarpConfig
    _DefaultName = "makePsfMatchedWarp"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Warp one visit onto one patch."""
        data_id = outputRefs.warp.dataId
        patch = from_definition(butlerQC.get(inputRefs.sky_map))[data_id["tract"]].patch(data_id["patch"])
        handles = sorted(butlerQC.get(inputRefs.visit_images), key=lambda handle: handle.dataId["detector"])
        images = [handle.get() for handle in handles]
        warped = warp_visit(images, patch, white=True)
        if warped is None or warped.planes.bad.all():
            raise pipe_base.NoWorkFound(
                f"Visit {data_id['visit']} has no good pixel on patch {data_id['patch']}"
            )
        where = f"visit {data_id['visit']}, tract {data_id['tract']}, patch {data_id['patch']}"
        try:
            matched = match_warp(warped, self.config.fwhm / patch.tract.pixel_scale, where)
        except BadInputError as error:
            # The other visits make a template without it.
            raise pipe_base.NoWorkFound(str(error)) from error
        metadata = {
            "VISIT": int(data_id["visit"]),
            "DAY_OBS": night_of(images[0].obs_info),
            "SEEING": self.config.fwhm,
        }
        butlerQC.put(
            to_cell_coadd(matched, data_id["skymap"], patch, images[0].band, metadata), outputRefs.warp
        )

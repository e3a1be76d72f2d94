"""What the tasks that resample a visit onto a patch have in common."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.formats.obs_info import night_of
from tololo.reduction.formats.skymap import from_definition
from tololo.reduction.formats.tract import Patch
from tololo.reduction.patch_warp import PatchWarp, to_cell_coadd, warp_visit


class VisitWarpConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit", "skymap", "tract", "patch")
):
    """Visit images in; a task adds the warp that comes out."""

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


class VisitWarpTask(pipe_base.PipelineTask):
    """Resample one visit onto one patch; what else is done to the warp is the task's own ``finished``."""

    white = False
    """Whether the warp gets the variance that independent pixels would have."""

    def finished(self, warped: PatchWarp, patch: Patch, where: str) -> tuple[PatchWarp, dict[str, Any]]:
        """Return what is written of a warp, and what its header says beside visit and night."""
        return warped, {}

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Warp one visit onto one patch."""
        data_id = outputRefs.warp.dataId
        patch = from_definition(butlerQC.get(inputRefs.sky_map))[data_id["tract"]].patch(data_id["patch"])
        handles = sorted(butlerQC.get(inputRefs.visit_images), key=lambda handle: handle.dataId["detector"])
        images = [handle.get() for handle in handles]
        warped = warp_visit(images, patch, white=self.white)
        if warped is None or warped.planes.bad.all():
            raise pipe_base.NoWorkFound(
                f"Visit {data_id['visit']} has no good pixel on patch {data_id['patch']}"
            )
        where = f"visit {data_id['visit']}, tract {data_id['tract']}, patch {data_id['patch']}"
        warped, more = self.finished(warped, patch, where)
        metadata = {"VISIT": int(data_id["visit"]), "DAY_OBS": night_of(images[0].obs_info), **more}
        butlerQC.put(
            to_cell_coadd(warped, data_id["skymap"], patch, images[0].band, metadata), outputRefs.warp
        )

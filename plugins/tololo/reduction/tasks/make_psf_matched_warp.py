"""Resample the detectors of a visit onto a patch, and bring them to a common seeing."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.tract import Patch
from tololo.reduction.patch_warp import PatchWarp
from tololo.reduction.psf_matching import match_warp
from tololo.reduction.tasks.visit_warp import VisitWarpConnections, VisitWarpTask


class MakePsfMatchedWarpConnections(
    VisitWarpConnections, dimensions=("instrument", "visit", "skymap", "tract", "patch")
):
    """Visit images in, one warp out."""

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


class MakePsfMatchedWarpTask(VisitWarpTask):
    """Resample with Lanczos 3 and convolve; see `tololo.reduction.psf_matching.match_warp`."""

    ConfigClass = MakePsfMatchedWarpConfig
    _DefaultName = "makePsfMatchedWarp"
    white = True

    def finished(self, warped: PatchWarp, patch: Patch, where: str) -> tuple[PatchWarp, dict[str, Any]]:
        """Bring a warp to the common seeing."""
        try:
            matched = match_warp(warped, self.config.fwhm / patch.tract.pixel_scale, where)
        except BadInputError as error:
            # The other visits make a template without it.
            raise pipe_base.NoWorkFound(str(error)) from error
        return matched, {"SEEING": self.config.fwhm}

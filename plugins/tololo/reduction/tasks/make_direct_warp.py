"""Resample the detectors of a visit onto a patch."""

from __future__ import annotations

import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.tasks.visit_warp import VisitWarpConnections, VisitWarpTask


class MakeDirectWarpConnections(
    VisitWarpConnections, dimensions=("instrument", "visit", "skymap", "tract", "patch")
):
    """Visit images in, one warp out."""

    warp = ct.Output(
        doc="The visit on the pixels of the patch; its PSF by cell.",
        name="direct_warp",
        storageClass="CellCoadd",
        dimensions=("instrument", "visit", "skymap", "tract", "patch"),
    )


class MakeDirectWarpConfig(pipe_base.PipelineTaskConfig, pipelineConnections=MakeDirectWarpConnections):
    """No choices."""


class MakeDirectWarpTask(VisitWarpTask):
    """Resample with Lanczos 3, fluxes kept; see `tololo.reduction.patch_warp.warp_visit`."""

    ConfigClass = MakeDirectWarpConfig
    _DefaultName = "makeDirectWarp"

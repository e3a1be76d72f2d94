"""Combine the warps of several visits into a template."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
import numpy as np
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.configuration import TEMPLATE_TYPES
from tololo.reduction.coadd import CoaddInput, combine
from tololo.reduction.formats.images import cell_coadd
from tololo.reduction.formats.skymap import from_definition


class AssembleTemplateCoaddConnections(
    pipe_base.PipelineTaskConnections, dimensions=("skymap", "tract", "patch", "band")
):
    """Warps in, one coadd out."""

    warps = ct.Input(
        doc="Visits on the pixels of the patch.",
        name="direct_warp",
        storageClass="CellCoadd",
        dimensions=("instrument", "visit", "skymap", "tract", "patch"),
        multiple=True,
        deferLoad=True,
    )
    sky_map = ct.PrerequisiteInput(
        doc="Definition of the sky map.",
        name="skyMap",
        storageClass="StructuredDataDict",
        dimensions=("skymap",),
    )
    coadd = ct.Output(
        doc="Template for difference imaging; its PSF by cell.",
        name="template_coadd",
        storageClass="CellCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
    )


class AssembleTemplateCoaddConfig(
    pipe_base.PipelineTaskConfig, pipelineConnections=AssembleTemplateCoaddConnections
):
    """How to combine."""

    method = pex_config.ChoiceField[str](
        doc="How the warps are combined.",
        allowed={name: name for name in TEMPLATE_TYPES},
        default="meanclip",
    )


class AssembleTemplateCoaddTask(pipe_base.PipelineTask):
    """Combine warps; see `tololo.reduction.coadd.combine`."""

    ConfigClass = AssembleTemplateCoaddConfig
    _DefaultName = "assembleTemplateCoadd"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Make one template."""
        data_id = outputRefs.coadd.dataId
        patch = from_definition(butlerQC.get(inputRefs.sky_map))[data_id["tract"]].patch(data_id["patch"])
        handles = sorted(butlerQC.get(inputRefs.warps), key=lambda handle: handle.dataId["visit"])
        warps = [(handle.dataId["visit"], handle.get()) for handle in handles]
        inputs = [CoaddInput.from_cell_coadd(visit, warp) for visit, warp in warps]
        inputs = [item for item in inputs if item.weight > 0]
        if not inputs:
            raise pipe_base.NoWorkFound("No warp of this patch has a good pixel")
        template = combine(inputs, patch, self.config.method)
        covered = template.depth[template.depth > 0]
        nights = sorted({int(warp.metadata["DAY_OBS"]) for visit, warp in warps if visit in template.visits})
        metadata = {
            "METHOD": self.config.method,
            "VISITS": ",".join(str(visit) for visit in template.visits),
            "NIGHTS": ",".join(str(night) for night in nights),
            "WEIGHTS": ",".join(f"{weight:.6g}" for weight in template.weights),
            "DEPTH": float(np.median(covered)) if covered.size else 0.0,
        }
        image = cell_coadd(
            template.planes, template.psfs, data_id["skymap"], patch.tract, patch, data_id["band"], metadata
        )
        self.log.info("Template of %d visits, median depth %.1f", len(inputs), metadata["DEPTH"])
        butlerQC.put(image, outputRefs.coadd)

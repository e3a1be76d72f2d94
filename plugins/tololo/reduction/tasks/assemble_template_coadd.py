"""Combine the warps of several visits into a template."""

from __future__ import annotations

import dataclasses
from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
import numpy as np
from lsst.images import Image
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.configuration import TEMPLATE_TYPES
from tololo.facility.errors import BadInputError
from tololo.reduction.coadd import Template, combine
from tololo.reduction.coadd_input import CoaddInput, strongest
from tololo.reduction.formats.images import cell_coadd, tract_projection
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.skymap import from_definition
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.stack import MOST_INPUTS


class AssembleTemplateCoaddConnections(
    pipe_base.PipelineTaskConnections, dimensions=("skymap", "tract", "patch", "band")
):
    """Warps in, one coadd out, and what it is made of."""

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
    n_image = ct.Output(
        doc="Number of visits that went into each pixel of the template.",
        name="template_coadd_n_image",
        storageClass="ImageV2",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    input_table = ct.Output(
        doc="Visits that went into the template: weight, seeing, noise, pixels used and clipped.",
        name="template_coadd_inputs",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch", "band"),
    )

    def __init__(self, *, config: Any = None) -> None:
        if config.warp == "psf_matched":
            self.warps = dataclasses.replace(self.warps, name="psf_matched_warp")


class AssembleTemplateCoaddConfig(
    pipe_base.PipelineTaskConfig, pipelineConnections=AssembleTemplateCoaddConnections
):
    """How to combine."""

    method = pex_config.ChoiceField[str](
        doc="How the warps are combined.",
        allowed={name: name for name in TEMPLATE_TYPES},
        default="meanclip",
    )
    warp = pex_config.ChoiceField[str](
        doc="Which warps are combined.",
        allowed={
            "direct": "as the visits have seen the sky",
            "psf_matched": "brought to one seeing, which the pipeline then makes as well",
        },
        default="direct",
    )
    compare_warps = pex_config.Field[bool](
        doc="Leave out what is in one warp and not in the others (trails, asteroids, cosmic rays).",
        default=True,
    )


class AssembleTemplateCoaddTask(pipe_base.PipelineTask):
    """Combine warps; see `tololo.reduction.coadd.combine`."""

    ConfigClass = AssembleTemplateCoaddConfig
    _DefaultName = "assembleTemplateCoadd"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Make one template."""
        data_id = outputRefs.coadd.dataId
        patch = from_definition(butlerQC.get(inputRefs.sky_map))[data_id["tract"]].patch(data_id["patch"])
        inputs, too_many = strongest(_read(handle) for handle in butlerQC.get(inputRefs.warps))
        if not inputs:
            raise pipe_base.NoWorkFound("No warp of this patch has a good pixel")
        if too_many:
            self.log.warning(
                "Only %d visits can be combined; those that add least are left out: %s. max_visits in the "
                "selection leaves them out before they are warped",
                MOST_INPUTS,
                ", ".join(map(str, too_many)),
            )
        template = combine(inputs, patch, self.config.method, compare_warps=self.config.compare_warps)
        metadata = self._metadata(template, patch)
        skymap, planes = data_id["skymap"], template.planes
        image = cell_coadd(planes, template.psfs, skymap, patch.tract, patch, data_id["band"], metadata)
        depth = Image(template.depth, bbox=planes.bbox, sky_projection=tract_projection(skymap, patch.tract))
        self.log.info(
            "Template of %d visits, median depth %.1f, coverage %.3f, clipped %.4f",
            *(len(inputs), metadata["DEPTH"], metadata["COVERAGE"], metadata["CLIPPED"]),
        )
        butlerQC.put(depth, outputRefs.n_image)
        butlerQC.put(template.inputs, outputRefs.input_table)
        butlerQC.put(image, outputRefs.coadd)

    def _metadata(self, template: Template, patch: Patch) -> dict[str, Any]:
        """Say in the header how the template was made and how good it is."""
        covered = template.depth > 0
        clipped = (template.planes.bits[covered] & BIT["CLIPPED"]) != 0
        nights = sorted({int(night) for night in template.inputs["day_obs"]})
        return {
            "METHOD": self.config.method,
            "WARP": self.config.warp,
            "VISITS": ",".join(str(visit) for visit in template.visits),
            "NIGHTS": ",".join(str(night) for night in nights),
            "WEIGHTS": ",".join(f"{weight:.6g}" for weight in template.weights),
            "DEPTH": float(np.median(template.depth[covered])) if covered.any() else 0.0,
            "COVERAGE": template.coverage(patch),
            "CLIPPED": float(clipped.mean()) if clipped.size else 0.0,
        }


def _read(handle: Any) -> CoaddInput:
    """Read a warp; what cannot be read is named."""
    visit = int(handle.dataId["visit"])
    try:
        return CoaddInput.from_cell_coadd(visit, handle.get())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BadInputError(
            f"The warp of visit {visit} cannot be read: {error}",
            f"{handle.ref.datasetType.name} {handle.dataId}, RUN {handle.ref.run}",
            "remove this dataset from its RUN and run the subset `warp` again",
        ) from error

"""Measure how good a template is."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.formats.skymap import from_definition
from tololo.reduction.template_metrics import measure


class MeasureTemplateConnections(
    pipe_base.PipelineTaskConnections, dimensions=("skymap", "tract", "patch", "band")
):
    """A template in, one row out."""

    coadd = ct.Input(
        doc="Template for difference imaging.",
        name="template_coadd",
        storageClass="CellCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    sky_map = ct.PrerequisiteInput(
        doc="Definition of the sky map.",
        name="skyMap",
        storageClass="StructuredDataDict",
        dimensions=("skymap",),
    )
    metrics = ct.Output(
        doc="One row: coverage, depth, seeing, noise, background, clipped pixels.",
        name="template_metrics",
        storageClass="ArrowAstropy",
        dimensions=("skymap", "tract", "patch", "band"),
    )


class MeasureTemplateConfig(pipe_base.PipelineTaskConfig, pipelineConnections=MeasureTemplateConnections):
    """No choices."""


class MeasureTemplateTask(pipe_base.PipelineTask):
    """Measure a template; see `tololo.reduction.template_metrics`."""

    ConfigClass = MeasureTemplateConfig
    _DefaultName = "measureTemplate"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Measure the template of one patch and band."""
        data_id = outputRefs.metrics.dataId
        patch = from_definition(butlerQC.get(inputRefs.sky_map))[data_id["tract"]].patch(data_id["patch"])
        metrics = measure(butlerQC.get(inputRefs.coadd), patch)
        (row,) = metrics
        self.log.info(
            "Seeing %.2f arcsec, depth %.2f, covered %.0f %%, noise %.2f of what is expected",
            row["seeing"],
            row["depth"],
            100 * row["coverage"],
            row["noise_ratio"],
        )
        butlerQC.put(metrics, outputRefs.metrics)

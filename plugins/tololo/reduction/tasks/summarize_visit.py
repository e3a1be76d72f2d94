"""Put the summaries of a visit's detectors into one table."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
from astropy.table import vstack
from lsst.pipe.base import connectionTypes as ct


class SummarizeVisitConnections(pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit")):
    """Detector summaries in, the visit's summary out."""

    summaries = ct.Input(
        doc="One row for each detector.",
        name="detector_summary",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    summary = ct.Output(
        doc="Seeing, zero point, astrometry and noise of the detectors of a visit.",
        name="visit_summary",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit"),
    )


class SummarizeVisitConfig(pipe_base.PipelineTaskConfig, pipelineConnections=SummarizeVisitConnections):
    """No choices."""


class SummarizeVisitTask(pipe_base.PipelineTask):
    """Stack the rows, ordered by detector."""

    ConfigClass = SummarizeVisitConfig
    _DefaultName = "summarizeVisit"
    sums_up = True

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Summarise one visit."""
        handles = sorted(butlerQC.get(inputRefs.summaries), key=lambda handle: handle.dataId["detector"])
        butlerQC.put(
            vstack([handle.get() for handle in handles], metadata_conflicts="silent"), outputRefs.summary
        )

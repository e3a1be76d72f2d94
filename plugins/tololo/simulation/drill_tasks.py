"""Real PipelineTasks of one line each: what they cost is what it costs to run a quantum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lsst.pipe.base as pipe_base
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as ct

from tololo.simulation.drill_faults import note, suffer

_OF_DETECTOR = ("instrument", "visit", "detector")
_OF_VISIT = ("instrument", "visit")


class DrillOneConnections(pipe_base.PipelineTaskConnections, dimensions=_OF_DETECTOR):
    """A number in, the next one out."""

    number = ct.Input(
        doc="The number.", name="drill_number", storageClass="StructuredDataDict", dimensions=_OF_DETECTOR
    )
    answer = ct.Output(
        doc="The next number.", name="drill_one", storageClass="StructuredDataDict", dimensions=_OF_DETECTOR
    )


class DrillConfig(pipe_base.PipelineTaskConfig, pipelineConnections=DrillOneConnections):
    """What goes wrong, and where each execution is noted."""

    faults = Field[str](doc="JSON file of `drill_faults.write_faults`; none if empty.", default="")
    journal = Field[str](doc="File that each execution appends lines to; none if empty.", default="")


class DrillOneTask(pipe_base.PipelineTask):
    """Add one to a detector's number."""

    ConfigClass = DrillConfig
    _DefaultName = "drillOne"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Note the execution, suffer what is asked for, and calculate.

        Raises
        ------
        ValueError
            And whatever else `tololo.simulation.drill_faults.suffer` raises on demand.
        """
        data_id = butlerQC.quantum.dataId
        quantum = self.getName(), int(data_id["visit"]), int(data_id.get("detector", -1))
        journal = Path(self.config.journal) if self.config.journal else None
        if journal is not None:
            note(journal, "began", *quantum)
        if self.config.faults:
            suffer(Path(self.config.faults), journal, *quantum)
        butlerQC.put({"number": self.calculate(butlerQC.get(inputRefs.number))}, outputRefs.answer)
        if journal is not None:
            note(journal, "ended", *quantum)

    def calculate(self, given: Any) -> int:
        """Return the number plus one."""
        return int(given["number"]) + 1


class DrillTwoConnections(pipe_base.PipelineTaskConnections, dimensions=_OF_DETECTOR):
    """The first task's answer in, its double out."""

    number = ct.Input(
        doc="The number.", name="drill_one", storageClass="StructuredDataDict", dimensions=_OF_DETECTOR
    )
    answer = ct.Output(
        doc="Its double.", name="drill_two", storageClass="StructuredDataDict", dimensions=_OF_DETECTOR
    )


class DrillTwoConfig(DrillConfig, pipelineConnections=DrillTwoConnections):
    """As for the first task."""


class DrillTwoTask(DrillOneTask):
    """Double what the first task made of the same detector."""

    ConfigClass = DrillTwoConfig
    _DefaultName = "drillTwo"

    def calculate(self, given: Any) -> int:
        """Return the double."""
        return 2 * int(given["number"])


class DrillGatherConnections(pipe_base.PipelineTaskConnections, dimensions=_OF_VISIT):
    """The numbers of all detectors in, their sum out."""

    number = ct.Input(
        doc="The numbers.",
        name="drill_two",
        storageClass="StructuredDataDict",
        dimensions=_OF_DETECTOR,
        multiple=True,
    )
    answer = ct.Output(
        doc="Their sum.", name="drill_sum", storageClass="StructuredDataDict", dimensions=_OF_VISIT
    )


class DrillGatherConfig(DrillConfig, pipelineConnections=DrillGatherConnections):
    """As for the first task."""


class DrillGatherTask(DrillOneTask):
    """Sum over the detectors of a visit that have a number."""

    ConfigClass = DrillGatherConfig
    _DefaultName = "drillGather"
    sums_up = True

    def calculate(self, given: Any) -> int:
        """Return the sum."""
        return sum(int(number["number"]) for number in given)

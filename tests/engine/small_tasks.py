"""Tasks on a drill's numbers, with what a drill has not: calibrations, half-written outputs, an APDB."""

from __future__ import annotations

import os
import signal
from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from lsst.pex.config import Field
from lsst.pipe.base import connectionTypes as ct
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d

from tololo.reduction.apdb import open_apdb
from tololo.reduction.association import VisitInfo, associate_visit

DIMENSIONS = ("instrument", "visit", "detector")


class NumberConnections(pipe_base.PipelineTaskConnections, dimensions=DIMENSIONS):
    number = ct.Input(
        doc="In.", name="drill_number", storageClass="StructuredDataDict", dimensions=DIMENSIONS
    )
    answer = ct.Output(
        doc="Out.", name="small_answer", storageClass="StructuredDataDict", dimensions=DIMENSIONS
    )


class CalibratedConnections(NumberConnections, dimensions=DIMENSIONS):
    bias = ct.PrerequisiteInput(
        doc="Calibration.",
        name="small_bias",
        storageClass="StructuredDataDict",
        dimensions=("instrument", "detector"),
        isCalibration=True,
    )


class CalibratedConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CalibratedConnections):
    pass


class CalibratedTask(pipe_base.PipelineTask):
    ConfigClass = CalibratedConfig
    _DefaultName = "calibrated"

    def run(self, number: Any, bias: Any) -> pipe_base.Struct:
        return pipe_base.Struct(answer=number)


class PairConnections(NumberConnections, dimensions=DIMENSIONS):
    other = ct.Input(doc="In.", name="small_other", storageClass="StructuredDataDict", dimensions=DIMENSIONS)


class PairConfig(pipe_base.PipelineTaskConfig, pipelineConnections=PairConnections):
    pass


class PairTask(pipe_base.PipelineTask):
    ConfigClass = PairConfig
    _DefaultName = "pair"

    def run(self, number: Any, other: Any) -> pipe_base.Struct:
        return pipe_base.Struct(answer={"number": number["number"] + other["number"]})


class HalfConfig(pipe_base.PipelineTaskConfig, pipelineConnections=NumberConnections):
    pass


class HalfTask(pipe_base.PipelineTask):
    """Write the output of detector 1 and fail after that."""

    ConfigClass = HalfConfig
    _DefaultName = "half"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        butlerQC.put(butlerQC.get(inputRefs.number), outputRefs.answer)
        if butlerQC.quantum.dataId["detector"] == 1:
            raise ValueError("written, then failed")


class SumConnections(pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit")):
    numbers = ct.Input(
        doc="In.",
        name="small_answer",
        storageClass="StructuredDataDict",
        dimensions=DIMENSIONS,
        multiple=True,
        minimum=2,
    )
    answer = ct.Output(
        doc="Out.", name="small_sum", storageClass="StructuredDataDict", dimensions=("instrument", "visit")
    )


class SumConfig(pipe_base.PipelineTaskConfig, pipelineConnections=SumConnections):
    pass


class SumTask(pipe_base.PipelineTask):
    """Sum what at least two detectors made."""

    ConfigClass = SumConfig
    _DefaultName = "sum"

    def run(self, numbers: Any) -> pipe_base.Struct:
        return pipe_base.Struct(answer={"number": sum(number["number"] for number in numbers)})


class StoreConfig(pipe_base.PipelineTaskConfig, pipelineConnections=NumberConnections):
    apdb_config = Field[str](doc="Configuration file of the APDB.", default="")
    killed_before = Field[int](doc="Detector of which the process is killed before it stores.", default=0)
    killed_after = Field[int](doc="The same, after it has stored.", default=0)


class StoreTask(pipe_base.PipelineTask):
    """Store one source of a detector in an APDB without asking whether it is there."""

    ConfigClass = StoreConfig
    _DefaultName = "store"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        visit, detector = (int(butlerQC.quantum.dataId[name]) for name in ("visit", "detector"))
        if detector == self.config.killed_before:
            os.kill(os.getpid(), signal.SIGKILL)
        store(self.config.apdb_config, visit, detector)
        if detector == self.config.killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        butlerQC.put(butlerQC.get(inputRefs.number), outputRefs.answer)


def store(apdb_config: str, visit: int, detector: int) -> None:
    ra, dec = 150.0 + detector, 2.0
    circle = Circle(UnitVector3d(LonLat.fromDegrees(ra, dec)), Angle.fromDegrees(0.1))
    sources = {"diaSourceId": np.array([visit * 100 + detector], dtype=np.int64)}
    sources |= {"ra": np.array([ra]), "dec": np.array([dec])}
    sources |= {name: np.array([100.0]) for name in ("x", "y", "psfFlux", "psfFluxErr")}

    def forced(ra: Any, dec: Any) -> dict[str, Any]:
        names = ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr")
        return {name: np.full(len(ra), 100.0) for name in names}

    apdb = open_apdb(apdb_config)
    associate_visit(apdb, VisitInfo(visit, detector, "g", 58574.2, circle), sources, forced)

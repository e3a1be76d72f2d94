"""Measure how bright the flats of a filter are on each detector."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.errors import NothingToDoError
from tololo.reduction.curated import crosstalk_of, defects_of
from tololo.reduction.flat_levels import load_flats, measure_levels
from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.master_frames import Frames
from tololo.reduction.tasks.calibration_inputs import curated_input, loads_of, optional, valid_for_raws


class FlatInputConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "physical_filter", "detector")
):
    """The raw flats of a detector and filter, and the bias that is valid for them."""

    raws = ct.Input(
        doc="Flats as they were read out.",
        name="raw",
        storageClass="ImageV2",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    bias = ct.PrerequisiteInput(
        doc="Structure above the overscan, ADU.",
        name="bias",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "detector"),
        isCalibration=True,
        multiple=True,
        deferLoad=True,
        minimum=0,  # a detector without a bias is left out, and the others go on
        lookupFunction=valid_for_raws,
    )
    crosstalk = curated_input(
        "crosstalk",
        "What each amplifier gets of the other; what comes from other CCDs is evenly lit and left.",
        for_raws=True,
    )
    defects = curated_input("defects", "Pixels that are known to be bad.", for_raws=True)


class FlatInputConfig(pipe_base.PipelineTaskConfig, pipelineConnections=FlatInputConnections):
    """No choices of the reading."""


class FlatInputTask(pipe_base.PipelineTask):
    """What measuring and combining flats have in common: the reading."""

    ConfigClass = FlatInputConfig
    _DefaultName = "flatInput"
    config: FlatInputConfig

    def load(self, butlerQC: Any, inputRefs: Any) -> tuple[Frames, Planes]:
        """Read the flats of one detector and the bias, ADU, that was subtracted from them.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            There is no bias, or no flat that can be read.
        """
        if not inputRefs.bias:
            detector = inputRefs.raws[0].dataId["detector"]
            raise pipe_base.NoWorkFound(f"No bias is valid for the flats of detector {detector}")
        bias = planes_of(butlerQC.get(inputRefs.bias)[0].get())
        known = defects_of(optional(butlerQC, inputRefs, "defects"), bias.image.shape)
        bad = ((bias.bits & BIT["BAD"]) != 0) | known
        crosstalk = crosstalk_of(optional(butlerQC, inputRefs, "crosstalk"))
        try:
            found = load_flats(loads_of(butlerQC.get(inputRefs.raws)), bias.image, bad, crosstalk)
        except NothingToDoError as error:
            raise pipe_base.NoWorkFound(str(error)) from error
        return found, bias


class MeasureFlatConnections(FlatInputConnections, dimensions=("instrument", "physical_filter", "detector")):
    """Flats in, their levels out."""

    levels = ct.Output(
        doc="One row for each exposure and amplifier: level, saturated pixels.",
        name="flat_levels",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "physical_filter", "detector"),
    )


class MeasureFlatConfig(FlatInputConfig, pipelineConnections=MeasureFlatConnections):
    """No further choices."""


class MeasureFlatTask(FlatInputTask):
    """Levels of flats; see `tololo.reduction.flat_levels.measure_levels`."""

    ConfigClass = MeasureFlatConfig
    _DefaultName = "measureFlat"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Measure the flats of one detector."""
        found, _ = self.load(butlerQC, inputRefs)
        butlerQC.put(measure_levels(found), outputRefs.levels)

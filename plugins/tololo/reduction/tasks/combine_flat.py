"""Combine the flats of a night into the master flat of each detector and filter."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
from astropy import units as u
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.errors import NothingToDoError
from tololo.reduction.master import master_image
from tololo.reduction.master_flat import combine_flat
from tololo.reduction.tasks.calibration_inputs import header_of
from tololo.reduction.tasks.measure_flat import FlatInputConfig, FlatInputConnections, FlatInputTask


class CombineFlatConnections(FlatInputConnections, dimensions=("instrument", "physical_filter", "detector")):
    """The raw flats of a detector and the scales of the focal plane in, one master out."""

    scales = ct.Input(
        doc="Level of each flat on each detector, and response of the detectors.",
        name="flat_scales",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "physical_filter"),
    )
    flat = ct.Output(
        doc="Response relative to the mean over the focal plane; defects are BAD.",
        name="flat",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "physical_filter", "detector"),
        isCalibration=True,
    )
    metrics = ct.Output(
        doc="One row for each amplifier: counts, gain, illumination, defects, which inputs were used.",
        name="flat_metrics",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "physical_filter", "detector"),
    )


class CombineFlatConfig(FlatInputConfig, pipelineConnections=CombineFlatConnections):
    """What is left out, and what is a defect."""

    n_sigma = pex_config.RangeField[float](
        doc="Standard deviations beyond which a pixel of an input is left out.", default=4.0, min=2.0
    )
    min_inputs = pex_config.RangeField[int](doc="Fewer good inputs are not combined.", default=3, min=2)
    low_pixel = pex_config.RangeField[float](
        doc="Relative deviation of a bad pixel from its surroundings.", default=0.5, min=0.0
    )
    low_column = pex_config.RangeField[float](
        doc="Relative deviation of a bad piece of a column from its neighbours.", default=0.1, min=0.0
    )


class CombineFlatTask(FlatInputTask):
    """Clipped mean of scaled flats; see `tololo.reduction.master_flat`."""

    ConfigClass = CombineFlatConfig
    _DefaultName = "combineFlat"
    config: CombineFlatConfig

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Combine the flats of one detector and filter."""
        found, bias = self.load(butlerQC, inputRefs)
        try:
            master = combine_flat(
                found,
                butlerQC.get(inputRefs.scales),
                bias.variance,
                n_sigma=self.config.n_sigma,
                min_inputs=self.config.min_inputs,
                low_pixel=self.config.low_pixel,
                low_column=self.config.low_column,
            )
        except NothingToDoError as error:
            raise pipe_base.NoWorkFound(str(error)) from error
        glass, detector = outputRefs.flat.dataId["physical_filter"], int(outputRefs.flat.dataId["detector"])
        self.log.info(
            "Filter %s, detector %d: flat of %d exposures, gains %s e-/ADU",
            glass,
            detector,
            master.metrics["n_used"][0],
            ", ".join(f"{gain:.3f}" for gain in master.metrics["gain"]),
        )
        for exposure, reason in master.refused.items():
            self.log.warning("Detector %d: exposure %d is left out: %s", detector, exposure, reason)
        metadata = header_of(
            master.metrics,
            CCDNUM=detector,
            FILTER=glass,
            BIASRUN=inputRefs.bias[0].run,
            RESPONSE=float(master.metrics["response"][0]),
            NDETECT=int(master.metrics["n_detectors"][0]),
        )
        butlerQC.put(master_image(master.planes, u.dimensionless_unscaled, metadata), outputRefs.flat)
        butlerQC.put(master.metrics, outputRefs.metrics)

"""Combine the biases of a night into the master bias of each detector."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
from astropy import units as u
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.errors import NothingToDoError
from tololo.reduction.curated import defects_of
from tololo.reduction.master import master_image
from tololo.reduction.master_bias import combine_bias
from tololo.reduction.tasks.calibration_inputs import curated_input, header_of, loads_of, optional


class CombineBiasConnections(pipe_base.PipelineTaskConnections, dimensions=("instrument", "detector")):
    """The raw biases of a detector in, one master out."""

    raws = ct.Input(
        doc="Biases as they were read out.",
        name="raw",
        storageClass="ImageV2",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    defects = curated_input("defects", "Pixels that are known to be bad.", for_raws=True)
    bias = ct.Output(
        doc="Structure above the overscan, ADU; pixels known or found to be bad are BAD.",
        name="bias",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "detector"),
        isCalibration=True,
    )
    metrics = ct.Output(
        doc="One row for each amplifier: read noise, structure, defects, which inputs were used.",
        name="bias_metrics",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "detector"),
    )


class CombineBiasConfig(pipe_base.PipelineTaskConfig, pipelineConnections=CombineBiasConnections):
    """What is left out, and what is a defect."""

    n_sigma = pex_config.RangeField[float](
        doc="Standard deviations beyond which a pixel of an input is left out.", default=4.0, min=2.0
    )
    min_inputs = pex_config.RangeField[int](doc="Fewer good inputs are not combined.", default=3, min=2)
    hot_pixel = pex_config.RangeField[float](
        doc="Read noises by which a bad pixel lies off its surroundings.", default=10.0, min=0.0
    )
    hot_column = pex_config.RangeField[float](
        doc="Read noises by which a bad piece of a column lies off its neighbours.", default=3.0, min=0.0
    )


class CombineBiasTask(pipe_base.PipelineTask):
    """Clipped mean of biases; see `tololo.reduction.master_bias`."""

    ConfigClass = CombineBiasConfig
    _DefaultName = "combineBias"
    config: CombineBiasConfig

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Combine the biases of one detector."""
        config = self.config
        known = optional(butlerQC, inputRefs, "defects")
        try:
            master = combine_bias(
                loads_of(butlerQC.get(inputRefs.raws)),
                defects_of(known),
                n_sigma=config.n_sigma,
                min_inputs=config.min_inputs,
                hot_pixel=config.hot_pixel,
                hot_column=config.hot_column,
            )
        except NothingToDoError as error:
            raise pipe_base.NoWorkFound(str(error)) from error
        detector = int(outputRefs.bias.dataId["detector"])
        self.log.info(
            "Detector %d: bias of %d exposures, read noise %s e-",
            detector,
            master.metrics["n_used"][0],
            ", ".join(f"{noise:.2f}" for noise in master.metrics["read_noise"]),
        )
        for exposure, reason in master.refused.items():
            self.log.warning("Detector %d: exposure %d is left out: %s", detector, exposure, reason)
        butlerQC.put(
            master_image(master.planes, u.adu, header_of(master.metrics, CCDNUM=detector)), outputRefs.bias
        )
        butlerQC.put(master.metrics, outputRefs.metrics)

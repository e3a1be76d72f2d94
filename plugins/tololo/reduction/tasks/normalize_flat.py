"""Separate the brightness of the flats of a filter from the response of the detectors."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
from astropy.table import vstack
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.errors import NothingToDoError
from tololo.reduction.flat_levels import scale_flats


class NormalizeFlatConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "physical_filter")
):
    """Levels of all detectors in, one table for the focal plane out."""

    levels = ct.Input(
        doc="Levels of the flats on each amplifier of a detector.",
        name="flat_levels",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "physical_filter", "detector"),
        multiple=True,
        deferLoad=True,
    )
    scales = ct.Output(
        doc="One row for each exposure and detector: level, response, whether the flat is used and why not.",
        name="flat_scales",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "physical_filter"),
    )


class NormalizeFlatConfig(pipe_base.PipelineTaskConfig, pipelineConnections=NormalizeFlatConnections):
    """Which flats are good."""

    min_counts = pex_config.RangeField[float](
        doc="Fainter flats are left out, electrons.", default=5000.0, min=0.0
    )
    max_saturated = pex_config.RangeField[float](
        doc="Flats with a larger fraction of saturated pixels are left out.", default=0.01, min=0.0, max=1.0
    )


class NormalizeFlatTask(pipe_base.PipelineTask):
    """The focal plane's flats as a whole; see `tololo.reduction.flat_levels.scale_flats`."""

    ConfigClass = NormalizeFlatConfig
    _DefaultName = "normalizeFlat"
    config: NormalizeFlatConfig

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Scale the flats of one filter."""
        levels = vstack(
            [handle.get() for handle in butlerQC.get(inputRefs.levels)], metadata_conflicts="silent"
        )
        try:
            scales = scale_flats(
                levels, min_counts=self.config.min_counts, max_saturated=self.config.max_saturated
            )
        except NothingToDoError as error:
            raise pipe_base.NoWorkFound(str(error)) from error
        for row in scales[~scales["used"]]:
            self.log.warning(
                "Exposure %d, detector %d is left out: %s", row["exposure"], row["detector"], row["reason"]
            )
        butlerQC.put(scales, outputRefs.scales)

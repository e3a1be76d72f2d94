"""Forced photometry of a detector at all diaObjects known after its night."""

from __future__ import annotations

from typing import Any

import lsst.pipe.base as pipe_base
import numpy as np
from astropy.table import Table
from lsst.images import DifferenceImage, VisitImage
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.forced import ForcedImages
from tololo.reduction.formats.images import VisitContext
from tololo.reduction.formats.obs_info import visit_of


class ForcedPhotDiaObjectConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit", "detector")
):
    """Images and diaObjects in, fluxes out."""

    difference = ct.Input(
        doc="Difference image.",
        name="difference_image",
        storageClass="DifferenceImage",
        dimensions=("instrument", "visit", "detector"),
    )
    visit_image = ct.Input(
        doc="Visit image.",
        name="visit_image",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
    )
    objects = ct.Input(
        doc="diaObjects of the night.",
        name="dia_object",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "day_obs"),
    )
    fluxes = ct.Output(
        doc="Fluxes at all diaObjects on the detector, detected or not.",
        name="forced_source",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
    )


class ForcedPhotDiaObjectConfig(
    pipe_base.PipelineTaskConfig, pipelineConnections=ForcedPhotDiaObjectConnections
):
    """No choices."""


class ForcedPhotDiaObjectTask(pipe_base.PipelineTask):
    """Fit the PSF at the positions of diaObjects; see `tololo.reduction.forced`."""

    ConfigClass = ForcedPhotDiaObjectConfig
    _DefaultName = "forcedPhotDiaObject"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Measure one detector."""
        inputs = butlerQC.get(inputRefs)
        table = self.measure(inputs["difference"], inputs["visit_image"], inputs["objects"])
        table.meta.clear()
        butlerQC.put(table, outputRefs.fluxes)

    def measure(self, difference: DifferenceImage, visit_image: VisitImage, objects: Table) -> Table:
        """Return the table of forced fluxes (columns as `tololo.reduction.forced` gives them, and ids)."""
        context = VisitContext.from_visit_image(visit_image)
        fluxes = ForcedImages.of(difference, visit_image).measure(objects["ra"], objects["dec"])
        inside = np.asarray(fluxes["on_image"], dtype=bool)
        table = fluxes[inside]
        table.remove_column("on_image")
        ids: dict[str, Any] = {
            "diaObjectId": np.asarray(objects["diaObjectId"])[inside],
            "visit": np.int64(visit_of(context.obs_info)),
            "detector": np.int16(context.detector),
            "band": context.band,
            "midpointMjdTai": context.midpoint_mjd_tai,
            "ra": np.asarray(objects["ra"])[inside],
            "dec": np.asarray(objects["dec"])[inside],
        }
        for position, (name, value) in enumerate(ids.items()):
            column = value if np.ndim(value) else np.full(len(table), value)
            table.add_column(column, name=name, index=position)
        return table

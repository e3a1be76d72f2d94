"""Calibrate one detector of an exposure with injected sources.

The injected visit has the dataset types of the visit without them, so it can be no input here: a task may not
read what it writes. Each quantum calibrates its detector twice instead. The first time gives PSF, projection
and zero point, with which the sources are drawn into the archive's own pixels; the second time all of the
calibration sees them: cosmic rays, background, detection, PSF and reference stars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import lsst.pipe.base as pipe_base
import numpy as np
from lsst.daf.butler import DatasetRef
from lsst.pipe.base import DeferredDatasetRef, InMemoryDatasetHandle
from lsst.pipe.base import connectionTypes as ct

from tololo.reduction.formats.images import planes_of
from tololo.reduction.formats.instcal import instcal_pixels
from tololo.reduction.formats.raw import raw_detector
from tololo.reduction.injection import Added, Placed, Scene, marked, stacked, truth_table
from tololo.reduction.injection_pixels import add_to_instcal, add_to_raw
from tololo.reduction.tasks.calibrate_instcal import (
    CalibrateInstcalConfig,
    CalibrateInstcalConnections,
    CalibrateInstcalTask,
)
from tololo.reduction.tasks.calibrate_visit import (
    CalibrateVisitConfig,
    CalibrateVisitConnections,
    CalibrateVisitTask,
)


class InjectionConnections(pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit", "detector")):
    """What injection reads and writes beside what calibration does."""

    injection_catalogs = ct.PrerequisiteInput(
        doc="Sources to inject.",
        name="injection_catalog",
        storageClass="ArrowAstropy",
        dimensions=("htm7", "band"),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )
    truth = ct.Output(
        doc="What was injected, where, how bright, and whether it could be measured.",
        name="injected_source",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
    )


class InjectVisitConnections(
    InjectionConnections, CalibrateVisitConnections, dimensions=("instrument", "visit", "detector")
):
    """A raw, calibrations, reference stars and sources to inject in; a calibrated image and the truth out."""


class InjectInstcalConnections(
    InjectionConnections, CalibrateInstcalConnections, dimensions=("instrument", "visit", "detector")
):
    """InstCal's planes, reference stars and sources to inject in; a calibrated image and the truth out."""


class InjectVisitConfig(CalibrateVisitConfig, pipelineConnections=InjectVisitConnections):
    """As without injected sources."""


class InjectInstcalConfig(CalibrateInstcalConfig, pipelineConnections=InjectInstcalConnections):
    """As without injected sources."""


class Rehearsal(pipe_base.QuantumContext):
    """What a task sees as the Butler in one of its two passes: other inputs, and outputs that are kept here.

    Parameters
    ----------
    context : `lsst.pipe.base.QuantumContext`
        The quantum's own.
    instead : mapping from `uuid.UUID`, optional
        By id of the dataset, what is read in its place.

    Attributes
    ----------
    made : `dict` [`str`]
        By dataset type, what the task would have written.
    """

    def __init__(self, context: Any, instead: Mapping[UUID, Any] | None = None) -> None:
        self.context, self.instead = context, instead or {}
        self.made: dict[str, Any] = {}
        self.resources = context.resources

    def _get(self, ref: Any) -> Any:
        if isinstance(ref, DeferredDatasetRef) and ref.datasetRef.id in self.instead:
            found = self.instead[ref.datasetRef.id]
            kind = ref.datasetType.storageClass
            return InMemoryDatasetHandle(found, dataId=ref.datasetRef.dataId, storageClass=kind)
        if isinstance(ref, DatasetRef) and ref.id in self.instead:
            return self.instead[ref.id]
        return self.context.get(ref)

    def _put(self, value: Any, ref: DatasetRef) -> None:
        self.made[ref.datasetType.name] = value


class InjectVisitTask(CalibrateVisitTask):
    """Raws: sources go into the counts, through the flat field, the gain and the full well."""

    ConfigClass = InjectVisitConfig
    _DefaultName = "injectVisit"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Calibrate one detector without and with sources."""

        def add(scene: Scene, placed: Placed, where: str) -> tuple[dict[UUID, Any], Added]:
            (own,) = (ref for ref in inputRefs.raw if ref.datasetRef.dataId["detector"] == scene.detector)
            image = butlerQC.get(own).get()
            flat = planes_of(butlerQC.get(inputRefs.flat)).image
            brighter = image.copy()
            brighter.array[...], added = add_to_raw(raw_detector(image, where), flat, scene, placed)
            return {own.datasetRef.id: brighter}, added

        inject(super().runQuantum, add, butlerQC, inputRefs, outputRefs)


class InjectInstcalTask(CalibrateInstcalTask):
    """InstCal: sources go into the image, and their noise into the weights."""

    ConfigClass = InjectInstcalConfig
    _DefaultName = "injectInstcal"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Calibrate one detector without and with sources."""
        refs = (inputRefs.image, inputRefs.weight, inputRefs.mask)

        def add(scene: Scene, placed: Placed, where: str) -> tuple[dict[UUID, Any], Added]:
            image, weight, mask = (butlerQC.get(ref) for ref in refs)
            pixels = instcal_pixels(image, weight, mask, where)
            brighter, added = add_to_instcal(pixels, (image, weight, mask), scene, placed)
            return {ref.id: plane for ref, plane in zip(refs, brighter, strict=True)}, added

        inject(super().runQuantum, add, butlerQC, inputRefs, outputRefs)


def inject(
    calibrate: Callable[[Any, Any, Any], None],
    add: Callable[[Scene, Placed, str], tuple[dict[UUID, Any], Added]],
    butlerQC: Any,
    inputRefs: Any,
    outputRefs: Any,
) -> None:
    """Calibrate a detector, add the sources to its pixels, calibrate it again, and write that and the truth.

    Parameters
    ----------
    calibrate : callable
        `runQuantum` of the task that calibrates a detector.
    add : callable
        Adds sources to its pixels; returns, by id of the dataset, what is to be read instead, and what was
        added.
    butlerQC, inputRefs, outputRefs
        As `runQuantum` gets them.
    """
    data_id = outputRefs.truth.dataId
    where = f"visit {data_id['visit']}, detector {data_id['detector']}"
    image_type, row_type = (ref.datasetType.name for ref in (outputRefs.calibrated, outputRefs.summary))
    last = Rehearsal(butlerQC)
    calibrate(last, inputRefs, outputRefs)
    scene = Scene.of(last.made[image_type], int(data_id["visit"]))
    placed = scene.place(stacked(handle.get() for handle in butlerQC.get(inputRefs.injection_catalogs)))
    added = Added(np.empty(0), np.empty(0, bool))
    if len(placed):
        instead, added = add(scene, placed, where)
        last = Rehearsal(butlerQC, instead)
        calibrate(last, inputRefs, outputRefs)
    image, row = last.made[image_type], last.made[row_type]
    row["n_injected"] = [len(placed)]
    made = last.made | {
        image_type: marked(image, placed),
        outputRefs.truth.datasetType.name: truth_table(scene, image, placed, added),
    }
    for _, ref in outputRefs:
        if ref.datasetType.name in made:
            butlerQC.put(made[ref.datasetType.name], ref)

"""Inject sources into a calibrated detector and make its difference image, in one step.

A task may not read what it writes, so injected visits cannot be made of visits under the same name. Nobody
keeps them, either: what is asked for is whether the sources are found on the difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lsst.daf.butler import DatasetRef

from tololo.reduction.injection import Added, Placed, Scene, marked, stacked, truth_table
from tololo.reduction.injection_pixels import add_to_visit
from tololo.reduction.tasks.difference_detector import (
    DifferenceDetectorConfig,
    DifferenceDetectorConnections,
    DifferenceDetectorTask,
)
from tololo.reduction.tasks.inject_visit import InjectionConnections, Rehearsal


class InjectDifferenceConnections(
    InjectionConnections,
    DifferenceDetectorConnections,
    dimensions=("instrument", "visit", "detector", "skymap"),
):
    """What difference imaging reads and sources to inject in; the same products and the truth out."""


class InjectDifferenceConfig(DifferenceDetectorConfig, pipelineConnections=InjectDifferenceConnections):
    """As without injected sources."""


class InjectDifferenceTask(DifferenceDetectorTask):
    """Sources go into the visit image in memory, with its PSF, projection, zero point and noise.

    What is written is what difference imaging of such a visit writes, with the mask planes of injected
    sources on the difference image, and the truth. The truth comes last: a detector that has it is complete.
    """

    ConfigClass = InjectDifferenceConfig
    _DefaultName = "injectDifference"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Inject, and difference what comes of it."""
        scene = Scene.of(butlerQC.get(inputRefs.science), int(outputRefs.truth.dataId["visit"]))
        placed = scene.place(stacked(handle.get() for handle in butlerQC.get(inputRefs.injection_catalogs)))
        image, added = scene.image, Added(np.empty(0), np.empty(0, bool))
        if len(placed):
            image, added = add_to_visit(scene, placed)
        else:
            self.log.info("No source of the catalogue has light on this detector")
        instead = Injected(
            butlerQC, {inputRefs.science.id: marked(image, placed)}, outputRefs.difference, placed
        )
        super().runQuantum(instead, inputRefs, outputRefs)
        butlerQC.put(truth_table(scene, image, placed, added), outputRefs.truth)


class Injected(Rehearsal):
    """What difference imaging sees as the Butler: the visit with sources; its difference image is marked.

    Parameters
    ----------
    context : `lsst.pipe.base.QuantumContext`
        The quantum's own, to which products go.
    instead
        As in `Rehearsal`.
    difference : `lsst.daf.butler.DatasetRef`
        Of the difference image.
    placed : `Placed`
    """

    def __init__(self, context: Any, instead: Any, difference: DatasetRef, placed: Placed) -> None:
        super().__init__(context, instead)
        self.difference, self.placed = difference, placed

    def _put(self, value: Any, ref: DatasetRef) -> None:
        self.context.put(marked(value, self.placed) if ref.id == self.difference.id else value, ref)

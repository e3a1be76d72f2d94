"""One detector of a simulated night, from the template's patches to the compressed difference image."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tololo.reduction.difference import Difference, DifferenceSettings, difference
from tololo.reduction.forced import ForcedImages
from tololo.reduction.formats.compact_formatter import write_image
from tololo.reduction.formats.images import VisitContext, detector_image, difference_image
from tololo.reduction.template import DetectorTemplate, bring_template
from tololo.simulation.one_detector import OneDetector
from tololo.simulation.plan import Plan, PlannedExposure

DETECTOR, SHAPE = 28, (4094, 2046)
"""CCDNUM, and its pixels."""

MATCH = 2.5
"""Pixels between a transient and its detection."""

WARP, SUBTRACT, FORCED, WRITE = (
    "template to detector",
    "subtraction, detection, measurement",
    "forced photometry",
    "compressed output",
)
FORCED_POSITIONS = 1000

PLAN = Plan(
    exposures=(
        PlannedExposure(20190305),
        PlannedExposure(20190306),
        PlannedExposure(20190309),
        PlannedExposure(20190402, science=True),
    ),
    detectors=(DETECTOR,),
    shape=SHAPE,
    origin=(0, 0),
    galaxies=600,
    transients=150,
    snr=(8.0, 90.0),
)


class Detector:
    """The detector on its way through the chain, over and over."""

    def __init__(self, folder: Path) -> None:
        self.inputs = OneDetector.simulate(folder, PLAN)
        self.last: Difference | None = None

    def difference(self, timed: Callable[..., Any]) -> None:
        """Do the whole chain; ``timed`` is given the name of each step and what does it."""
        science, stars = self.inputs.image, self.inputs.stars
        template: DetectorTemplate | None = timed(WARP, lambda: bring_template(science, self.inputs.coadds))
        assert template is not None
        result: Difference = timed(
            SUBTRACT, lambda: difference(science, stars, template, DifferenceSettings())
        )
        context = VisitContext.from_visit_image(science)
        image = difference_image(result.planes, result.psf, context, science.summary_stats, result.metadata)
        rng = np.random.default_rng(1)
        sky = science.sky_projection.pixel_to_sky(
            x=rng.uniform(0, SHAPE[1], FORCED_POSITIONS), y=rng.uniform(0, SHAPE[0], FORCED_POSITIONS)
        )
        timed(FORCED, lambda: ForcedImages.of(image, science).measure(sky.ra.deg, sky.dec.deg))
        templates = detector_image(template.planes, context, {"FWHM": template.fwhm})
        timed(WRITE, lambda: _write(image, templates))
        self.last = result

    def quality(self) -> dict[str, Any]:
        """Compare the sources with what was put in."""
        assert self.last is not None
        sources, transients = self.last.sources, self.inputs.transients
        good = sources[(sources["rejection"] == "") & (np.asarray(sources["reliability"]) >= 0.5)]
        apart = np.hypot(
            np.asarray(transients["x"])[:, None] - np.asarray(good["x"]),
            np.asarray(transients["y"])[:, None] - np.asarray(good["y"]),
        )
        seen = apart.min(axis=1) < MATCH if len(good) else np.zeros(len(transients), bool)
        bright = np.asarray(transients["snr"]) > 10
        return {
            "noise_over_expected": round(self.last.metadata["NOISE RATIO"], 4),
            "score_scatter": round(self.last.metadata["SCORE SCATTER"], 4),
            "transients": len(transients),
            "completeness_above_10_sigma": round(float(seen[bright].mean()), 3),
            "false_positives": int(np.count_nonzero(apart.min(axis=0) > MATCH)) if len(good) else 0,
            "detections": len(sources),
            "forced_positions": FORCED_POSITIONS,
        }


def _write(*images: Any) -> None:
    """Write images as the Butler's formatter does."""
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            write_image(image, f"{folder}/{number}.fits")

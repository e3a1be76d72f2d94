"""One detector of a simulated night, from the template's patches to the compressed difference image."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.table import Table
from lsst.images import VisitImage
from lsst.images.cells import CellCoadd
from lsst.images.serialization import write_archive

from tololo.reduction.calibrate import calibrate
from tololo.reduction.coadd import combine
from tololo.reduction.coadd_input import CoaddInput
from tololo.reduction.difference import Difference, DifferenceSettings, difference
from tololo.reduction.forced import ForcedImages
from tololo.reduction.formats.compact_formatter import _steps
from tololo.reduction.formats.images import (
    VisitContext,
    cell_coadd,
    detector_image,
    difference_image,
    visit_image,
)
from tololo.reduction.formats.instcal import read_instcal
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.reduction.formats.obs_info import midpoint_mjd_tai
from tololo.reduction.formats.refcat import read_refcat
from tololo.reduction.formats.skymap import RingsSkyMap
from tololo.reduction.formats.tract import Patch
from tololo.reduction.patch_warp import overlap_box, warp_visit
from tololo.reduction.references import references_on
from tololo.reduction.template import DetectorTemplate, bring_template
from tololo.simulation.instcal import simulate_nights
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


@dataclass
class Detector:
    """A calibrated science image, its stars, the template's patches and the transients that are in it."""

    image: VisitImage
    stars: Table
    coadds: list[tuple[CellCoadd, Patch]]
    transients: Table
    last: Difference | None = field(default=None)

    @classmethod
    def of(cls, folder: Path) -> Detector:
        """Simulate a night, calibrate its visits and make the template."""
        truth = simulate_nights(folder, plan=PLAN)
        shards = [read_refcat(truth.reference)]
        calibrated = {e.expnum: _calibrated(e, shards) for e in find_instcal(truth.images).triples}
        science = next(int(row["visit"]) for row in truth.exposures if row["science"])
        image, stars = calibrated.pop(science)
        found = truth.transients
        return cls(image, stars, _coadds(image, calibrated), found[found["visit"] == science])

    def difference(self, timed: Callable[..., Any]) -> None:
        """Do the whole chain; ``timed`` is given the name of each step and what does it."""
        template: DetectorTemplate | None = timed(WARP, lambda: bring_template(self.image, self.coadds))
        assert template is not None
        result: Difference = timed(
            SUBTRACT, lambda: difference(self.image, self.stars, template, DifferenceSettings())
        )
        context = VisitContext.from_visit_image(self.image)
        image = difference_image(
            result.planes, result.psf, context, self.image.summary_stats, result.metadata
        )
        rng = np.random.default_rng(1)
        sky = self.image.sky_projection.pixel_to_sky(
            x=rng.uniform(0, SHAPE[1], FORCED_POSITIONS), y=rng.uniform(0, SHAPE[0], FORCED_POSITIONS)
        )
        timed(FORCED, lambda: ForcedImages.of(image, self.image).measure(sky.ra.deg, sky.dec.deg))
        templates = detector_image(template.planes, context, {"FWHM": template.fwhm})
        timed(WRITE, lambda: _write(image, templates))
        self.last = result

    def quality(self) -> dict[str, Any]:
        """Compare the sources with what was put in."""
        assert self.last is not None
        sources = self.last.sources
        good = sources[(sources["rejection"] == "") & (np.asarray(sources["reliability"]) >= 0.5)]
        apart = np.hypot(
            np.asarray(self.transients["x"])[:, None] - np.asarray(good["x"]),
            np.asarray(self.transients["y"])[:, None] - np.asarray(good["y"]),
        )
        seen = apart.min(axis=1) < MATCH if len(good) else np.zeros(len(self.transients), bool)
        bright = np.asarray(self.transients["snr"]) > 10
        return {
            "noise_over_expected": round(self.last.metadata["NOISE RATIO"], 4),
            "score_scatter": round(self.last.metadata["SCORE SCATTER"], 4),
            "transients": len(self.transients),
            "completeness_above_10_sigma": round(float(seen[bright].mean()), 3),
            "false_positives": int(np.count_nonzero(apart.min(axis=0) > MATCH)) if len(good) else 0,
            "detections": len(sources),
            "forced_positions": FORCED_POSITIONS,
        }


def _calibrated(exposure: Any, shards: list[Table]) -> tuple[VisitImage, Table]:
    """Calibrate the detector of an exposure."""
    ccd = exposure.detectors[0]
    pixels = read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, DETECTOR)
    info = ObservationInfo(dict(pixels.header), pedantic=False, translator_class=None)
    moment = midpoint_mjd_tai(info)
    references = references_on(shards, pixels.wcs, pixels.image.shape, exposure.band, moment)
    result = calibrate(pixels, references, f"visit {info.visit_id}")
    context = VisitContext.from_wcs(result.wcs, pixels.image.shape, DETECTOR, exposure.band, info)
    image = visit_image(result.planes, result.psf, context, result.stats, result.njy_per_adu, {})
    return image, result.stars


def _coadds(
    science: VisitImage, visits: dict[int, tuple[VisitImage, Table]]
) -> list[tuple[CellCoadd, Patch]]:
    """Return the templates of the patches that the science image reaches."""
    sky_map = RingsSkyMap(numRings=120, tractOverlap=1 / 60)
    ny, nx = science.image.array.shape
    corners = science.sky_projection.pixel_to_sky(
        x=np.array([0.0, nx - 1, nx - 1, 0]), y=np.array([0.0, 0, ny - 1, ny - 1])
    )
    found = []
    for patch in sky_map.find_patches((corners.ra.deg, corners.dec.deg)):
        if overlap_box(science, patch) is None:
            continue
        warps = {visit: warp_visit([image], patch) for visit, (image, _) in visits.items()}
        inputs = [
            CoaddInput(visit, warp.planes, warp.psfs)
            for visit, warp in warps.items()
            if warp is not None and not warp.planes.bad.all()
        ]
        if not inputs:
            continue
        template = combine(inputs, patch, "meanclip")
        metadata = {"VISITS": ",".join(map(str, template.visits)), "NIGHTS": "20190305"}
        coadd = cell_coadd(
            template.planes, template.psfs, "decam_rings", patch.tract, patch, science.band, metadata
        )
        found.append((coadd, patch))
    return found


def _write(*images: Any) -> None:
    """Write images as the Butler's formatter does."""
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            write_archive(
                image, f"{folder}/{number}.fits", compression_options=_steps(image), compression_seed=1
            )

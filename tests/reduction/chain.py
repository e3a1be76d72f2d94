"""The reduction from InstCal files to difference images in one process, step by step as the tasks do it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.table import Table
from lsst.images import DifferenceImage, VisitImage
from lsst.images.cells import CellCoadd
from numpy.typing import NDArray

from real_data import FIELD
from tololo.reduction.calibrate import CalibratedDetector, calibrate
from tololo.reduction.coadd import Template, combine
from tololo.reduction.coadd_input import CoaddInput
from tololo.reduction.formats.images import Planes, VisitContext, cell_coadd, planes_of, visit_image
from tololo.reduction.formats.instcal import InstcalPixels, read_instcal
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.refcat import read_refcat
from tololo.reduction.formats.skymap import RingsSkyMap
from tololo.reduction.formats.tract import Patch
from tololo.reduction.kernels.stack import Method
from tololo.reduction.patch_warp import overlap_box, to_cell_coadd, warp_visit
from tololo.reduction.references import References, references_on
from tololo.reduction.tasks.difference_detector import DifferenceDetectorConfig, DifferenceDetectorTask
from tololo.simulation.truth import Truth

REAL = FIELD
SKYMAP = RingsSkyMap(numRings=120, tractOverlap=1 / 60, patchInnerDimensions=(2000, 2000), patchBorder=100)
NAME = "decam_rings"


@dataclass
class Detector:
    """A calibrated detector and what it was made from."""

    pixels: InstcalPixels
    references: References
    calibrated: CalibratedDetector
    image: VisitImage

    @property
    def visit(self) -> int:
        return int(self.image.obs_info.visit_id)

    @property
    def key(self) -> tuple[int, int]:
        return self.visit, self.image.detector.id

    @property
    def stars(self) -> Table:
        return self.calibrated.stars

    @property
    def summary(self) -> dict[str, Any]:
        return self.calibrated.summary

    @property
    def night(self) -> int:
        return int(self.image.obs_info.observing_day)


@dataclass
class Subtracted:
    """A difference image with its sources, and the template that was subtracted."""

    science: Detector
    template: Planes
    image: DifferenceImage
    sources: Table

    @cached_property
    def planes(self) -> Planes:
        return planes_of(self.image)

    @property
    def accepted(self) -> Table:
        """Sources that would enter the APDB."""
        good = (self.sources["rejection"] == "") & (self.sources["reliability"] >= 0.5)
        return self.sources[np.asarray(good)]

    @property
    def pull(self) -> NDArray[np.float64]:
        """Difference over noise, NaN on masked pixels."""
        spoiled = BIT["SATURATED_TEMPLATE"] | BIT["SUSPECT"]
        bad = self.planes.bad | ((self.planes.bits & spoiled) != 0)
        with np.errstate(invalid="ignore"):
            return np.where(bad, np.nan, self.planes.image / np.sqrt(self.planes.variance))


def robust_scatter(values: NDArray[np.floating]) -> float:
    """Return 1.4826 times the median absolute deviation of what is finite."""
    finite = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(finite - np.median(finite))))


@dataclass
class Chain:
    """The exposures of a folder, each step done once and kept."""

    folder: Path
    catalogue: Path
    _detectors: dict[tuple[int, int], Detector] = field(default_factory=dict)
    _warps: dict[tuple[int, Patch], CellCoadd | None] = field(default_factory=dict)

    @cached_property
    def exposures(self) -> dict[int, Any]:
        return {exposure.expnum: exposure for exposure in find_instcal(self.folder).triples}

    @cached_property
    def shards(self) -> list[Table]:
        return [read_refcat(self.catalogue)]

    def keys(self, visit: int) -> list[tuple[int, int]]:
        return [(visit, detector.ccdnum) for detector in self.exposures[visit].detectors]

    def read(self, visit: int, detector: int) -> InstcalPixels:
        ccd = next(ccd for ccd in self.exposures[visit].detectors if ccd.ccdnum == detector)
        return read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, detector)

    def detector(self, visit: int, detector: int) -> Detector:
        """Calibrate a detector."""
        key = (visit, detector)
        if key not in self._detectors:
            self._detectors[key] = calibrated_detector(
                self.read(*key), self.shards, self.exposures[visit].band, detector
            )
        return self._detectors[key]

    def patches(self, image: VisitImage) -> list[Patch]:
        """List the patches that an image reaches."""
        ny, nx = image.image.array.shape
        sky = image.sky_projection.pixel_to_sky(
            x=np.array([0.0, nx - 1, nx - 1, 0]), y=np.array([0.0, 0, ny - 1, ny - 1])
        )
        near = SKYMAP.find_patches((sky.ra.deg, sky.dec.deg))
        return [patch for patch in near if overlap_box(image, patch) is not None]

    def warp(self, visit: int, patch: Patch) -> CellCoadd | None:
        """Warp a visit onto a patch."""
        key = (visit, patch)
        if key not in self._warps:
            images = [self.detector(*detector).image for detector in self.keys(visit)]
            warped = warp_visit(images, patch)
            self._warps[key] = None
            if warped is not None and not warped.planes.bad.all():
                metadata = {"VISIT": visit, "DAY_OBS": int(images[0].obs_info.observing_day)}
                self._warps[key] = to_cell_coadd(warped, NAME, patch, images[0].band, metadata)
        return self._warps[key]

    def inputs(self, visits: list[int], patch: Patch) -> list[CoaddInput]:
        """Return the warps of visits that have good pixels on a patch."""
        warps = [(visit, self.warp(visit, patch)) for visit in visits]
        items = [CoaddInput.from_cell_coadd(visit, warp) for visit, warp in warps if warp is not None]
        return [item for item in items if item.weight > 0]

    def template(self, visits: list[int], patch: Patch, method: Method = "meanclip") -> Template:
        """Combine visits on a patch."""
        return combine(self.inputs(visits, patch), patch, method)

    def coadd(self, visits: list[int], patch: Patch, method: Method = "meanclip") -> CellCoadd | None:
        """Combine visits on a patch into the image that files hold."""
        if not self.inputs(visits, patch):
            return None
        template = self.template(visits, patch, method)
        nights = {self.exposures[visit].day_obs for visit in template.visits}
        metadata = {
            "METHOD": method,
            "VISITS": ",".join(map(str, template.visits)),
            "NIGHTS": ",".join(map(str, sorted(nights))),
        }
        band = self.exposures[visits[0]].band
        return cell_coadd(template.planes, template.psfs, NAME, patch.tract, patch, band, metadata)

    def coadds(
        self, visits: list[int], science: VisitImage, method: Method = "meanclip"
    ) -> list[tuple[CellCoadd, Patch]]:
        """Return the templates that overlap an image."""
        pairs = [(self.coadd(visits, patch, method), patch) for patch in self.patches(science)]
        return [(coadd, patch) for coadd, patch in pairs if coadd is not None]

    def subtract(
        self, visit: int, detector: int, template_visits: list[int], method: Method = "meanclip"
    ) -> Subtracted:
        """Subtract the template of some visits from a detector of another."""
        science = self.detector(visit, detector)
        task = DifferenceDetectorTask(config=DifferenceDetectorConfig())
        coadds = self.coadds(template_visits, science.image, method)
        results = task.subtract(science.image, science.stars, coadds, f"visit {visit}, detector {detector}")
        return Subtracted(science, planes_of(results["template"]), results["difference"], results["sources"])


def calibrated_detector(pixels: InstcalPixels, shards: list[Table], band: str, detector: int) -> Detector:
    """Calibrate pixels against reference stars."""
    info = ObservationInfo(dict(pixels.header), pedantic=False, translator_class=None)
    references = references_on(
        shards, pixels.wcs, pixels.image.shape, band, float(info.datetime_begin.tai.mjd)
    )
    result = calibrate(pixels, references, f"visit {info.visit_id}, detector {detector}")
    context = VisitContext.from_wcs(result.wcs, pixels.image.shape, detector, band, info)
    image = visit_image(result.planes, result.psf, context, result.stats, result.njy_per_adu, {})
    return Detector(pixels, references, result, image)


@dataclass
class Simulation:
    """The chain over a simulation, and its truth."""

    truth: Truth
    chain: Chain

    @cached_property
    def template_visits(self) -> list[int]:
        return [int(row["visit"]) for row in self.truth.exposures if not row["science"]]

    @cached_property
    def science_keys(self) -> list[tuple[int, int]]:
        visits = [int(row["visit"]) for row in self.truth.exposures if row["science"]]
        return [key for visit in visits for key in self.chain.keys(visit)]

    @cached_property
    def differences(self) -> list[Subtracted]:
        """Both science exposures less the clipped mean of the others."""
        return [self.chain.subtract(*key, self.template_visits) for key in self.science_keys]

    def planted(self, key: tuple[int, int]) -> Table:
        """Return the transients of a visit and detector."""
        table = self.truth.transients
        return table[(table["visit"] == key[0]) & (table["detector"] == key[1])]

    def exposure(self, visit: int) -> Table.Row:
        table = self.truth.exposures
        return table[table["visit"] == visit][0]

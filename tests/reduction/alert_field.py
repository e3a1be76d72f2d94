"""Two nights of one detector with known pixels, in a repository and in an APDB, for alerts and pages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo, makeObservationInfo
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS
from lsst.daf.butler import Butler, CollectionType, DatasetType, Timespan
from lsst.images import ObservationSummaryStats
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d
from numpy.typing import NDArray

from tololo.facility import collections
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.reduction.apdb import CampaignApdb, open_apdb
from tololo.reduction.association import VisitInfo, associate_visit
from tololo.reduction.campaign import Campaign, create_apdb
from tololo.reduction.ephemerides import read_ephemerides
from tololo.reduction.formats.images import (
    Planes,
    VisitContext,
    detector_image,
    difference_image,
    visit_image,
)
from tololo.reduction.formats.masks import BIT
from tololo.reduction.ids import source_ids
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.records import Visit, insert_exposures, insert_visits

DETECTOR, BAND, FILTER = 28, "r", "r DECam SDSS c0002 6415.0 1480.0"
SHAPE, SECONDS, ERROR = (320, 256), 90.0, 100.0
SUBSET, TYPE = "2019", "meanclip"
APDB = f"{SUBSET}_{TYPE}"
VISITS = {840001: ("2019-04-02T03:00:00", (0.0, 0.0)), 840002: ("2019-04-03T04:00:00", (12.3, -7.8))}
SKY = WCS(
    {
        **{"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": -30.0},
        **{"CRPIX1": 128.0, "CRPIX2": 160.0, "CD1_1": 2e-6, "CD1_2": 7.3e-5, "CD2_1": 7.3e-5, "CD2_2": -2e-6},
    }
)
"""North is to the right, as on DECam."""

STAR, EDGE, BODY = "star", "edge", "body"
PLACES = {STAR: (200.4, 150.3), EDGE: (-2.0, 40.0), BODY: (90.0, 260.0)}
"""Pixels of the first visit."""
FLUXES = {840001: {STAR: 5000.0}, 840002: {STAR: -3000.0, EDGE: 9000.0, BODY: 4000.0}}
"""What is detected on the differences, nJy."""
NAME = "K19A01B"
"""The body's designation."""


@dataclass(frozen=True)
class AlertField:
    """The nights on disk."""

    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def apdb_config(self) -> Path:
        return self.folder / "apdb" / f"{APDB}.yaml"

    @cached_property
    def apdb(self) -> CampaignApdb:
        return open_apdb(self.apdb_config)

    def object_of(self, name: str) -> int:
        """The diaObject of a fixed source: the id of its first diaSource."""
        visit = min(visit for visit, seen in FLUXES.items() if name in seen)
        return int(source_ids(visit, DETECTOR, 9)[list(FLUXES[visit]).index(name)])


def night_of(visit: int) -> int:
    return {840001: 20190401, 840002: 20190402}[visit]


def chain_of(visit: int) -> str:
    return collections.chain("diff_drp", night_of(visit), SUBSET, TYPE)


def info_of(visit: int) -> ObservationInfo:
    begin = Time(VISITS[visit][0], scale="utc")
    return makeObservationInfo(
        observation_id=str(visit),
        instrument="DECam",
        physical_filter=FILTER,
        visit_id=visit,
        observing_day=night_of(visit),
        datetime_begin=begin,
        datetime_end=begin + SECONDS * u.s,
        exposure_time=SECONDS * u.s,
    )


def wcs_of(visit: int) -> WCS:
    moved = SKY.deepcopy()
    moved.wcs.crpix = np.array(moved.wcs.crpix) + VISITS[visit][1]
    return moved


def context_of(visit: int) -> VisitContext:
    return VisitContext.from_wcs(wcs_of(visit), SHAPE, DETECTOR, BAND, info_of(visit))


def pixel_of(visit: int, name: str) -> tuple[float, float]:
    shift = VISITS[visit][1]
    return PLACES[name][0] + shift[0], PLACES[name][1] + shift[1]


def psf() -> PixelPsf:
    y, x = np.mgrid[-10:11, -10:11]
    light = np.exp(-(x**2 + y**2) / 2 / 1.6**2)
    return PixelPsf(light[None] / light.sum())


def images_of(visit: int) -> dict[str, Any]:
    """Visit image, template and difference; pixel (7, 5) of the difference is bad."""
    random, context, light = np.random.default_rng(visit), context_of(visit), psf()
    noise: list[NDArray[np.float32]] = [random.normal(0, 20, SHAPE).astype(np.float32) for _ in range(2)]
    template = noise[1] + 300.0
    change = noise[0].copy()
    for name, flux in FLUXES[visit].items():
        x, y = pixel_of(visit, name)
        stamp, x0, y0 = light.stamp(x, y)
        ny, nx = stamp.shape
        left, bottom = max(0, -x0), max(0, -y0)
        change[y0 + bottom : y0 + ny, x0 + left : x0 + nx] += flux * stamp[bottom:, left:]
    bits = np.zeros(SHAPE, np.int32)
    bits[7, 5] = BIT["SATURATED"]
    variance = np.full(SHAPE, 400.0, np.float32)
    stats = ObservationSummaryStats()
    planes = {
        name: Planes(image, variance, bits) for name, image in (("d", change), ("s", change + template))
    }
    return {
        "visit_image": visit_image(planes["s"], light, context, stats, 1.0, {}),
        "difference_image": difference_image(planes["d"], light, context, stats, {}),
        "template_detector": detector_image(
            Planes(template, variance, np.zeros(SHAPE, np.int32)), context, {"FWHM": 3.8}
        ),
    }


def sources_of(visit: int) -> Table:
    names = list(FLUXES[visit])
    x, y = np.array([pixel_of(visit, name) for name in names]).T
    ra, dec = wcs_of(visit).all_pix2world(x, y, 0)
    flux, n = np.array(list(FLUXES[visit].values())), len(names)
    return Table(
        {
            "diaSourceId": source_ids(visit, DETECTOR, n),
            "band": np.full(n, BAND),
            **{"ra": ra, "dec": dec, "raErr": np.full(n, 1e-5), "decErr": np.full(n, 1e-5), "x": x, "y": y},
            **{"psfFlux": flux, "psfFluxErr": np.full(n, ERROR), "snr": flux / ERROR},
            **{"scienceFlux": flux + 3e4, "scienceFluxErr": np.full(n, ERROR)},
            "isNegative": flux < 0,
            "reliability": np.full(n, 0.9, np.float32),
        }
    )


def forced(ra: Any, dec: Any) -> dict[str, Any]:
    n = len(np.atleast_1d(ra))
    fluxes = {"psfFlux": np.full(n, 12.5), "scienceFlux": np.full(n, 3e4)}
    return fluxes | {f"{name}Err": np.full(n, ERROR) for name in fluxes}


def region_of(visit: int) -> ConvexPolygon:
    ny, nx = SHAPE
    ra, dec = wcs_of(visit).all_pix2world(
        [-0.5, nx - 0.5, nx - 0.5, -0.5], [-0.5, -0.5, ny - 0.5, ny - 0.5], 0
    )
    corners = [UnitVector3d(LonLat.fromDegrees(*corner)) for corner in zip(ra, dec, strict=True)]
    return ConvexPolygon(corners)


def associate(apdb: CampaignApdb, folder: Path, *visits: int) -> None:
    """Store visits as the association does, with the body known."""
    known = read_ephemerides(ephemerides(folder))
    for visit in visits:
        midpoint = context_of(visit).midpoint_mjd_tai
        info = VisitInfo(visit, DETECTOR, BAND, midpoint, region_of(visit), SECONDS)
        associate_visit(apdb, info, sources_of(visit), forced, known_bodies=known)


def ephemerides(folder: Path) -> Path:
    """Where the body is an hour before and after the second visit."""
    now, path = context_of(840002).midpoint_mjd_tai, folder / "known.csv"
    ra, dec = wcs_of(840002).all_pix2world(*([value] for value in pixel_of(840002, BODY)), 0)
    hours = np.array([-1, 1]) / 24
    table = {"name": [NAME] * 2, "mjd_tai": now + hours, "ra": ra + 0.01 * hours, "dec": dec - 0.02 * hours}
    Table(table).write(path, overwrite=True)
    return path


def new_apdb(folder: Path) -> CampaignApdb:
    folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign("DECam", APDB, f"{SUBSET}/{TYPE}/coadd", "v1")
    create_apdb(f"sqlite:///{folder}/{APDB}.db", None, folder / f"{APDB}.yaml", campaign, "use")
    return open_apdb(folder / f"{APDB}.yaml")


def build(folder: Path) -> AlertField:
    """Make the repository, with chains of difference images, and the APDB."""
    field = AlertField(folder)
    bootstrap(BootstrapPlan(str(field.repository)), ["create", "instrument", "chains"])
    with Butler.from_config(str(field.repository), writeable=True) as butler:
        with butler.transaction():
            insert_exposures(butler, [_exposure(visit) for visit in VISITS])
            insert_visits(butler, [Visit(_visit(visit), {DETECTOR: region_of(visit)}) for visit in VISITS])
        for name, storage in (
            ("visit_image", "VisitImage"),
            ("difference_image", "DifferenceImage"),
            ("template_detector", "MaskedImageV2"),
        ):
            _register(butler, name, ("instrument", "visit", "detector"), storage)
        _register(butler, "association_summary", ("instrument", "day_obs"), "ArrowAstropy")
        for visit in VISITS:
            _put(butler, visit)
    associate(new_apdb(field.apdb_config.parent), folder, *VISITS)
    return field


def _put(butler: Butler, visit: int) -> None:
    chain = chain_of(visit)
    run = f"{chain}/difference_imaging/difference/20260101T000000Z"
    butler.collections.register(run)
    for name, image in images_of(visit).items():
        butler.put(image, name, instrument="DECam", visit=visit, detector=DETECTOR, run=run)
    summary = Table({"visit": [visit], "detector": [DETECTOR]})
    butler.put(summary, "association_summary", instrument="DECam", day_obs=night_of(visit), run=run)
    butler.collections.register(chain, CollectionType.CHAINED)
    butler.collections.redefine_chain(chain, [run])


def _register(butler: Butler, name: str, dimensions: tuple[str, ...], storage: str) -> None:
    butler.registry.registerDatasetType(DatasetType(name, dimensions, storage, universe=butler.dimensions))


def _exposure(visit: int) -> dict[str, Any]:
    record = _visit(visit)
    del record["name"]
    return record | {
        "group": str(visit),
        "obs_id": f"c4d_{visit}",
        "observation_type": "science",
        "tracking_ra": 150.0,
        "tracking_dec": -30.0,
        "sky_angle": 0.0,
        "seq_start": visit,
        "seq_end": visit,
        "has_simulated": False,
    }


def _visit(visit: int) -> dict[str, Any]:
    info = info_of(visit)
    return {
        "instrument": "DECam",
        "id": visit,
        "day_obs": night_of(visit),
        "physical_filter": FILTER,
        "name": str(visit),
        "seq_num": visit,
        "exposure_time": SECONDS,
        "target_name": "field",
        "observation_reason": "science",
        "science_program": "2019A-0001",
        "zenith_angle": 20.0,
        "timespan": Timespan(info.datetime_begin.tai, info.datetime_end.tai),
    }

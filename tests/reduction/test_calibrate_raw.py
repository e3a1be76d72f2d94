"""From electrons and a WCS that is seconds of arc off to calibrated stars: every figure against the truth."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError
from tololo.reduction.calibrate import CalibratedDetector
from tololo.reduction.calibrate_raw import MARGIN, calibrate_raw
from tololo.reduction.formats.masks import BIT
from tololo.reduction.references import color_terms, references_on
from tololo.simulation.sky import PIXEL_SCALE
from tololo.simulation.truth import nanojansky, positions_at

from .chain import robust_scatter
from .raw_field import MJD, READ_NOISE, SKY, ZERO_POINT, RawField, draw_field

SHAPE = (1024, 1024)
COLOR_TERM = 0.05


@pytest.fixture(scope="module")
def field() -> RawField:
    return draw_field(SHAPE, seed=11, color_term=COLOR_TERM)


@pytest.fixture(scope="module")
def calibrated(field: RawField) -> CalibratedDetector:
    return calibrate(field)


def calibrate(
    field: RawField, shards: list[Table] | None = None, photometry: tuple[Table, ...] = ()
) -> CalibratedDetector:
    shape = field.corrected.planes.image.shape
    shards = [field.shard] if shards is None else shards
    references = references_on(shards, field.wcs, shape, "r", MJD, MARGIN, photometry)
    return calibrate_raw(
        copy.deepcopy(field.corrected), field.wcs, field.header, references, "r", "visit 7, detector 28"
    )


@pytest.fixture(scope="module")
def pairs(field: RawField, calibrated: CalibratedDetector) -> tuple[Table, NDArray[np.int64]]:
    """Bright clean stars of the table, and their rows in the truth."""
    stars = calibrated.stars[(calibrated.stars["snr"] > 100) & ~calibrated.stars["flags"]]
    distance, row = cKDTree(np.column_stack([field.x, field.y])).query(
        np.column_stack([stars["x"], stars["y"]])
    )
    # Two are pieces of saturated stars, one of them with a signal to noise of just about 100.
    assert np.count_nonzero(distance >= 0.5) <= 2
    return stars[distance < 0.5], row[distance < 0.5]


def test_the_zero_point_with_its_colour_term(field: RawField, calibrated: CalibratedDetector) -> None:
    summary = calibrated.summary
    assert summary["zero_point"] == pytest.approx(ZERO_POINT, abs=0.01)
    assert summary["zero_point_error"] < 0.005
    assert summary["color_term"] == pytest.approx(-COLOR_TERM, abs=0.02)
    assert 0 < summary["color_term_error"] < 0.01
    assert summary["photometric_catalogue"] == "gaia_dr2"
    assert summary["zero_point_per_second"] == pytest.approx(summary["zero_point"] - 2.5 * math.log10(90.0))


@pytest.mark.parametrize(("column", "scatter"), [("psfFlux", 0.01), ("apFlux", 0.012), ("kronFlux", 0.015)])
def test_fluxes_are_all_of_the_light(
    field: RawField, pairs: tuple[Table, NDArray[np.int64]], column: str, scatter: float
) -> None:
    stars, row = pairs
    ratio = np.asarray(stars[column]) / (field.flux[row] * float(nanojansky(ZERO_POINT)))
    assert len(ratio) > 40
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)
    assert robust_scatter(ratio) < scatter


def test_the_wcs_is_the_true_one(field: RawField, calibrated: CalibratedDetector) -> None:
    y, x = np.mgrid[0 : SHAPE[0] - 1 : 15j, 0 : SHAPE[1] - 1 : 15j]
    ra, dec = calibrated.wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    true_ra, true_dec = field.true_wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    east, north = 3.6e6 * (ra - true_ra) * np.cos(np.radians(dec)), 3.6e6 * (dec - true_dec)
    assert math.sqrt((east**2 + north**2).mean()) < 10
    assert np.hypot(east, north).max() < 50
    before_ra, before_dec = field.wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    assert np.hypot((before_ra - true_ra) * np.cos(np.radians(dec)), before_dec - true_dec).min() * 3600 > 4


def test_stars_are_where_they_are(field: RawField, pairs: tuple[Table, NDArray[np.int64]]) -> None:
    stars, row = pairs
    ra, dec = (values[row] for values in positions_at(field.stars, MJD))
    east, north = 3.6e6 * (stars["ra"] - ra) * np.cos(np.radians(dec)), 3.6e6 * (stars["dec"] - dec)
    assert math.sqrt(np.mean(np.asarray(east) ** 2)) < 20
    assert math.sqrt(np.mean(np.asarray(north) ** 2)) < 20


def test_nearly_every_reference_star_is_matched(field: RawField, calibrated: CalibratedDetector) -> None:
    listed = np.asarray(field.stars["g"]) < 21
    inside = (field.x > 1) & (field.x < SHAPE[1] - 2) & (field.y > 1) & (field.y < SHAPE[0] - 2)
    number = np.count_nonzero(listed & inside)
    assert calibrated.summary["n_matched"] > 0.95 * number
    stars = calibrated.stars
    assert np.count_nonzero(stars["refId"] > 0) == calibrated.summary["n_matched"]
    assert np.isfinite(stars["refMatchDistance"][stars["refId"] > 0]).all()


def test_seeing_sky_noise_and_depth(field: RawField, calibrated: CalibratedDetector) -> None:
    summary = calibrated.summary
    assert summary["fwhm_half_maximum"] == pytest.approx(field.psf.fwhm[0] * PIXEL_SCALE, rel=0.02)
    true = math.hypot(field.psf.g1[0], field.psf.g2[0])
    assert summary["ellipticity"] == pytest.approx(2 * true, abs=0.02)
    assert summary["sky"] == pytest.approx(SKY, rel=0.005)
    assert summary["noise"] == pytest.approx(math.sqrt(SKY + READ_NOISE**2), rel=0.01)
    limit = nanojansky(summary["limiting_magnitude"])
    stars = calibrated.stars
    faint = stars[(stars["snr"] > 4.5) & (stars["snr"] < 6) & ~stars["flags"]]
    assert float(np.median(faint["psfFlux"] / faint["snr"])) * 5 == pytest.approx(float(limit), rel=0.1)


def test_variance_is_that_of_the_noise(field: RawField, calibrated: CalibratedDetector) -> None:
    planes, side = calibrated.planes, 4
    corner = np.arange(0, SHAPE[0], side)
    x, y = (axis.ravel() for axis in np.meshgrid(corner, corner))
    distance, _ = cKDTree(np.column_stack([field.x, field.y])).query(np.column_stack([x, y]) + side / 2)
    cells = SHAPE[0] // side, side, SHAPE[1] // side, side
    flux, noise = (plane.reshape(cells).sum(axis=(1, 3)).ravel() for plane in (planes.image, planes.variance))
    clean = ~planes.bad.reshape(cells).any(axis=(1, 3)).ravel()
    pull = (flux / np.sqrt(noise))[clean & (distance > 12)]
    assert len(pull) > 20000
    assert 0.97 < robust_scatter(pull) < 1.03
    assert abs(np.median(pull)) < 0.1


def test_cosmic_rays_are_masked_and_stars_are_not(field: RawField, calibrated: CalibratedDetector) -> None:
    masked = (calibrated.planes.bits & BIT["COSMIC_RAY"]) != 0
    assert masked[field.cosmic_rays].mean() > 0.95
    bright = np.argsort(-field.flux)[:60]
    x, y = np.rint(field.x[bright]).astype(int), np.rint(field.y[bright]).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < SHAPE[1]) & (y < SHAPE[0])
    x, y = x[inside], y[inside]
    assert np.count_nonzero(masked[y, x] & ~field.cosmic_rays[y, x]) == 0
    summary = calibrated.summary
    assert summary["masked_cosmic"] == pytest.approx(masked.mean())
    assert summary["masked_bad"] == pytest.approx(0.5 / SHAPE[1], rel=0.01)
    assert 0 < summary["masked_saturated"] < 1e-3


def test_overscan_and_doubts_are_in_the_summary(calibrated: CalibratedDetector) -> None:
    summary = calibrated.summary
    for name in "ab":
        assert summary[f"overscan_{name}"] == 1700.0
        assert summary[f"read_noise_{name}"] == READ_NOISE
    assert summary["flags"] == ""
    assert summary["aperture_correction"] == pytest.approx(1.0, abs=0.01)


def test_magnitudes_of_pan_starrs_are_taken_where_they_are(field: RawField) -> None:
    stars = field.stars[np.asarray(field.stars["g"]) < 20]
    color = np.clip(1.1 * np.asarray(stars["bp"] - stars["rp"]) - 0.3, 0.25, 2.6)
    relation = color_terms()["ps1"]["bands"]["r"]["terms"]
    red = 31.4 - 2.5 * np.log10(stars["flux_r"]) - np.polynomial.polynomial.polyval(color, relation)
    shard = Table({"coord_ra": np.radians(stars["ra"]), "coord_dec": np.radians(stars["dec"])})
    for name, magnitude in (("g", red + 0.6 * color), ("r", red), ("i", red - 0.4 * color)):
        shard[f"{name}_flux"] = nanojansky(magnitude)
        shard[f"{name}_fluxErr"] = 0.005 * shard[f"{name}_flux"]
    summary = calibrate(field, photometry=(shard,)).summary
    assert summary["photometric_catalogue"] == "ps1"
    # The pivots of the two catalogues are not quite the same colour.
    assert summary["zero_point"] == pytest.approx(ZERO_POINT, abs=0.015)
    assert summary["color_term"] == pytest.approx(-COLOR_TERM / 1.1, abs=0.015)


def test_a_field_of_few_stars_says_so() -> None:
    result = calibrate(draw_field((640, 640), seed=3, stars_per_deg2=7000.0, bend=0.1, cosmic_rays=10))
    flags = str(result.summary["flags"]).split(",")
    assert "few_astrometric_stars" in flags
    assert result.summary["astrometric_order"] == 1
    assert result.summary["zero_point"] == pytest.approx(ZERO_POINT, abs=0.03)


def test_another_field_is_refused_once(field: RawField) -> None:
    elsewhere = field.shard.copy()
    rng = np.random.default_rng(8)
    for column in ("coord_ra", "coord_dec"):
        low, high = elsewhere[column].min(), elsewhere[column].max()
        elsewhere[column] = rng.uniform(low, high, len(elsewhere))
    with pytest.raises(BadInputError, match="cannot be recognised") as caught:
        calibrate(field, [elsewhere])
    assert "visit 7, detector 28" in str(caught.value)
    with pytest.raises(BadInputError, match="cannot be recognised"):
        calibrate(field, [])


def test_too_few_reference_stars_are_refused(field: RawField) -> None:
    bright = np.argsort(-np.asarray(field.shard["phot_g_mean_flux"]))
    inside = [
        n
        for n in bright
        if 10 < field.x[int(field.shard["id"][n] - 3_000_000_000_000_000_001)] < SHAPE[1] - 10
        and 10 < field.y[int(field.shard["id"][n] - 3_000_000_000_000_000_001)] < SHAPE[0] - 10
    ]
    with pytest.raises(BadInputError, match=r"Only [67] stars agree") as caught:
        calibrate(field, [field.shard[inside[10:17]]])
    assert "fewer than 8" in str(caught.value)

"""The astrometric solution of a detector as a WCS, and the ones that are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import Box, GeneralFrame

from tololo.facility.errors import BadInputError
from tololo.reduction.astrometry import recognise, solve
from tololo.reduction.formats.projection import pixel_to_sky, projection_of
from tololo.reduction.kernels.photometry import PHOTOMETRY_DTYPE
from tololo.reduction.references import References
from tololo.simulation.plan import Plan
from tololo.simulation.sky import ccd, wcs_header

from .raw_field import bent

SHAPE = (4096, 2048)
WHERE = "visit 7, detector 28"


@pytest.fixture(scope="module")
def wcs() -> WCS:
    """The header's WCS: pointing 8 arcsec off, and no word of the distortion."""
    return WCS(wcs_header(ccd(28), Plan(origin=(0, 0)), (7 / 3600, -4 / 3600)))


@pytest.fixture(scope="module")
def true_wcs() -> WCS:
    return WCS(bent(wcs_header(ccd(28), Plan(origin=(0, 0))), SHAPE, 1.5))


def sky(wcs: WCS, true_wcs: WCS, number: int, noise: float = 0.03) -> tuple[References, np.ndarray]:
    """Reference stars, and detections of them."""
    rng = np.random.default_rng(4)
    x, y = rng.uniform([[0], [0]], [[SHAPE[1] - 1], [SHAPE[0] - 1]], (2, number))
    ra, dec = true_wcs.all_pix2world(x, y, 0)
    nominal = wcs.all_world2pix(ra, dec, 0)
    nothing = np.full(number, np.nan)
    references = References(
        ids=np.arange(number), ra=ra, dec=dec, x=nominal[0], y=nominal[1], magnitude=nothing, error=nothing,
        brightness=np.sort(rng.uniform(14, 20, number)), color=nothing, color_error=nothing,
        place_error=np.full(number, 0.001),
    )  # fmt: skip
    stars = np.zeros(number, PHOTOMETRY_DTYPE)
    stars["x"], stars["y"] = x + rng.normal(0, noise, number), y + rng.normal(0, noise, number)
    stars["x_err"] = stars["y_err"] = noise
    stars["flux"], stars["flux_err"] = 10 ** (-0.4 * (references.brightness - 25)), 10.0
    return references, stars


def solved(wcs: WCS, references: References, stars: np.ndarray):
    start = recognise(stars["x"], stars["y"], stars["flux"], references, SHAPE, WHERE)
    return solve(wcs, SHAPE, stars, references, start, WHERE)


def test_the_solution_as_astropy_and_lsst_read_it(wcs: WCS, true_wcs: WCS) -> None:
    solution = solved(wcs, *sky(wcs, true_wcs, 400))
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(0, 2047, 9), np.linspace(0, 4095, 9)))
    ra, dec = true_wcs.all_pix2world(x, y, 0)
    header = fits.Header.fromstring(solution.wcs.to_header_string(relax=True))
    assert header["CTYPE1"] == "RA---TAN-SIP"
    projection = projection_of(solution.wcs, GeneralFrame(unit="pix"), Box.from_shape(SHAPE), SHAPE)
    by_astropy, by_lsst = WCS(header).all_pix2world(x, y, 0), pixel_to_sky(projection, x, y)
    np.testing.assert_allclose(by_lsst, by_astropy, rtol=0, atol=1e-9)
    for found in (by_astropy, by_lsst):
        miss = 3.6e6 * np.hypot((found[0] - ra) * np.cos(np.radians(dec)), found[1] - dec)
        assert math.sqrt((miss**2).mean()) < 5
        assert miss.max() < 15
    before = wcs.all_pix2world(x, y, 0)
    assert 3600 * np.hypot((before[0] - ra) * np.cos(np.radians(dec)), before[1] - dec).min() > 5


def test_what_is_reported(wcs: WCS, true_wcs: WCS) -> None:
    references, stars = sky(wcs, true_wcs, 400)
    solution = solved(wcs, references, stars)
    report = solution.report
    assert report["n_matched"] >= 398
    assert report["astrometric_order"] == 3
    assert report["astrometric_rms"] == pytest.approx(0.03, rel=0.15)
    assert report["astrometric_rms_bright"] == pytest.approx(0.03, rel=0.15)
    assert math.hypot(report["shift_x"], report["shift_y"]) == pytest.approx(8.06 / 0.2637, rel=0.1)
    np.testing.assert_array_equal(solution.own, solution.reference)
    back = solution.wcs.all_world2pix(references.ra, references.dec, 0)
    np.testing.assert_allclose(back, (solution.references.x, solution.references.y), atol=1e-3)


def test_too_few_stars_are_refused_in_one_message(wcs: WCS) -> None:
    true_wcs = WCS(bent(wcs_header(ccd(28), Plan(origin=(0, 0))), SHAPE, 0.2))
    assert solved(wcs, *sky(wcs, true_wcs, 9)).report["astrometric_order"] == 1
    with pytest.raises(BadInputError, match="Only 7 stars agree with the reference catalogue") as caught:
        solved(wcs, *sky(wcs, true_wcs, 7))
    assert WHERE in str(caught.value)
    references, stars = sky(wcs, true_wcs, 400)
    with pytest.raises(BadInputError, match="cannot be recognised"):
        solved(wcs, references, stars[:0])


def test_an_absurd_scatter_is_refused(wcs: WCS, true_wcs: WCS) -> None:
    references, stars = sky(wcs, true_wcs, 400, noise=0.9)
    with pytest.raises(BadInputError, match=r"leaves 0\.[5-9]. pixels") as caught:
        solved(wcs, references, stars)
    assert WHERE in str(caught.value)


def test_detections_without_a_place_are_left_out(wcs: WCS, true_wcs: WCS) -> None:
    references, stars = sky(wcs, true_wcs, 100)
    stars["x_err"][:20] = np.nan
    solution = solved(wcs, references, stars)
    assert solution.own.min() >= 20
    none = replace(references, brightness=np.full(100, np.nan))
    assert solved(wcs, none, stars).report["n_matched"] == solution.report["n_matched"]

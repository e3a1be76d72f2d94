from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.detection import detect_sources
from tololo.reduction.kernels.psf import PixelPsf, half_maximum_width
from tololo.reduction.kernels.psffit import fit_psf

from .cutouts import EPOCHS, legacy_survey, needs_cutouts, open_cutout
from .starfield import local_scale, moffat, moffat_psf, observe, random_stars

GUESS = moffat_psf(25, 4.5)


def gaussian(size: int, fwhm: float) -> np.ndarray:
    axis = np.arange(size) - size // 2
    sigma = fwhm / 2.3548
    line = np.exp(-0.5 * (axis / sigma) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def test_kernel_has_unit_sum_and_follows_the_polynomial() -> None:
    narrow, wide = gaussian(25, 3.5), gaussian(25, 4.5)
    psf = PixelPsf(np.array([(narrow + wide) / 2, (wide - narrow) / 2, 0 * wide]), 1, (500, 300), (500, 300))
    assert psf.kernel(17, 4).sum() == pytest.approx(1)
    np.testing.assert_allclose(psf.kernel(0, 123), narrow, atol=1e-9)
    np.testing.assert_allclose(psf.kernel(1000, 123), wide, atol=1e-9)
    assert psf.fwhm(0, 0) == pytest.approx(3.5, rel=0.01)
    assert psf.gaussian_fwhm(1000, 0) == pytest.approx(4.5, rel=0.01)


@pytest.mark.parametrize("fwhm", [3.0, 4.2])
def test_stamp_is_a_star_at_its_place(fwhm: float) -> None:
    psf = moffat_psf(31, fwhm)
    for x, y in ((100.0, 80.0), (100.5, 80.49), (99.7, 80.2)):
        stamp, x0, y0 = psf.stamp(x, y)
        star = moffat((160, 200), np.array([[x, y, 1.0]]), fwhm, oversampling=11)[y0 : y0 + 31, x0 : x0 + 31]
        assert np.abs(stamp - star / star.sum()).max() < 2e-3 * star.max()
        assert stamp.sum() == pytest.approx(1, abs=2e-3)


def test_shape_of_a_gaussian() -> None:
    axis = np.arange(31) - 15
    kernel = np.exp(-0.5 * (axis[None, :] / 2.0) ** 2 - 0.5 * (axis[:, None] / 1.6) ** 2)
    psf = PixelPsf(kernel[None] / kernel.sum())
    np.testing.assert_allclose(psf.moments(0, 0), (4.0, 2.56, 0.0), atol=0.02)
    assert psf.ellipticity(0, 0) == pytest.approx(0.2, abs=0.005)
    assert psf.fwhm(0, 0) == pytest.approx(2.3548 * np.sqrt(3.2), rel=0.01)


def test_wrong_coefficients_are_refused() -> None:
    for coefficients, order in (
        (np.ones((1, 4, 4)), 0),
        (np.ones((2, 5, 5)), 1),
        (np.full((1, 5, 5), np.nan), 0),
    ):
        with pytest.raises(BadInputError):
            PixelPsf(coefficients, order)
    with pytest.raises(BadInputError, match="not 0, 1 or 2"):
        PixelPsf(np.ones((10, 5, 5)), 3)


def fit_field(seed: int, shape: tuple[int, int], stars: np.ndarray, slope: float, galaxies: int) -> tuple:
    light = moffat(shape, stars, 4.2, slope=slope)
    blurred = random_stars(seed + 100, galaxies, shape, 3.0, 4.6)
    widths = np.random.default_rng(seed).uniform(1.3, 2.5, galaxies)
    for galaxy, width in zip(blurred, widths, strict=True):
        light += moffat(shape, galaxy[None], 4.2 * width, ellipticity=0.3, oversampling=1)
    field = observe(light, stars, seed)
    sources = detect_sources(field.image, field.variance, field.bad, GUESS)
    return fit_psf(field.image, field.variance, field.bad, sources["x"], sources["y"], sources["flux"])


def compare(psf: PixelPsf, shape: tuple[int, int], slope: float) -> tuple[float, float]:
    """Return the largest residual relative to the peak, and the largest relative error of the FWHM."""
    residual, width = 0.0, 0.0
    for u in (0.1, 0.5, 0.9):
        for v in (0.1, 0.5, 0.9):
            truth = moffat_psf(psf.size, 4.2 * local_scale(u, v, slope)).kernel(0, 0)
            model = psf.kernel(u * shape[1], v * shape[0])
            residual = max(residual, np.abs(model - truth).max() / truth.max())
            width = max(width, abs(half_maximum_width(model) / half_maximum_width(truth) - 1))
    return residual, width


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_varying_psf_among_galaxies_and_saturated_stars(seed: int) -> None:
    shape = (900, 900)
    stars = random_stars(seed, 180, shape, 3.0, 5.6)
    psf, table = fit_field(seed, shape, stars, 0.12, 50)
    assert psf.order == 2
    residual, width = compare(psf, shape, 0.12)
    assert residual < 0.025
    assert width < 0.02
    assert set(np.unique(table["reason"][~table["used"]])) <= {
        "faint", "edge", "bad pixels", "neighbour", "no shape", "not point-like", "does not fit the model"
    }  # fmt: skip
    assert (table["reason"][table["used"]] == "").all()


def test_the_order_falls_with_the_number_of_stars() -> None:
    shape = (500, 500)
    orders = [fit_field(5, shape, random_stars(5, n, shape, 4.0, 5.0), 0.0, 0)[0].order for n in (70, 25, 5)]
    assert orders == [2, 1, 0]


@pytest.mark.parametrize("seed", [10, 11, 12, 13])
def test_few_stars(seed: int) -> None:
    shape = (250, 250)
    stars = random_stars(seed, 4, shape, 4.2, 5.2, border=15)
    psf, table = fit_field(seed, shape, stars, 0.0, 2)
    residual, width = compare(psf, shape, 0.0)
    assert 1 <= table["used"].sum() <= 4
    assert residual < 0.025
    assert width < 0.02


def test_known_stars_rule_where_galaxies_crowd() -> None:
    shape = (250, 250)
    stars = random_stars(31, 2, shape, 4.4, 4.8, border=40)
    galaxies = random_stars(32, 6, shape, 4.2, 4.8, border=20)
    light = moffat(shape, stars, 4.2) + moffat(shape, galaxies, 6.2)
    field = observe(light, stars, 33)
    places = np.concatenate([stars, galaxies])
    known = np.arange(len(places)) < len(stars)
    psf, table = fit_psf(field.image, field.variance, field.bad, *places.T, point_like=known)
    assert not table["used"][len(stars) :].any()
    assert psf.fwhm(125, 125) == pytest.approx(moffat_psf(31, 4.2).fwhm(0, 0), rel=0.03)


def test_no_stars_is_said_with_the_reasons() -> None:
    field = observe(np.zeros((250, 250)), np.empty((0, 3)), 3)
    nowhere = np.array([100.0, 150.0])
    with pytest.raises(NothingToDoError, match=r"2 (faint|no shape)|1 faint"):
        fit_psf(field.image, field.variance, field.bad, nowhere, nowhere, nowhere)
    with pytest.raises(BadInputError, match="odd"):
        fit_psf(field.image, field.variance, field.bad, nowhere, nowhere, nowhere, size=24)


@needs_cutouts
@pytest.mark.parametrize("expnum", EPOCHS)
def test_fwhm_of_real_cutouts_agrees_with_the_legacy_surveys(expnum: int) -> None:
    """Their FWHM is the Community Pipeline's, that of a Gaussian rather than the half-maximum width."""
    cutout = open_cutout(expnum)
    height, width = cutout.image.shape
    assert cutout.n_psf_stars >= 2
    assert cutout.psf.gaussian_fwhm(width / 2, height / 2) == pytest.approx(
        legacy_survey(expnum)["fwhm"], rel=0.1
    )

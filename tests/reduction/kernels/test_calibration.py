from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.calibration import (
    ZeroPoint,
    fit_registration,
    gaia_to_decam,
    gaia_to_decam_error,
    limiting_magnitude,
    match_offsets,
    zero_point,
)
from tololo.reduction.kernels.photometry import EDGE, FAILED, MASKED, aperture_photometry, psf_photometry

from .cutouts import EPOCHS, Cutout, legacy_survey, needs_cutouts, open_cutout
from .starfield import moffat_psf

APERTURE = 3.5 / 0.262
"""Radius in pixels of the 7-arcsecond circle that the Legacy Surveys' zero points refer to."""


def test_colour_terms_of_a_solar_star() -> None:
    """The Sun has BP - RP 0.82 (Casagrande & VandenBerg 2018), SDSS g - r 0.44 and r - i 0.11."""
    g, r, i, z = (gaia_to_decam(15.0, 15.33, 14.51, band)[0] for band in "griz")
    assert g - r == pytest.approx(0.44, abs=0.06)
    assert r - i == pytest.approx(0.12, abs=0.06)
    assert i - z == pytest.approx(0.03, abs=0.06)
    assert r == pytest.approx(14.90, abs=0.1)


def test_stars_without_a_usable_colour() -> None:
    g = np.array([18.0, 18.0, 0.0, 18.0, 18.0])
    bp = np.array([18.7, np.nan, 18.7, 0.0, 25.0])
    rp = np.array([17.3, 17.3, 17.3, 17.3, 17.3])
    assert np.isnan(gaia_to_decam(g, bp, rp, "z")).tolist() == [False, True, True, True, True]
    guessed = gaia_to_decam(g, bp, rp, "z", missing_colour=1.4)
    np.testing.assert_allclose(guessed[[1, 3]], guessed[0])
    for band in ("u", "Y", "y", "VR", "N964"):
        with pytest.raises(BadInputError, match=f"band {band}"):
            gaia_to_decam(g, bp, rp, band)


def test_colour_errors_by_finite_difference() -> None:
    step = 1e-4
    for band in "griz":
        slope = (gaia_to_decam(18, 19 + step, 18, band) - gaia_to_decam(18, 19 - step, 18, band))[0] / (
            2 * step
        )
        error = gaia_to_decam_error(0.0, 19.0, 0.1, 18.0, 0.0, band)
        assert error == pytest.approx(0.1 * abs(slope), rel=1e-3)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 7, 200])
def test_zero_point_errors_are_honest(number: int) -> None:
    rng = np.random.default_rng(number)
    pulls, errors = [], []
    for _ in range(400):
        error = rng.uniform(0.005, 0.03, number)
        reference = rng.uniform(16, 20, number)
        measured = reference - 25.2 + rng.normal(size=number) * np.hypot(error, 0.04)
        result = zero_point(measured, error, reference, 0 * error)
        pulls.append((result.value - 25.2) / result.error)
        errors.append(result.error)
    assert 0.85 < np.std(pulls) < 1.15
    assert abs(np.mean(pulls)) < 0.2
    assert np.mean(errors) == pytest.approx(np.hypot(0.017, 0.04) / np.sqrt(number), rel=0.2)


@pytest.mark.parametrize("number", [3, 4, 7, 50])
def test_an_outlier_is_left_out(number: int) -> None:
    reference = np.linspace(16, 19, number)
    error = np.full(number, 0.01)
    measured = reference - 25 + 0.01 * np.cos(np.arange(number))
    measured[1] += 0.8
    result = zero_point(measured, error, reference, error)
    assert (result.n_used, result.n_rejected) == (number - 1, 1)
    assert result.value == pytest.approx(25, abs=0.02)


def test_zero_point_without_stars() -> None:
    with pytest.raises(NothingToDoError, match="No star"):
        zero_point([1.0, np.nan], [0.1, 0.1], [np.nan, 2.0], [0.1, 0.1])
    with pytest.raises(BadInputError, match="lengths"):
        zero_point([1.0], [0.1, 0.1], [1.0, 2.0], [0.1, 0.1])


def test_offset_is_found_among_strangers() -> None:
    rng = np.random.default_rng(3)
    reference = rng.uniform(0, 1000, (80, 2))
    moved = reference[:40] + np.array([7.0, -4.0]) + rng.normal(0, 0.1, (40, 2))
    detected = np.concatenate([moved, rng.uniform(0, 1000, (60, 2))])
    found = match_offsets(*detected.T, *reference.T, 12.0)
    true_pairs = (found.index == found.reference) & (found.index < 40)
    assert true_pairs.sum() >= 38
    assert (~true_pairs).sum() <= 4
    assert (found.dx, found.dy) == (pytest.approx(7, abs=0.1), pytest.approx(-4, abs=0.1))
    assert found.scatter == pytest.approx(0.1, abs=0.06)
    assert found.rms == pytest.approx(np.sqrt((49 + 16) / 2), rel=0.1)
    with pytest.raises(NothingToDoError, match="within 2 pixels"):
        match_offsets([0.0], [0.0], [50.0], [50.0], 2.0)


def test_registration() -> None:
    rng = np.random.default_rng(8)
    reference = rng.uniform(0, 2000, (60, 2))
    turn = np.array([[2e-4, -3e-4], [3e-4, 1e-4]])
    truth = reference + [0.8, -0.3] + (reference - 1000) @ turn.T
    measured = truth + rng.normal(0, 0.05, truth.shape)
    measured[5] += 3.0
    fit = fit_registration(*measured.T, *reference.T, 0.05)
    assert (fit.n_used, fit.n_rejected) == (59, 1)
    np.testing.assert_allclose(fit.matrix, turn, atol=5e-5)
    np.testing.assert_allclose(np.column_stack(fit.apply(*reference.T)), truth, atol=0.06)
    assert fit.rms == pytest.approx(0.05, rel=0.2)
    few = fit_registration(*measured[:4].T + 0.0, *(measured[:4] - [0.8, -0.3]).T, 0.05)
    assert few.shift == pytest.approx((0.8, -0.3), abs=1e-9)
    assert not few.matrix.any()
    assert few.shift_error == pytest.approx((0.025, 0.025))
    with pytest.raises(NothingToDoError):
        fit_registration([], [], [], [])


def test_limiting_magnitude_of_a_known_noise() -> None:
    psf = moffat_psf(31, 4.0)
    variance = np.full((50, 50), 100.0)
    variance[:5] = np.inf
    sigma = 10 / np.sqrt((psf.kernel(0, 0) ** 2).sum())
    assert limiting_magnitude(variance, psf, 30.0) == pytest.approx(30 - 2.5 * np.log10(5 * sigma))
    with pytest.raises(BadInputError, match="variance"):
        limiting_magnitude(np.zeros((50, 50)), psf, 30.0)


def measure_zero_point(cutout: Cutout) -> ZeroPoint:
    """Return the AB magnitude of 1 ADU per second in the aperture."""
    stars = psf_photometry(
        cutout.image, cutout.variance, cutout.bad, cutout.psf, cutout.sources["x"], cutout.sources["y"]
    )[cutout.matched]
    aperture = aperture_photometry(
        cutout.image, cutout.variance, cutout.bad, stars["x"], stars["y"], [APERTURE]
    )
    usable = (stars["flags"] & (MASKED | EDGE | FAILED)) == 0
    flux, error = aperture["flux"][usable, 0], aperture["flux_err"][usable, 0]
    gaia = cutout.gaia[usable]
    g, bp, rp = (np.array(gaia[f"phot_{k}_mean_mag"], dtype=float) for k in ("g", "bp", "rp"))
    ratios = (np.array(gaia[f"phot_{k}_mean_flux_over_error"], dtype=float) for k in ("g", "bp", "rp"))
    eg, ebp, erp = (1.0857 / ratio for ratio in ratios)
    return zero_point(
        -2.5 * np.log10(flux / cutout.exposure_time),
        1.0857 * error / flux,
        gaia_to_decam(g, bp, rp, cutout.band),
        gaia_to_decam_error(eg, bp, ebp, rp, erp, cutout.band),
    )


@needs_cutouts
def test_real_zero_points_agree_with_the_legacy_surveys() -> None:
    """Within 0.05 mag after one offset per band: theirs of 115 Pan-STARRS stars, ours of 2 or 3."""
    offsets: dict[str, list[float]] = {}
    for expnum in EPOCHS:
        cutout = open_cutout(expnum)
        result = measure_zero_point(cutout)
        offsets.setdefault(cutout.band, []).append(result.value - legacy_survey(expnum)["ccdzpt"])
        assert result.n_used >= 2
        assert result.error < 0.06
    assert sorted(map(len, offsets.values())) == [2, 3, 4]
    for band, values in offsets.items():
        middle = (min(values) + max(values)) / 2
        assert abs(middle) < 0.08, band
        assert max(abs(v - middle) for v in values) < 0.05, band


@needs_cutouts
@pytest.mark.parametrize("expnum", EPOCHS)
def test_real_positions_agree_with_gaia(expnum: int) -> None:
    """The Legacy Surveys find the same exposures up to 0.06 arcsec (0.2 pixel) off Gaia."""
    cutout = open_cutout(expnum)
    stars = psf_photometry(
        cutout.image, cutout.variance, cutout.bad, cutout.psf, cutout.sources["x"], cutout.sources["y"]
    )[cutout.matched]
    error = np.hypot(np.hypot(stars["x_err"], stars["y_err"]) / np.sqrt(2), 0.03)
    fit = fit_registration(stars["x"], stars["y"], cutout.gaia_x, cutout.gaia_y, error)
    assert np.hypot(*fit.shift) < 0.35
    assert fit.rms < 0.15

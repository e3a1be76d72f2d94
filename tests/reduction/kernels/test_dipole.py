"""Dipoles and trails of known truth, fitted on plain noise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tololo.reduction.kernels.dipole import fit_dipoles
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.trail import fit_trails

from .difference_pair import moffat, place

FWHM, SIDE, NOISE = 4.4, 101, 10.0
PSF = PixelPsf(moffat(FWHM, side=35)[None])


def scene(*stars, seed=1):
    """A difference with stars (x, y, flux) in white noise, and its variance."""
    image = np.random.default_rng(seed).normal(0, NOISE, (SIDE, SIDE))
    for x, y, flux in stars:
        ix, iy = round(x), round(y)
        place(image, flux * moffat(FWHM, x - ix, y - iy), ix, iy)
    variance = np.full((SIDE, SIDE), NOISE**2, np.float32)
    bad = np.zeros((SIDE, SIDE), bool)
    return SimpleNamespace(difference=image.astype(np.float32), variance=variance, bad=bad, psf=PSF)


def dipole(image, guess, expected=(np.nan, np.nan), error=(np.nan, np.nan)):
    x, y, px, py, flux, partner = (np.array([value], float) for value in guess)
    return fit_dipoles(
        image, image.variance, x, y, px, py, flux, partner, np.array([expected]), np.array([error]), FWHM
    )[0]


def test_lobes_that_stand_apart_are_measured_without_a_prior():
    image = scene((48.0, 50.0, 20_000.0), (53.5, 50.5, -14_000.0))
    fit = dipole(image, (48, 50, 54, 50, 15_000, -10_000))
    assert fit["flux_1"] == pytest.approx(20_000, abs=4 * fit["flux_1_err"])
    assert fit["flux_2"] == pytest.approx(-14_000, abs=4 * fit["flux_2_err"])
    assert (fit["x_1"], fit["y_1"], fit["x_2"], fit["y_2"]) == pytest.approx((48, 50, 53.5, 50.5), abs=0.1)
    assert fit["chi2"] / fit["n_data"] == pytest.approx(1.0, abs=0.2)
    assert fit["single_chi2"] > fit["chi2"] + 1000


@pytest.mark.parametrize("separation", [0.15, 0.4, 1.0])
def test_the_stars_flux_tells_how_far_it_moved(separation):
    flux = 80_000.0
    image = scene((50 + separation / 2, 50.0, flux), (50 - separation / 2, 50.0, -flux))
    # The lobes' peaks stand about 0.85 FWHM apart, whatever the separation.
    lobe = 0.5 * separation / FWHM * flux
    fit = dipole(image, (52, 50, 48, 50, lobe, -lobe), (1.05 * flux, 0.97 * flux), (800.0, 800.0))
    moved = np.hypot(fit["x_1"] - fit["x_2"], fit["y_1"] - fit["y_2"])
    mean = 0.5 * (fit["flux_1"] - fit["flux_2"])
    assert moved * mean == pytest.approx(separation * flux, rel=0.1)
    assert moved == pytest.approx(separation, rel=0.2)
    assert fit["chi2"] / fit["n_data"] < 1.2


def test_without_good_pixels_or_a_second_lobe_there_is_no_fit():
    image = scene((50.0, 50.0, 20_000.0))
    image.bad[:] = True
    assert np.isnan(dipole(image, (50, 50, 53, 50, 1e4, -1e4))["chi2"])
    alone = dipole(scene((50.0, 50.0, 20_000.0)), (50, 50, 54, 50, 2e4, -500.0))
    assert np.isnan(alone["chi2"]) or alone["single_chi2"] - alone["chi2"] < 25


@pytest.mark.parametrize(("length", "angle"), [(4.0, 0.3), (9.0, 2.0), (25.0, -0.8)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_trail_is_measured(length, angle, sign):
    steps = np.linspace(-0.5, 0.5, 201) * length
    flux = sign * 40_000.0
    image = scene(*((50.3 + s * np.cos(angle), 49.6 + s * np.sin(angle), flux / 201) for s in steps))
    one = np.ones(1)
    guess = (50 * one, 50 * one, 0.6 * flux * one, 0.7 * length * one, (angle + 0.15) * one)
    fit = fit_trails(image, image.variance, *guess, FWHM)[0]
    assert fit["length"] == pytest.approx(length, abs=4 * fit["length_err"] + 0.05)
    assert np.mod(fit["angle"] - angle + 1, np.pi) - 1 == pytest.approx(0, abs=4 * fit["angle_err"] + 0.01)
    assert fit["flux"] == pytest.approx(flux, abs=4 * fit["flux_err"] + 200)
    assert (fit["x"], fit["y"]) == pytest.approx((50.3, 49.6), abs=0.2)
    assert fit["chi2"] / fit["n_data"] == pytest.approx(1.0, abs=0.2)
    assert fit["single_chi2"] > fit["chi2"] + 25


def test_a_point_has_no_trail():
    image = scene((50.3, 49.6, 30_000.0))
    one = np.ones(1)
    fit = fit_trails(image, image.variance, 50 * one, 50 * one, 3e4 * one, 3 * one, 0.4 * one, FWHM)[0]
    assert fit["single_chi2"] - fit["chi2"] < 25 or fit["length"] < 1.0
    image.bad[:] = True
    assert np.isnan(fit_trails(image, image.variance, 50 * one, 50 * one, one, one, one, FWHM)["chi2"])

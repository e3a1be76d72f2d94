"""The joint fit gives what detection with deblending and photometry give after one another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tololo.reduction.kernels.detection import detect_sources
from tololo.reduction.kernels.field_fit import fit_field
from tololo.reduction.kernels.photometry import psf_photometry
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.starfit import FAILED

from .starfield import Field, moffat, moffat_psf, observe, random_stars

SHAPE, FWHM = (600, 500), 4.2


@pytest.fixture(scope="module")
def psf() -> PixelPsf:
    return moffat_psf(27, FWHM)


@pytest.fixture(scope="module")
def field() -> Field:
    """A crowded field, stars at the edges too."""
    stars = random_stars(7, 350, SHAPE, 2.8, 5.5, border=-3.0)
    return observe(moffat(SHAPE, stars, FWHM), stars, seed=5)


def seen(field: Field, psf: PixelPsf) -> np.ndarray:
    return detect_sources(field.image, field.variance, field.bad, psf, deblend=False)


def test_it_agrees_with_the_two_steps(field: Field, psf: PixelPsf) -> None:
    planes = field.image, field.variance, field.bad
    found = detect_sources(*planes, psf)
    old = psf_photometry(*planes, psf, found["x"], found["y"])
    new, residual = fit_field(*planes, psf, seen(field, psf))
    assert len(new) == pytest.approx(len(old), abs=0.03 * len(old))
    pull = (residual / np.sqrt(field.variance))[~field.bad]
    assert 0.95 < 1.4826 * np.median(np.abs(pull)) < 1.05
    distance, row = cKDTree(np.column_stack([old["x"], old["y"]])).query(
        np.column_stack([new["x"], new["y"]])
    )
    common = (distance < 0.3) & np.isfinite(new["flux"]) & np.isfinite(old["flux"][row])
    assert common.mean() > 0.93
    new, old = new[common], old[row[common]]
    pull = (new["flux"] - old["flux"]) / old["flux_err"]
    assert np.percentile(np.abs(pull), 90) < 0.1
    assert np.median(np.abs(pull)) < 0.01
    for name in ("flux_err", "x_err", "good_fraction", "chi2", "fwhm"):
        np.testing.assert_allclose(np.nanmedian(new[name] / old[name]), 1, atol=0.01)


def test_fluxes_and_places_against_the_truth(field: Field, psf: PixelPsf) -> None:
    new, _ = fit_field(field.image, field.variance, field.bad, psf, seen(field, psf))
    good = new[
        np.isfinite(new["flux"]) & (new["good_fraction"] > 0.95) & (new["flux"] > 20 * new["flux_err"])
    ]
    distance, row = cKDTree(field.stars[:, :2]).query(np.column_stack([good["x"], good["y"]]))
    assert np.mean(distance < 0.5) > 0.95
    good, true = good[distance < 0.5], field.stars[row[distance < 0.5]]
    light = moffat_psf(61, FWHM).coefficients[0]
    part = light[17:44, 17:44].sum()
    pull = (good["flux"] - part * true[:, 2]) / np.hypot(good["flux_err"], 0.003 * true[:, 2])
    assert abs(np.median(pull)) < 0.5
    assert 1.4826 * np.median(np.abs(pull)) < 1.5
    shift = (good["x"] - true[:, 0]) / np.hypot(good["x_err"], 0.01)
    assert 0.7 < 1.4826 * np.median(np.abs(shift)) < 1.4


def test_a_star_in_the_flank_of_another_is_found(psf: PixelPsf) -> None:
    stars = np.array([[100.0, 100.0, 2e5], [105.2, 101.0, 3e4]])
    field = observe(moffat((200, 200), stars, FWHM), stars, seed=3)
    field.bad[:] = False
    alone = seen(field, psf)
    alone = alone[:1]
    new, _ = fit_field(field.image, field.variance, field.bad, psf, alone)
    near = new[np.hypot(new["x"] - 105.2, new["y"] - 101.0) < 0.5]
    assert len(near) == 1
    assert near["flux"][0] == pytest.approx(3e4, rel=0.05)
    assert new["flux"][0] == pytest.approx(2e5, rel=0.03)


def test_sources_on_bad_pixels_fail_and_none_give_none(psf: PixelPsf) -> None:
    rng = np.random.default_rng(1)
    image, bad = rng.normal(0, 30, (120, 120)), np.zeros((120, 120), bool)
    bad[30:70, 30:70] = True
    image[bad] = np.nan
    given = np.array([(50.0, 50.0, 100.0)], dtype=[("x", "f8"), ("y", "f8"), ("flux", "f8")])
    new, _ = fit_field(image, np.full(image.shape, 900.0), bad, psf, given)
    assert new["flags"][0] & FAILED
    assert np.isnan(new["flux"][0])
    assert len(fit_field(image, np.full(image.shape, 900.0), bad, psf, given[:0])[0]) == 0

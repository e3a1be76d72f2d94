"""Proper subtraction against truth."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.subtraction import subtract

from .difference_pair import make_pair, model_psf


def difference_of(pair, side, **options):
    x, y = pair.stars[pair.stars[:, 2] > 8000, :2].T
    return subtract(
        *pair.planes(),
        x,
        y,
        science_fwhm=pair.science_fwhm,
        template_fwhm=pair.template_fwhm,
        science_psf=model_psf(pair.science_fwhm, side),
        template_psf=model_psf(pair.template_fwhm, side),
        method="zogy",
        **options,
    )


@pytest.fixture(scope="module")
def pair():
    return make_pair(seed=41, side=1100, science_fwhm=4.6, n_transients=60, snr=(30, 200), density=250e-6)


@pytest.fixture(scope="module")
def result(pair):
    return difference_of(pair, 1100)


def test_noise_is_white_and_as_stated(result):
    assert result.method == "zogy"
    assert result.decorrelated
    assert result.noise_ratio == pytest.approx(1.0, abs=0.02)
    assert result.score_scatter == pytest.approx(1.0, abs=0.04)
    z = np.where(result.bad, np.nan, result.difference / np.sqrt(result.variance))
    z[np.abs(z) > 4] = np.nan
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2)):
        shared = np.nanmean(z[dy:, dx:] * z[: z.shape[0] - dy, : z.shape[1] - dx])
        assert abs(shared) < 0.02


def test_the_flux_ratio_and_the_offset_are_found(pair, result):
    assert result.flux_ratio == pytest.approx(pair.flux_ratio, rel=0.01)
    assert result.kernel.sum == result.flux_ratio
    assert result.n_stars >= 12


def test_transients_have_the_flux_and_the_psf_that_is_promised(pair, result):
    shares, misfits = [], []
    for x, y, flux, host in pair.transients:
        stamp, x0, y0 = result.psf.stamp(x, y)
        size = stamp.shape[0]
        if host >= 0 or min(x0, y0) < 0 or max(x0, y0) + size > 1100:
            continue
        box = np.s_[y0 : y0 + size, x0 : x0 + size]
        if result.bad[box].any():
            continue
        own, weight = result.difference[box] / flux, 1 / result.variance[box]
        shares.append((own * stamp * weight).sum() / (stamp**2 * weight).sum())
        pull = (own - shares[-1] * stamp) * abs(flux) / np.sqrt(result.variance[box])
        misfits.append(pull[11:24, 11:24].std())
    assert len(shares) >= 10
    # The models hold 98.5 % of the Moffat profile's light.
    assert np.median(shares) == pytest.approx(0.985, abs=0.02)
    assert np.median(misfits) < 1.3


def test_stars_are_gone(pair, result):
    left = []
    for x, y, flux in pair.stars[pair.stars[:, 2] > 30_000]:
        box = np.s_[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]
        if min(x, y) > 20 and max(x, y) < 1080 and not result.bad[box].any():
            left.append(abs(result.difference[box].sum()) / flux)
    assert len(left) >= 6
    assert np.median(left) < 0.02


def test_faults_are_masked_and_holes_stay_holes():
    pair = make_pair(seed=42, side=600, n_transients=0, density=150e-6)
    pair.template[300:320, 200:220] = np.nan
    result = difference_of(pair, 600)
    assert result.bad[300:320, 200:220].all()
    assert np.isnan(result.difference[301:319, 201:219]).all()
    assert result.bad[pair.science_bad | pair.template_bad].all()
    z = np.abs(result.difference / np.sqrt(result.variance))
    assert np.mean(z[~result.bad] > 6) < 1e-4


def test_without_stars_there_is_nothing_to_do():
    pair = make_pair(seed=43, side=300, n_transients=0, density=50e-6)
    none = np.array([])
    widths = {"science_fwhm": 4.6, "template_fwhm": 3.7}
    with pytest.raises(NothingToDoError, match="No star"):
        subtract(*pair.planes(), none, none, **widths, method="zogy")


def test_images_that_do_not_show_the_same_stars_are_refused():
    pair = make_pair(seed=44, side=600, n_transients=0, density=150e-6, faults=False)
    pair.template[:] = -pair.template
    with pytest.raises((BadInputError, NothingToDoError)):
        difference_of(pair, 600)

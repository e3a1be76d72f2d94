from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import convolve2d

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.convolution import convolve_blocks, pad, trim
from tololo.reduction.kernels.decorrelation import Noise, whiten
from tololo.reduction.kernels.difference_background import score_scatter
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.subtraction import moffat_psf, subtract

from .difference_pair import make_pair, moffat
from .real_epochs import load, template_of

REAL = {
    "z": (["150411", "170316", "170419"], "180212"),
    "r": (["170522", "180128"], "180314"),
    "g": (["170329"], "180225"),
}


def difference_of(pair, **options):
    x, y = pair.stars[pair.stars[:, 2] > 8000, :2].T
    widths = {"science_fwhm": pair.science_fwhm, "template_fwhm": pair.template_fwhm}
    return subtract(*pair.planes(), x, y, **(widths | options))


def neighbour_correlation(result):
    z = np.where(result.bad, np.nan, result.difference / np.sqrt(result.variance))
    z[np.abs(z) > 4] = np.nan
    return float(np.nanmean(z[:, 1:] * z[:, :-1]) / np.nanmean(z**2))


def test_blocks_are_convolved_each_with_its_kernel():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(150, 210)).astype(np.float32)
    kernels = rng.normal(size=(3, 4, 11, 11))
    out = convolve_blocks(pad(image, 5), kernels, 64, image.shape)
    for by, bx in np.ndindex(3, 4):
        whole = convolve2d(np.pad(image, 5, mode="edge"), kernels[by, bx], "valid")
        block = np.s_[by * 64 : (by + 1) * 64, bx * 64 : (bx + 1) * 64]
        np.testing.assert_allclose(out[block], whole[block], rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInputError, match="pad the plane"):
        convolve_blocks(image, kernels, 64, image.shape)


def test_the_whitening_kernel_whitens():
    rng = np.random.default_rng(2)
    y, x = np.mgrid[-10:11, -10:11]
    kernel = 0.8 * np.exp(-(x**2 + y**2) / (2 * 1.6**2))
    kernel *= 0.9 / kernel.sum()
    science, template = rng.normal(size=(2, 600, 600)) * np.array([1.0, 3.0])[:, None, None]
    difference = science[10:-10, 10:-10] - convolve2d(template, kernel, "valid")
    found = whiten(kernel[None], Noise(3.0**2), Noise(1.0))
    whitening = found.kernels[0]
    white = convolve2d(difference, whitening, "valid")

    def correlation(z):
        return np.mean(z[:, 1:] * z[:, :-1]) / np.mean(z**2)

    assert whitening.sum() == pytest.approx(1.0)
    assert correlation(difference) > 0.1
    assert abs(correlation(white)) < 0.02
    assert white.var() == pytest.approx(1.0 + 0.9**2 * 3.0**2, rel=0.03)
    assert found.correlated[0] == pytest.approx(1.0)
    assert white.var() == pytest.approx(found.gain[0] * difference.var(), rel=0.02)


def test_rings_that_hold_nothing_are_cut_off_a_kernel():
    y, x = np.mgrid[-10:11, -10:11]
    narrow = np.exp(-(x**2 + y**2) / (2 * 1.2**2))
    kernels = np.stack([narrow, np.exp(-(x**2 + y**2) / 2)])[None]
    cut = trim(kernels, 1e-4)
    assert 9 <= cut.shape[-1] < 15
    assert cut[0, 0].sum() == pytest.approx(narrow.sum(), rel=1e-4)
    np.testing.assert_array_equal(trim(np.ones((1, 1, 9, 9)), 1e-4), np.ones((1, 1, 9, 9)))


@pytest.mark.parametrize(
    ("science_fwhm", "shift", "convolved"),
    [
        (3.0, (0.1, 0.3), "science"),
        (3.8, (0.0, 0.0), "template"),
        (4.6, (0.2, -0.2), "template"),
        (5.9, (-0.3, 0.1), "template"),
    ],
)
@pytest.mark.parametrize("decorrelate", [True, False])
def test_what_is_left_is_noise(science_fwhm, shift, convolved, decorrelate):
    pair = make_pair(seed=11, side=768, science_fwhm=science_fwhm, shift=shift, n_transients=0)
    result = difference_of(pair, decorrelate=decorrelate)
    assert result.convolved == convolved
    assert result.fitted_on == "stars"
    assert result.n_stars >= 10
    assert 0.97 < result.noise_ratio < 1.03
    # A kernel ends at its radius: of the wings beyond it the flux ratio knows nothing.
    assert result.flux_ratio == pytest.approx(pair.flux_ratio, rel=0.025)
    z = result.difference[~result.bad] / np.sqrt(result.variance[~result.bad])
    assert abs(np.median(z)) < 0.02
    assert np.mean(np.abs(z) > 5) < 2e-4
    assert result.bad.mean() < 0.02


def test_the_brightest_good_stars_are_gone():
    pair = make_pair(seed=12, side=768, n_transients=0)
    result = difference_of(pair)
    aperture = np.hypot(*np.mgrid[-6:7, -6:7]) < 6
    left = []
    for x, y, _flux in pair.stars[pair.stars[:, 2] > 30_000]:
        box = np.s_[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]
        if min(x, y) < 20 or max(x, y) > 748 or result.bad[box].any():
            continue
        left.append(result.difference[box][aperture].sum() / pair.science[box][aperture].sum())
    assert len(left) >= 6
    assert np.median(np.abs(left)) < 0.01


def test_noise_of_an_equally_deep_template_is_white_after_decorrelation():
    pair = make_pair(seed=13, side=768, template_depth=1, n_transients=0, density=200e-6)
    plain, white = (difference_of(pair, decorrelate=d) for d in (False, True))
    assert abs(neighbour_correlation(white)) < 0.01
    assert abs(neighbour_correlation(plain)) > 0.03
    for result in (plain, white):
        assert 0.97 < result.noise_ratio < 1.03
    assert white.score_scatter == pytest.approx(1.0, abs=0.04)
    assert plain.score_scatter > 1.1  # neighbours share noise that the score takes for independent


@pytest.mark.parametrize("science_fwhm", [3.0, 4.6])
def test_bright_transients_have_the_flux_and_the_psf_that_is_promised(science_fwhm):
    pair = make_pair(
        seed=14,
        side=768,
        science_fwhm=science_fwhm,
        n_transients=40,
        snr=(150, 300),
        variation=0,
        faults=False,
    )
    model = PixelPsf(moffat(science_fwhm, side=35)[None])
    result = difference_of(pair, science_psf=model)
    shares, misfits = [], []
    for x, y, flux, host in pair.transients:
        stamp, x0, y0 = result.psf.stamp(x, y)
        if host >= 0 or x0 < 0 or y0 < 0 or max(x0, y0) + 35 > 768:
            continue
        box = np.s_[y0 : y0 + 35, x0 : x0 + 35]
        if result.bad[box].any():
            continue
        own, weight = result.difference[box] / flux, 1 / result.variance[box]
        fitted = (own * stamp * weight).sum() / (stamp**2 * weight).sum()
        shares.append(fitted)
        misfits.append(np.abs(own - stamp).max() / stamp.max())
    assert len(shares) >= 8
    # The model holds 98.5 % of the Moffat profile's light.
    assert np.mean(shares) == pytest.approx(moffat(science_fwhm, side=35).sum(), rel=0.01)
    assert np.median(misfits) < 0.08


def test_variable_stars_are_left_out_of_the_fit():
    pair = make_pair(seed=15, side=1024, n_transients=0)
    bright = np.flatnonzero((pair.stars[:, 2] > 8000) & (pair.stars[:, 2] < 200_000))
    for x, y, flux in pair.stars[bright[::8]]:
        if min(x, y) > 40 and max(x, y) < 984:
            box = np.s_[round(y) - 32 : round(y) + 33, round(x) - 32 : round(x) + 33]
            pair.science[box] += 0.5 * flux * moffat(4.6, x - round(x), y - round(y)).astype(np.float32)
    result = difference_of(pair)
    assert result.flux_ratio == pytest.approx(pair.flux_ratio, rel=0.02)
    assert 0.97 < result.noise_ratio < 1.03


def test_moving_saturated_and_blended_stars_are_left_out_of_the_fit():
    pair = make_pair(seed=22, side=1024, n_transients=0, density=600e-6)
    bright = pair.stars[(pair.stars[:, 2] > 8000) & (pair.stars[:, 2] < 200_000)]
    bright = bright[(bright[:, :2].min(axis=1) > 40) & (bright[:, :2].max(axis=1) < 984)]
    moved, blended = bright[::7], bright[3::7]
    for x, y, flux in moved:
        box = np.s_[round(y) - 32 : round(y) + 33, round(x) - 32 : round(x) + 33]
        there = moffat(4.6, x - round(x) + 1.5, y - round(y))
        pair.science[box] += (flux * (there - moffat(4.6, x - round(x), y - round(y)))).astype(np.float32)
    for x, y, flux in blended:  # with what the other image lacks
        box = np.s_[round(y) - 32 : round(y) + 33, round(x) - 32 : round(x) + 33]
        pair.science[box] += 0.7 * flux * moffat(4.6, x - round(x) + 4, y - round(y) - 3).astype(np.float32)
    result = difference_of(pair)
    assert result.flux_ratio == pytest.approx(pair.flux_ratio, rel=0.025)
    assert 0.97 < result.noise_ratio < 1.03
    untouched = np.concatenate([bright[1::7], bright[5::7]])
    left = []
    for x, y, flux in untouched:
        box = np.s_[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]
        if not result.bad[box].any():
            left.append(result.difference[box].sum() / flux)
    assert len(left) >= 8
    assert np.median(np.abs(left)) < 0.03


def test_the_order_falls_back_where_stars_are_few_or_on_one_side():
    pair = make_pair(seed=23, side=1024, n_transients=0, density=400e-6)
    bright = pair.stars[pair.stars[:, 2] > 8000]
    widths = {"science_fwhm": pair.science_fwhm, "template_fwhm": pair.template_fwhm}
    left = bright[bright[:, 0] < 450]
    few = bright[:9]
    orders = [subtract(*pair.planes(), *s[:, :2].T, **widths).kernel.order for s in (bright, left, few)]
    assert orders[0] >= 1
    assert orders[1:] == [0, 0]


def test_saturated_stars_and_their_bleed_trails_leave_no_detection():
    pair = make_pair(seed=24, side=768, n_transients=0, density=500e-6)
    assert pair.saturated.any(axis=0).any()
    result = difference_of(pair)
    near = np.zeros(pair.saturated.shape, bool)
    for y, x in np.argwhere(pair.saturated):
        near[max(0, y - 12) : y + 13, max(0, x - 12) : x + 13] = True
    z = np.abs(result.difference / np.sqrt(result.variance))
    assert result.bad[pair.saturated].all()
    assert np.count_nonzero((z > 6) & near & ~result.bad) <= 2
    edge = np.ones(near.shape, bool)
    edge[8:-8, 8:-8] = False
    assert np.count_nonzero((z > 5) & edge & ~result.bad) == 0


def test_bad_pixels_reach_as_far_as_they_matter():
    pair = make_pair(seed=16, side=600, n_transients=0, density=100e-6, faults=False)
    pair.template_bad[300, 300] = True  # a dead pixel in the sky
    pair.template_bad[400:420, 200:220] = True  # a hole
    pair.template[400:420, 200:220] = np.nan
    pair.science_bad[100, :] = True
    result = difference_of(pair)
    assert result.bad[100].all()
    assert not result.bad[98].all()
    assert result.bad[400:420, 200:220].all()
    assert 1 < np.count_nonzero(result.bad[395:425, 195:225].any(axis=0)) - 20 < 10
    assert np.count_nonzero(result.bad[290:311, 290:311]) < 10
    assert np.isnan(result.difference[401:419, 201:219]).all()
    z = np.abs(result.difference / np.sqrt(result.variance))
    assert np.nanmax(np.where(result.bad, 0, z)[380:440, 180:240]) < 6


def test_a_saturated_star_costs_a_disk_and_no_more():
    pair = make_pair(seed=17, side=600, n_transients=0, density=150e-6)
    result = difference_of(pair)
    own = pair.science_bad | pair.template_bad
    assert own.any()
    assert 1 < np.count_nonzero(result.bad) / np.count_nonzero(own) < 6
    z = np.abs(result.difference / np.sqrt(result.variance))[~result.bad]
    assert np.mean(z > 6) < 2e-5


def test_a_small_image_with_four_stars_is_fitted_as_a_whole():
    pair = make_pair(seed=18, side=250, density=60e-6, n_transients=0, faults=False, variation=0)
    pair.stars[:, 2] = 30_000
    result = difference_of(pair)
    assert result.fitted_on == "image"
    assert result.kernel.order == 0
    assert 0.95 < result.noise_ratio < 1.05
    assert np.mean(np.abs(result.difference / np.sqrt(result.variance))[~result.bad] > 5) < 2e-4


def test_the_scale_is_the_science_images_in_either_direction():
    pair = make_pair(
        seed=19, side=768, science_fwhm=4.0, n_transients=30, snr=(100, 200), variation=0, faults=False
    )
    fluxes = []
    for side in ("template", "science"):
        result = difference_of(pair, convolve=side, decorrelate=False)
        assert result.convolved == side
        total = []
        for x, y, flux, host in pair.transients:
            box = np.s_[round(y) - 10 : round(y) + 11, round(x) - 10 : round(x) + 11]
            if host < 0 and min(x, y) > 20 and max(x, y) < 748 and not result.bad[box].any():
                total.append(result.difference[box].sum() / flux)
        fluxes.append(np.mean(total))
    inside = moffat(4.0, side=21).sum()
    np.testing.assert_allclose(fluxes, inside, rtol=0.02)


def test_nothing_in_common_or_nothing_that_shines():
    pair = make_pair(seed=20, side=200, n_transients=0, faults=False)
    widths = {"science_fwhm": 4.6, "template_fwhm": 3.7}
    none = np.array([])
    everything = np.ones_like(pair.science_bad)
    with pytest.raises(NothingToDoError, match="0 good pixels in common"):
        subtract(*pair.planes()[:5], everything, none, none, **widths)
    noise = np.random.default_rng(1).normal(size=(2, 200, 200)).astype(np.float32)
    one, fine = np.ones((200, 200), np.float32), np.zeros((200, 200), bool)
    with pytest.raises(NothingToDoError, match="significant pixels"):
        subtract(noise[0], one, fine, noise[1], one, fine, none, none, **widths)


def test_input_that_does_not_fit_is_refused():
    pair = make_pair(seed=20, side=200, n_transients=0, faults=False)
    none = np.array([])
    cropped = (*pair.planes()[:3], *(p[:150] for p in pair.planes()[3:]))
    with pytest.raises(BadInputError, match="differ in shape"):
        subtract(*cropped, none, none, science_fwhm=4, template_fwhm=3)
    with pytest.raises(BadInputError, match="template FWHM is 50"):
        subtract(*pair.planes(), none, none, science_fwhm=4, template_fwhm=50.0)
    with pytest.raises(NothingToDoError, match="no PSF model"):
        subtract(*pair.planes(), none, none, science_fwhm=4, template_fwhm=float("nan"))
    with pytest.raises(BadInputError, match="covariance"):
        subtract(
            *pair.planes(), none, none, science_fwhm=4, template_fwhm=3, template_covariance=np.ones((4, 4))
        )
    negative = list(pair.planes())
    negative[3] = -negative[3]
    with pytest.raises(BadInputError, match="flux ratio"):
        subtract(*negative, none, none, science_fwhm=4.6, template_fwhm=3.7)


@pytest.mark.parametrize("band", REAL)
@pytest.mark.parametrize("method", ["mean", "median", "meanclip"])
def test_real_epochs_leave_the_noise_that_is_expected(band, method):
    dates, newest = REAL[band]
    science = load(newest)
    stacked, bad, fwhm = template_of([load(d) for d in dates], science, method)
    result = subtract(
        *(
            science.image,
            science.variance,
            science.bad,
            stacked.image,
            stacked.variance,
            bad,
            science.x,
            science.y,
        ),
        science_fwhm=science.fwhm,
        template_fwhm=fwhm,
    )
    assert 0.9 < result.noise_ratio < 1.15
    assert result.bad.mean() < 0.06
    assert result.flux_ratio == pytest.approx(1.0, abs=0.08)
    z = np.abs(result.difference / np.sqrt(result.variance))[~result.bad]
    assert np.count_nonzero(z > 5) < 124  # the worst that hotpants does on these cutouts


def test_an_image_narrower_than_the_psf_has_no_score():
    planes = np.zeros((20, 257), np.float32), np.ones((20, 257), np.float32), np.zeros((20, 257), bool)
    assert np.isnan(score_scatter(*planes, moffat_psf(7.0)))

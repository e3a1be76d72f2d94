"""PSF-matched warps: one profile for all, stars' flux kept, and the noise that they say they have."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import BadInputError
from tololo.reduction.coadd import combine
from tololo.reduction.coadd_input import CoaddInput
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.photometry import aperture_photometry
from tololo.reduction.kernels.psf import half_maximum_width
from tololo.reduction.kernels.warp import grid_of, noise_power, warp
from tololo.reduction.patch_warp import PatchWarp
from tololo.reduction.psf_matching import match_warp, matching_kernel, target_psf

from .kernels.difference_pair import moffat
from .moving_sky import NOISE, PATCH, MovingSky

TARGET = 6.0


def matched(item: CoaddInput, fwhm: float = TARGET) -> CoaddInput:
    result = match_warp(PatchWarp(item.planes, item.psfs), fwhm, f"visit {item.visit}")
    return CoaddInput(item.visit, result.planes, result.psfs, item.day_obs)


@pytest.mark.parametrize("fwhm", [3.0, 4.0, 5.0, 5.9])
def test_a_kernel_makes_the_target(fwhm: float) -> None:
    psf = moffat(fwhm, side=43)
    blank = Planes(
        np.ones((440, 440), np.float32), np.ones((440, 440), np.float32), np.zeros((440, 440), np.int32)
    )
    result = match_warp(PatchWarp(blank, np.broadcast_to(psf / psf.sum(), (2, 2, 43, 43))), TARGET, "")
    np.testing.assert_allclose(result.psfs.sum(axis=(2, 3)), 1.0)
    assert half_maximum_width(result.psfs[0, 0]) == pytest.approx(TARGET, rel=0.01)
    assert np.abs(result.psfs - target_psf(TARGET)).max() < 0.02 * target_psf(TARGET).max()


@pytest.mark.parametrize("fwhm", [3.2, 5.0, 5.8])
def test_the_variance_is_that_of_noise_that_was_resampled_and_convolved(fwhm: float) -> None:
    psf = moffat(fwhm, side=43)
    psfs = np.broadcast_to(psf / psf.sum(), (2, 2, 43, 43))
    random = np.random.default_rng(3)
    pulls = []
    for dx, dy in [(0.0, 0.0), (0.5, 0.5), (0.25, -0.4)]:
        shape = (500, 500)
        noise = (random.normal(size=shape) * NOISE).astype(np.float32)
        variance, bits = np.full(shape, NOISE**2, np.float32), np.zeros(shape, np.int32)
        grid = grid_of(lambda x, y, dx=dx, dy=dy: (x + 30 + dx, y + 30 + dy), (440, 440))
        pixels = warp(noise, variance, bits, bits > 0, *grid, 32, (440, 440)).image
        planes = Planes(pixels, variance[:440, :440], bits[:440, :440])
        result = match_warp(PatchWarp(planes, psfs), TARGET, "").planes
        pulls.append((result.image / np.sqrt(result.variance))[25:-25, 25:-25])
    # The smoothed noise has some 2000 independent pixels in each.
    assert np.std(pulls) == pytest.approx(1.0, abs=0.03)


def test_resampling_takes_the_finest_detail_only() -> None:
    power = noise_power(np.array([0.0, 0.1, 0.5]))
    assert power[0] == pytest.approx(1.0, abs=1e-6)
    assert power[1] == pytest.approx(1.0, abs=0.05)
    assert 0.2 < power[2] < 0.7


def test_a_coadd_of_matched_warps_has_the_target_psf_and_all_the_flux() -> None:
    sky = MovingSky((3.4, 4.4, 5.6), n_stars=12, seed=9)
    sky.stars[:, 2] = 3e4 * NOISE
    sky.stars[:, 0], sky.stars[:, 1] = (40 + 95 * np.arange(12) % 380.0), 40 + 100.0 * (np.arange(12) // 4)
    template = combine([matched(item) for item in sky.inputs()], PATCH, "mean")
    widths = [half_maximum_width(psf) for psf in template.psfs.reshape(-1, 43, 43)]
    # The PSFs that the warps come with are wrong by 2 %.
    assert widths == pytest.approx([TARGET] * 4, rel=0.02)
    x, y, flux = sky.stars.T.copy()
    planes = template.planes
    seen = [
        half_maximum_width(planes.image[int(v) - 15 : int(v) + 16, int(u) - 15 : int(u) + 16].astype(float))
        for u, v in zip(x, y, strict=True)
    ]
    assert np.median(seen) == pytest.approx(TARGET, rel=0.02)
    sums = aperture_photometry(planes.image, planes.variance, planes.bad, x, y, [18.0])["flux"][:, 0]
    assert np.median(sums / flux) == pytest.approx(1.0, abs=0.03)
    assert np.std(sums / flux) < 0.01


def test_bad_pixels_stay_out_and_their_surroundings_are_marked() -> None:
    item = MovingSky((4.0,), n_stars=0).inputs()[0]
    item.planes.image[100] = 1e6
    item.planes.bits[100] = BIT["BAD"]
    item.planes.image[:, 400:] = np.nan
    result = matched(item).planes
    assert np.isnan(result.image[100]).all()
    assert np.nanmax(np.abs(result.image[:, :390])) < 6 * NOISE
    assert ((result.bits[98:103, 20:380] & BIT["INTERPOLATED"]) != 0).all()
    assert not (result.bits[130:300, 30:360] & BIT["INTERPOLATED"]).any()
    assert ((result.bits[:, 400:] & BIT["NO_DATA"]) != 0).all()


def test_what_cannot_be_matched_is_refused() -> None:
    item = MovingSky((5.0,), n_stars=0).inputs()[0]
    with pytest.raises(
        BadInputError, match=r"seeing of [45]\.\d\d pixels is worse than the target of 4.00.*visit 0"
    ):
        matched(item, 4.0)
    item.psfs[:] = np.nan
    with pytest.raises(BadInputError, match=r"has no PSF.*visit 0"):
        matched(item)


def test_a_kernel_keeps_flux() -> None:
    psf = moffat(4.0, side=43)
    assert matching_kernel(psf / psf.sum(), target_psf(5.0)).sum() == pytest.approx(1.0)

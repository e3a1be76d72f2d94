"""Real DECam cutouts, brought roughly to one sky level and flux scale."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

from real_data import FIELD
from tololo.reduction.kernels.background import estimate_background
from tololo.reduction.kernels.stack import stack
from tololo.reduction.kernels.warp import area_ratio, grid_of, warp

STEP = 16


@dataclass
class Epoch:
    name: str
    image: np.ndarray
    variance: np.ndarray
    bad: np.ndarray
    wcs: WCS
    fwhm: float
    x: np.ndarray
    y: np.ndarray


def load(stamp):
    """Read one exposure by the date in its name, take off the sky and find its sources."""
    found = sorted((FIELD / "exposures").glob(f"c4d_{stamp}_*_ooi_*.fits"))
    if not found:
        pytest.skip(
            f"real DECam cutouts are not there: {FIELD}/exposures/c4d_{stamp}_* (set TOLOLO_REAL_DATA)"
        )
    with fits.open(found[0]) as hdus:
        header, image = hdus[1].header, hdus[1].data.astype(np.float32)
    weight = fits.getdata(str(found[0]).replace("_ooi_", "_oow_"), 1).astype(np.float32)
    quality = fits.getdata(str(found[0]).replace("_ooi_", "_ood_"), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(header)
    bad = (quality != 0) | ~(weight > 0)
    # The community pipeline's weight holds the photon noise of sky and sources: 1 / weight = counts / gain.
    variance = np.where(bad, np.nan, 1 / np.where(bad, 1, weight)).astype(np.float32)
    level, rms = estimate_background(image, bad, 64)
    image = image - level
    sources = sep.extract(np.where(bad, 0, image), 10 * float(np.median(rms)), mask=bad, minarea=9)
    return Epoch(stamp, image, variance, bad, wcs, float(header["FWHM"]), sources["x"], sources["y"])


def onto(epoch, target):
    """Warp an epoch onto the grid of another and scale its fluxes to it."""

    def transform(x, y):
        return epoch.wcs.all_world2pix(*target.wcs.all_pix2world(x, y, 0), 0)

    grid = grid_of(transform, target.image.shape, STEP)
    planes = (epoch.image, epoch.variance, epoch.bad.astype(np.int32), epoch.bad)
    warped = warp(*planes, *grid, STEP, target.image.shape, area_ratio(*grid, STEP))
    empty = ~np.isfinite(warped.image)
    radius = 2 * max(epoch.fwhm, target.fwhm)
    ours, _, flag = sep.sum_circle(
        np.where(target.bad, 0, target.image), target.x, target.y, radius, mask=target.bad
    )
    theirs, _, other = sep.sum_circle(
        np.where(empty, 0, warped.image), target.x, target.y, radius, mask=empty
    )
    use = (flag == 0) & (other == 0) & (theirs > 0) & (ours > 0)
    scale = np.median(ours[use] / theirs[use])
    return warped.image * scale, warped.variance * scale**2, warped.mask_bits, scale


def template_of(epochs, target, method="mean"):
    """Stack epochs on the grid of the target."""
    warped = [onto(e, target) for e in epochs]
    weights = [1 / np.nanmedian(w[1]) for w in warped]
    stacked = stack(
        [w[0] for w in warped],
        [w[1] for w in warped],
        [w[2] for w in warped],
        weights,
        method,
        clipped_bit=256,
    )
    bad = ~np.isfinite(stacked.image) | (stacked.mask & 255 > 0)
    fwhm = float(np.average([e.fwhm for e in epochs], weights=weights))
    return stacked, bad, fwhm

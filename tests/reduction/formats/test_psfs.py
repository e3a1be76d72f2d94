"""The PSF model through Piff and back."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.images import Box

from tololo.reduction.formats.psfs import from_piff, to_piff
from tololo.reduction.kernels.psf import N_TERMS, PixelPsf

SPOTS = [(0.0, 0.0), (2047.0, 4095.0), (13.2, 3001.7), (1023.5, 2047.5)]


def model(order: int) -> PixelPsf:
    """Return a PSF whose core moves and widens over a detector of 2048 x 4096."""
    half = 12
    axis = np.arange(-half, half + 1)
    r2 = axis[:, None] ** 2 + axis**2
    terms = [np.exp(-0.5 * r2 / 4.0)]
    rng = np.random.default_rng(order)
    terms += [0.03 * np.exp(-0.5 * r2 / (3.0 + k)) * rng.normal(size=r2.shape) for k in range(5)]
    return PixelPsf(np.array(terms[: N_TERMS[order]]), order, (1023.5, 2047.5), (1024.0, 2048.0))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_model_comes_back(order: int) -> None:
    psf = model(order)
    back = from_piff(to_piff(psf, Box.from_shape((4096, 2048))))
    assert back.order == order
    for x, y in SPOTS:
        np.testing.assert_allclose(back.kernel(x, y), psf.kernel(x, y), atol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_lsst_draws_the_same_star(order: int) -> None:
    psf = model(order)
    stored = to_piff(psf, Box.from_shape((4096, 2048)))
    for x, y in ((1000.0, 3000.0), (57.0, 12.0)):
        image = stored.compute_kernel_image(x=x, y=y)
        ours = psf.kernel(x, y)
        theirs = image.array / image.array.sum()
        trim = (theirs.shape[0] - ours.shape[0]) // 2
        inner = theirs[trim : theirs.shape[0] - trim, trim : theirs.shape[1] - trim] if trim else theirs
        np.testing.assert_allclose(inner, ours, atol=2e-3 * ours.max())

"""How much of a star's light a subtraction may leave."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.kernels.residuals import _spread_light, template_light

from .starfield import moffat_psf

ERROR, FWHM = 0.01, 4.0


def slowly(light: np.ndarray, variance: np.ndarray, near: np.ndarray | None) -> np.ndarray:
    """What `_spread_light` does, pixel by pixel."""
    reach, out = 6, np.zeros_like(light, dtype=float)
    for y, x in np.argwhere((light > 0) & ((16 * ERROR**2 * light**2 > variance) | np.isinf(variance))):
        if near is not None and not near[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].any():
            continue
        for j in range(max(0, y - reach), min(light.shape[0], y + reach + 1)):
            for i in range(max(0, x - reach), min(light.shape[1], x + reach + 1)):
                taper = np.exp(-0.5 * ((i - x) ** 2 + (j - y) ** 2) / (0.6 * FWHM) ** 2)
                out[j, i] = max(out[j, i], ERROR * light[y, x] * taper)
    return out


@pytest.mark.parametrize("limited", [False, True])
def test_light_is_spread_as_far_as_it_matters(limited: bool) -> None:
    random = np.random.default_rng(8)
    light = np.where(random.random((50, 300)) < 0.01, random.uniform(-100, 400, (50, 300)), 0.0)
    light[0, 0] = light[49, 299] = light[20, 120:140] = 500.0
    variance = np.full(light.shape, 25.0)
    variance[:, 60:70] = np.inf
    near = random.random(light.shape) < 0.002 if limited else None
    misfit = np.zeros(light.shape, np.float32)
    places = np.empty((0, 0), bool) if near is None else near
    _spread_light(light.astype(np.float32), variance.astype(np.float32), ERROR, FWHM, places, misfit)
    expected = slowly(light, variance, near)
    assert (expected > 0).sum() > 300
    np.testing.assert_allclose(misfit, expected, rtol=1e-4, atol=1e-6)


def test_the_light_of_a_star_is_its_flux() -> None:
    kernel = moffat_psf(25, FWHM).kernel(0, 0)
    image = np.zeros((80, 90), np.float32)
    image[20:45, 30:55] = 1000 * kernel
    light = template_light(image, kernel)
    assert light.max() == light[32, 42] == pytest.approx(1000, rel=0.02)

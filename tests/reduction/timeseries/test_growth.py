from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.timeseries.growth import light_inside


def held(radius: float, width: np.ndarray) -> np.ndarray:
    """The light of a Moffat profile (exponent 3) inside a radius."""
    return 1 - (1 + (radius / width) ** 2) ** -2.0


@pytest.fixture
def field() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stars that are 3 % wider at the edge; places, both fluxes with errors, what the aperture holds."""
    rng = np.random.default_rng(8)
    x, y = rng.uniform(0, 1000, (2, 120))
    width = 5.0 * (1 + 0.03 * (((x - 500) / 500) ** 2 + ((y - 500) / 500) ** 2) / 2)
    flux = 10 ** rng.uniform(4.5, 6, 120)
    small, large = held(3.0, width), held(6.0, width)
    inner = rng.normal(0, np.sqrt(flux * small + 5000))
    outer = rng.normal(0, np.sqrt(flux * (large - small) + 15000))
    fluxes = np.stack([flux * small + inner, flux * large + inner + outer])
    errors = np.stack([np.sqrt(flux * small + 5000), np.sqrt(flux * large + 20000)])
    both = np.stack([fluxes, errors], axis=2)
    return x, y, both[0], both[1], large


def test_what_an_aperture_holds_is_found_over_the_frame(
    field: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    x, y, small, large, true = field
    small[::10, 0] *= 0.9  # neighbours in the larger aperture
    change = light_inside(x, y, (1000, 1000), small, large)
    expected = np.log(true)
    wrong = change[:, 0] - expected - np.mean(change[:, 0] - expected)
    assert np.ptp(expected) > 0.01
    assert np.abs(wrong).max() < 0.003
    assert 0.3 < np.std(wrong) / np.median(change[:, 1]) < 2.0


def test_too_few_stars_change_nothing(
    field: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    x, y, small, large, _ = field
    small[5:] = np.nan
    assert not light_inside(x, y, (1000, 1000), small, large).any()

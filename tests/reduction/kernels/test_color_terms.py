"""The slope of the zero point against colour."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.kernels.color_terms import fit_color_term


def stars(number: int, slope: float, seed: int = 1, spread: float = 0.6) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    color = rng.normal(1.2, spread, number)
    error = rng.uniform(0.01, 0.03, number)
    return 28.0 + slope * color + rng.normal(0, error), error, color, np.full(number, 0.01)


@pytest.mark.parametrize("slope", [-0.05, 0.0, 0.02])
def test_the_slope_is_found_within_its_error(slope: float) -> None:
    term = fit_color_term(*stars(300, slope))
    assert term.fitted
    assert 0.001 < term.error < 0.004
    assert abs(term.slope - slope) < 3 * term.error


def test_outliers_do_not_matter() -> None:
    difference, error, color, color_error = stars(200, 0.02)
    difference[::9] += 1.5 * color[::9]
    term = fit_color_term(difference, error, color, color_error)
    assert abs(term.slope - 0.02) < 4 * term.error
    assert term.n_used < 190


def test_few_stars_of_one_colour_leave_it_nominal() -> None:
    for given in (stars(3, 0.05), stars(15, 0.05), stars(100, 0.05, spread=0.05), stars(0, 0.0)):
        term = fit_color_term(*given, nominal=-0.03)
        assert (term.slope, term.error, term.fitted) == (-0.03, 0.0, False)


def test_noisy_and_unknown_colours_are_left_out() -> None:
    difference, error, color, color_error = stars(300, 0.02)
    color_error[::2], color[1::4] = 0.3, np.nan
    difference[::2] += 5.0
    term = fit_color_term(difference, error, color, color_error)
    assert abs(term.slope - 0.02) < 4 * term.error
    assert term.n_used <= 75

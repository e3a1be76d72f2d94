from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import NothingToDoError
from tololo.reduction.timeseries.ensemble import Ensemble, solve_ensemble


class Series:
    """60 frames of 200 stars with clouds; the last star is the target, some others vary."""

    def __init__(self, seed: int = 1, n_frames: int = 60, n_stars: int = 200) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.mean = np.sort(rng.uniform(12, 18, n_stars))
        self.offset = np.cumsum(rng.normal(0, 0.02, n_frames))
        self.offset[20:25] += 0.8  # clouds
        self.error = np.broadcast_to(0.001 * 10 ** (0.3 * (self.mean - 12)), (n_frames, n_stars)).copy()
        self.error[20:25] *= 1.5
        self.magnitude = self.mean + self.offset[:, None] + rng.normal(0, self.error)
        self.constant = np.ones(n_stars, bool)
        self.constant[-1] = False

    def solve(self) -> Ensemble:
        return solve_ensemble(self.magnitude, self.error, self.constant)

    def wrong(self, ensemble: Ensemble) -> np.ndarray:
        """Error of the offsets, less the constant that is free."""
        known = np.isfinite(ensemble.offset)
        difference = np.where(known, ensemble.offset - self.offset, np.nan)
        return np.asarray(difference - np.nanmedian(difference))


def test_offsets_are_found_within_their_errors() -> None:
    series = Series()
    found = series.solve()
    wrong = series.wrong(found)
    assert np.abs(wrong).max() < 0.001
    assert 0.7 < np.std(wrong / found.offset_error) < 1.3
    assert (found.n_stars > 150).all()
    assert np.nanmedian(found.frame_excess) < 0.001


def test_variables_and_outliers_do_not_spoil_them() -> None:
    series = Series()
    phase = np.arange(60)[:, None] / 7
    series.magnitude[:, :30] += 0.3 * np.sin(phase + np.arange(30))  # also the brightest, each for itself
    series.magnitude[series.rng.random(series.magnitude.shape) < 0.02] -= 1.0
    found = series.solve()
    assert np.abs(series.wrong(found)).max() < 0.003
    assert np.median(found.excess[:30]) == pytest.approx(0.3 / np.sqrt(2), rel=0.5)
    assert np.median(found.excess[30:150]) < 0.003


def test_a_target_that_brightens_keeps_its_light() -> None:
    series = Series()
    event = 2.0 * np.exp(-(((np.arange(60) - 30) / 8) ** 2))
    series.magnitude[:, -1] -= event
    series.error[:, -1] = 0.003
    found = series.solve()
    curve = series.magnitude[:, -1] - found.offset
    np.testing.assert_allclose(curve - np.median(curve[:10]), -event + np.median(event[:10]), atol=0.35)
    assert np.abs(series.wrong(found)).max() < 0.001


def test_the_order_of_frames_does_not_matter() -> None:
    series = Series()
    found = series.solve()
    order = series.rng.permutation(60)
    again = solve_ensemble(series.magnitude[order], series.error[order], series.constant)
    np.testing.assert_allclose(again.offset, found.offset[order], atol=1e-6)


def test_missing_stars_and_frames_that_hang_alone() -> None:
    series = Series()
    series.magnitude[series.rng.random(series.magnitude.shape) < 0.3] = np.nan
    series.magnitude[50] = np.nan  # nothing was seen
    series.magnitude[51, 2:] = np.nan  # two stars
    series.magnitude[52:54, :190] = np.nan  # another field ...
    series.magnitude[:52, 190:] = np.nan
    series.magnitude[54:, 190:] = np.nan
    series.error[52:54, 190:199] = 0.01
    found = series.solve()
    assert np.isnan(found.offset[50:54]).all(), "nothing ties these to the others"
    assert np.isfinite(np.delete(found.offset, [50, 51, 52, 53])).all()
    assert np.nanmax(np.abs(series.wrong(found))) < 0.002


def test_nothing_that_could_tell() -> None:
    with pytest.raises(NothingToDoError, match="3 constant stars"):
        solve_ensemble(np.full((4, 5), np.nan), np.ones((4, 5)), np.ones(5, bool))
    series = Series()
    with pytest.raises(NothingToDoError):
        solve_ensemble(series.magnitude, series.error, np.zeros(200, bool))

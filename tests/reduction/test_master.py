from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.stack import Stacked
from tololo.reduction.master import (
    NoiseRows,
    combine_frames,
    local_level,
    master_planes,
    odd_columns,
    row_and_column_rms,
)

SHAPE = (128, 96)
HALVES = slice(0, 48), slice(48, 96)


def images(n: int, scatter: float) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(100, scatter, SHAPE).astype(np.float32) for _ in range(n)]


def test_noise_is_that_of_each_amplifier_and_of_the_signal() -> None:
    image = np.full(SHAPE, 100, np.float32)
    image[3, 3], image[3, 4] = np.nan, -50
    rows = NoiseRows(image, ((HALVES[0], 4.0, 0.5),))[2:5]
    assert rows.shape == (3, 96)
    assert rows[0, 0] == 54
    assert rows[1, 4] == 4
    assert np.isnan(rows[1, 3])
    assert np.isnan(rows[:, HALVES[1]]).all()


@pytest.mark.parametrize("claimed", [0.5, 1.0, 2.0])
def test_the_scatter_shows_whether_variances_are_right(claimed: float) -> None:
    frames = images(8, 3.0)
    noise = [NoiseRows(image, tuple((half, claimed * 9.0, 0.0) for half in HALVES)) for image in frames]
    stacked, scatter = combine_frames(frames, noise, [1.0] * 8, 5.0)
    assert scatter.mean() == pytest.approx(1 / claimed, rel=0.03)
    kept = stacked.n_used == 8
    assert stacked.variance[kept] == pytest.approx(claimed * 9 / 8)
    np.testing.assert_allclose(stacked.image[kept], np.mean(frames, axis=0)[kept], rtol=1e-5)


def test_a_ray_is_clipped_and_what_has_no_data_is_left_out() -> None:
    frames = images(5, 1.0)
    frames[2][10, 10] += 100
    frames[3][20, 20] = np.nan
    for frame in frames:
        frame[30, 30] = np.nan
    noise = [NoiseRows(image, tuple((half, 1.0, 0.0) for half in HALVES)) for image in frames]
    stacked, scatter = combine_frames(frames, noise, [1.0] * 5, 4.0)
    assert stacked.n_used[[10, 20, 30], [10, 20, 30]].tolist() == [4, 4, 0]
    assert stacked.mask[10, 10] == BIT["CLIPPED"]
    assert stacked.image[10, 10] == pytest.approx(100, abs=3)
    assert scatter[10, 10] > 100
    assert np.isnan(scatter[30, 30])


def test_masters_hold_numbers_everywhere_and_say_which_are_none() -> None:
    image = np.ones(SHAPE, np.float32)
    image[5, 5] = np.nan
    stacked = Stacked(
        image,
        np.ones(SHAPE, np.float32),
        np.ones(SHAPE, np.int16),
        np.zeros(SHAPE, np.int32),
        np.zeros(1, np.int64),
    )
    bad = np.zeros(SHAPE, bool)
    bad[6, 6] = True
    planes = master_planes(stacked, bad, 7.0)
    assert np.isfinite(planes.image).all()
    assert (planes.image[5, 5], planes.bits[5, 5]) == (7.0, BIT["BAD"] | BIT["NO_DATA"])
    assert (planes.image[6, 6], planes.bits[6, 6]) == (1.0, BIT["BAD"])
    assert planes.bad.sum() == 2


def test_levels_bridge_blocks_without_data() -> None:
    image = np.full(SHAPE, 5, np.float32)
    image[:32, :32] = np.nan
    image[64:, :] = 9
    level = local_level(image)
    assert level.shape == SHAPE
    assert (level[0, 0], level[127, 95]) == (5, 9)
    assert np.isnan(local_level(np.full(SHAPE, np.nan, np.float32))).all()


def test_columns_are_found_from_where_they_begin() -> None:
    image = np.random.default_rng(2).normal(0, 1, (600, 96)).astype(np.float32)
    image += np.linspace(0, 40, 96, dtype=np.float32)  # a slope is no column
    image[256:, 40] += 5
    image[:, 41] = np.nan
    image[100, 60] += 1000
    odd = odd_columns(image, 3.0)
    assert odd[256:, 40].all()
    assert not odd[:256, 40].any()
    assert set(np.flatnonzero(odd.any(axis=0))) <= {40, 41}


def test_structure_is_told_by_rows_and_by_columns() -> None:
    image = np.zeros(SHAPE, np.float32)
    image += np.where(np.arange(96) % 2, 2, -2).astype(np.float32)
    image[0, 0] = np.nan
    rows, columns = row_and_column_rms(image)
    assert columns == pytest.approx(2)
    assert rows < 0.2

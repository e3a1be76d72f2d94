from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.saturation import grow_saturation

from .starfield import moffat

BIT = 4
SKY = 900.0


def grown(light: NDArray[np.float64], full: NDArray[np.bool_], cold: int | None = None) -> NDArray[np.bool_]:
    rng = np.random.default_rng(1)
    expected = light + SKY
    image = (expected + rng.normal(size=light.shape) * np.sqrt(expected)).astype(np.float32)
    bits = np.where(full, BIT, 0).astype(np.int32)
    if cold is not None:
        image[:, cold] = -5000
        bits[:, cold] |= 1
    grow_saturation(image, expected.astype(np.float32), bits, BIT)
    assert np.isin(bits, (0, 1, BIT, BIT | 1)).all()
    assert ((bits & 1) != 0).sum() == (0 if cold is None else len(bits))
    return np.asarray((bits & BIT) != 0)


def test_a_trail_is_followed_as_far_as_it_stands_out() -> None:
    light, full = np.zeros((400, 60)), np.zeros((400, 60), dtype=bool)
    full[100:200, 30:32] = True
    light[full] = 1e5
    decay = 1e5 * np.exp(-np.arange(200) / 8)
    light[200:400, 30] += decay
    light[:100, 31] += decay[:100][::-1]
    masked = grown(light, full)
    assert masked[99:201, 29:33].all()
    bright = light > 5 * np.sqrt(SKY)
    assert masked[bright].all()
    # It ends where the trail fades: 8 ln(1e5 / 30) = 65 pixels on.
    assert not masked[200 + 90 :].any()
    assert not masked[: 100 - 90].any()
    assert not masked[:, :28].any()
    assert not masked[:, 34:].any()


def test_a_cold_column_does_not_lengthen_a_trail() -> None:
    light, full = np.zeros((600, 60)), np.zeros((600, 60), dtype=bool)
    full[300:340, 30] = True
    light[full] = 1e5
    for cold in (25, 30 + 4, 30 + 6):
        assert grown(light, full, cold).any(axis=1).sum() < 42 + 20


def test_pixels_alone_get_their_neighbours_only() -> None:
    full = np.zeros((50, 70), dtype=bool)
    full[0, 0], full[20, 30], full[49, 69] = True, True, True
    expected = np.zeros_like(full)
    expected[:2, :2], expected[19:22, 29:32], expected[48:, 68:] = True, True, True
    np.testing.assert_array_equal(grown(np.zeros(full.shape), full), expected)
    assert not grown(np.zeros(full.shape), np.zeros_like(full)).any()


def test_the_halo_of_a_saturated_star_stays() -> None:
    light = moffat((200, 200), np.array([[100.0, 100.0, 3e6]]), 4.5)
    full = light > 60_000
    masked = grown(np.minimum(light, 60_000), full)
    y, x = np.nonzero(full)
    assert masked[y, x].all()
    # Beyond the core only the column through it may be taken.
    columns = np.flatnonzero(masked.any(axis=0))
    assert columns.min() >= x.min() - 1
    assert columns.max() <= x.max() + 1
    assert masked.sum() < 6 * full.sum()

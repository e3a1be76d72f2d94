"""Tiles in steps, coded by RICE: what the FITS library decodes is what went in."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io.fits.hdu.compressed._codecs import Rice1
from astropy.io.fits.hdu.compressed._quantization import DITHER_METHODS, Quantize
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.rice import (
    BLANK,
    PIXELS_PER_BLOCK,
    RANDOM_NUMBERS,
    ZERO,
    Tiles,
    encode_floats,
    encode_integers,
    random_numbers,
)

SEED = 9990  # the sequence of random rows begins anew within a few tiles
INT = np.iinfo(np.int32)


def decoded(tiles: Tiles, shape: tuple[int, int], rows: int) -> NDArray[np.int32]:
    """Return the integers of all tiles, as cfitsio's code reads them; tiles without code are zero."""
    image = np.zeros(shape, np.int32)
    for i, (offset, size) in enumerate(zip(tiles.offsets, tiles.sizes, strict=True)):
        part = image[i * rows : (i + 1) * rows]
        if size:
            codec = Rice1(blocksize=PIXELS_PER_BLOCK, bytepix=4, tilesize=part.size)
            part[:] = codec.decode(tiles.heap[offset : offset + size])[: part.size].reshape(part.shape)
    return image


def values(tiles: Tiles, shape: tuple[int, int], rows: int, step: float, seed: int) -> NDArray[np.float32]:
    """Return the values of all tiles, as cfitsio's code subtracts the dithering."""
    steps = decoded(tiles, shape, rows)
    image = np.empty(shape, np.float32)
    for i, zero in enumerate(tiles.zeros):
        part = steps[i * rows : (i + 1) * rows]
        method = DITHER_METHODS["SUBTRACTIVE_DITHER_2"]
        quantiser = Quantize(row=i + seed, dither_method=method, quantize_level=None, bitpix=-32)
        known = np.asarray(quantiser.decode_quantized(part, step, zero)).reshape(part.shape)
        image[i * rows : (i + 1) * rows] = np.where(part == BLANK, np.nan, known)
    return image


def test_integers_of_any_size_come_back() -> None:
    random = np.random.default_rng(1)
    for scale in (0, 0.3, 1, 5, 100, 1e4, 1e6, 1e8, 1e9):
        for shape, rows in (
            ((1, 1), 1),
            ((1, 2), 1),
            ((3, 31), 2),
            ((4, 32), 4),
            ((7, 33), 3),
            ((5, 409), 5),
        ):
            image = np.clip(random.normal(0, scale, shape), INT.min, INT.max).astype(np.int32)
            tiles = encode_integers(image, rows)
            np.testing.assert_array_equal(decoded(tiles, shape, rows), image)
            assert len(tiles.sizes) == -(-shape[0] // rows)


def test_leaps_between_extremes_come_back() -> None:
    random = np.random.default_rng(2)
    extremes = np.array([INT.min, INT.min + 1, -1, 0, 1, INT.max - 1, INT.max], np.int32)
    wild = random.choice(extremes, (9, 100))
    rare = np.zeros((40, 100), np.int32)
    rare[random.integers(0, 40, 60), random.integers(0, 100, 60)] = random.choice(extremes, 60)
    # One leap in a block of small differences: more zeros than a word has room for.
    single = np.zeros((1, 64), np.int32)
    single[0, 40:] = 600
    for image in (wild, rare, single, np.full((3, 70), INT.min, np.int32)):
        np.testing.assert_array_equal(decoded(encode_integers(image, 4), image.shape, 4), image)


def test_a_smooth_image_takes_little_room() -> None:
    constant = encode_integers(np.full((64, 2048), 7, np.int32), 32)
    assert constant.heap.size <= 64 * 2048 * 5 / 32 / 8 + 16
    noise = np.random.default_rng(3).normal(0, 16, (64, 2048)).round().astype(np.int32)
    entropy = np.log2(16 * np.sqrt(2) * np.sqrt(2 * np.pi * np.e))
    assert encode_integers(noise, 32).heap.size * 8 / noise.size < entropy + 0.35


@pytest.mark.parametrize("rows", [1, 7, 32, 50])
def test_values_come_back_within_half_a_step(rows: int) -> None:
    random = np.random.default_rng(4)
    image = random.normal(100, 3, (50, 401)).astype(np.float32)
    image[10:20, 100:140] += random.uniform(0, 5e4, (10, 40)).astype(np.float32)
    image[3, :] = 0
    image[30, 5] = image[49, 400] = image[0, 0] = np.nan
    image[40, ::2] = np.nan
    tiles = encode_floats(image, rows, 0.25, SEED)
    assert tiles.blank
    found = values(tiles, image.shape, rows, 0.25, SEED)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(image))
    np.testing.assert_array_equal(found[3], 0)
    off = (found.astype(float) - image)[np.isfinite(image) & (image != 0)]
    assert np.abs(off).max() <= 0.126 + 5e4 * np.finfo(np.float32).eps
    assert off.mean() == pytest.approx(0, abs=4 * 0.25 / np.sqrt(12 * off.size))


def test_dithering_leaves_no_mean_in_what_is_constant() -> None:
    for value in (1.0, 1.03, 1.12499, -2.31, 1e-3):
        image = np.full((32, 2046), value, np.float32)
        found = values(encode_floats(image, 32, 0.25, 1), image.shape, 32, 0.25, 1)
        assert found.mean(dtype=float) == pytest.approx(value, abs=0.002)
        assert found.std(dtype=float) == pytest.approx(0.25 / np.sqrt(12), rel=0.02)


def test_steps_are_those_of_the_fits_library() -> None:
    image = np.random.default_rng(5).normal(0, 4, (6, 3000)).astype(np.float32)
    tiles = encode_floats(image, 2, 0.5, SEED)
    steps = decoded(tiles, image.shape, 2)
    for i in range(3):
        method = DITHER_METHODS["SUBTRACTIVE_DITHER_2"]
        quantiser = Quantize(row=i + SEED, dither_method=method, quantize_level=-0.5, bitpix=-32)
        theirs, scale, zero = quantiser.encode_quantized(image[2 * i : 2 * i + 2])
        assert (scale, zero) == pytest.approx((0.5, tiles.zeros[i]))
        apart = steps[2 * i : 2 * i + 2].ravel() - theirs
        assert np.count_nonzero(apart) < 5  # a value halfway between two steps goes either way
        assert np.abs(apart).max() <= 1


def test_a_tile_of_nothing() -> None:
    image = np.full((4, 40), np.nan, np.float32)
    tiles = encode_floats(image, 2, 0.5, 1)
    assert tiles.blank
    assert np.isnan(values(tiles, image.shape, 2, 0.5, 1)).all()


def test_an_image_without_nan_says_so() -> None:
    image = np.linspace(-3, 3, 200, dtype=np.float32).reshape(4, 50)
    tiles = encode_floats(image, 4, 0.01, 1)
    assert not tiles.blank
    assert decoded(tiles, image.shape, 4).min() > ZERO


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, -1e30])
def test_what_has_no_steps_is_left_out(value: float) -> None:
    image = np.random.default_rng(6).normal(0, 1, (9, 64)).astype(np.float32)
    image[4, 9] = value
    tiles = encode_floats(image, 3, 0.1, 1)
    assert (tiles.sizes > 0).tolist() == [True, False, True]
    found = values(tiles, image.shape, 3, 0.1, 1)
    np.testing.assert_allclose(found[[0, 1, 2, 6, 7, 8]], image[[0, 1, 2, 6, 7, 8]], atol=0.051)


def test_the_random_numbers_are_those_of_the_standard() -> None:
    numbers = random_numbers()
    assert numbers.shape == (RANDOM_NUMBERS,)
    assert numbers[0] == pytest.approx(16807 / 2147483647)
    assert numbers[-1] == pytest.approx(1043618065 / 2147483647)


@pytest.mark.parametrize(
    ("shape", "rows", "step", "seed", "words"),
    [
        ((4, 4), 2, 0.0, 1, "steps of 0.0"),
        ((4, 4), 2, -1.0, 1, "steps of -1.0"),
        ((4, 4), 2, np.nan, 1, "steps of nan"),
        ((4, 4), 2, 1.0, 0, "no seed"),
        ((4, 4), 2, 1.0, 10001, "no seed"),
        ((0, 4), 2, 1.0, 1, "cannot be coded"),
        ((4, 4), 0, 1.0, 1, "cannot be coded"),
        ((4,), 1, 1.0, 1, "cannot be coded"),
    ],
)
def test_bad_input_is_refused(shape: tuple[int, ...], rows: int, step: float, seed: int, words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        encode_floats(np.zeros(shape, np.float32), rows, step, seed)

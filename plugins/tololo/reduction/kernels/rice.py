"""Tiles of images in steps, coded by RICE_1 as the FITS standard has it.

Any reader of tile-compressed FITS undoes it: the stream, the dithering and the reserved values are those of
the FITS standard 4.0 (sections 10.2, 10.3 and 10.4.1, appendix I), the coder is that of Rice, Yeh & Miller
(1993), the steps are those of Pence, White & Seaman (2010, PASP 122, 1065).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled

PIXELS_PER_BLOCK = 32
"""Pixels that are coded with one number of low bits."""

BLANK = -2147483648
"""What stands for NaN among the quantised values."""

ZERO = -2147483646
"""What stands for exactly 0 among them."""

RESERVED = 10
"""Values at the lower end that mean something else, rounded up."""

RANDOM_NUMBERS = 10_000
"""Length of the sequence that values are dithered with."""

_LOWEST = -2147483647
_MOST_STEPS = 4294967000.0
"""A tile with more steps than this between its values has no code."""

_COUNT_BITS, _MOST_LOW_BITS = 5, 25

_WORST = 1.05
"""A stream is at most so many times as long as the pixels: 32 raw values and a count for each block."""


@dataclass(frozen=True)
class Tiles:
    """The coded tiles of an image, each of some whole rows.

    Attributes
    ----------
    heap : `numpy.ndarray`, (n,), uint8
        The streams.
    offsets, sizes : `numpy.ndarray`, (tiles,), int64
        Where the stream of a tile begins and how long it is, bytes. The size is zero where a tile cannot be
        quantised (it holds infinities, or too many steps).
    zeros : `numpy.ndarray`, (tiles,), float64
        Value of step 0.
    blank : `bool`
        Whether `BLANK` stands among the values.
    """

    heap: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    zeros: NDArray[np.float64]
    blank: bool = False


def encode_integers(image: NDArray[np.int32], rows: int) -> Tiles:
    """Code an image of integers without loss.

    Parameters
    ----------
    image : `numpy.ndarray`, (ny, nx), int32
    rows : `int`
        Rows of a tile; the last may have fewer.

    Raises
    ------
    BadInputError
        If there are no pixels.
    """
    tiles, words = _empty(image, rows)
    _encode_integers(image, rows, words, tiles.offsets, tiles.sizes)
    return _filled(tiles, words)


def encode_floats(image: NDArray[np.float32], rows: int, step: float, seed: int) -> Tiles:
    """Code an image in steps of one size.

    Parameters
    ----------
    image : `numpy.ndarray`, (ny, nx), float32
        NaN comes back as NaN, and exactly 0 as 0.
    rows : `int`
        Rows of a tile; the last may have fewer.
    step : `float`
        Size of a step, in the unit of the pixels. What comes back is off by half a step at most.
    seed : `int`
        Where the dithering begins, from 1 to 10000 (``ZDITHER0``). As it is subtracted by the reader
        (``SUBTRACTIVE_DITHER_2``), the error does not depend on the value and has no mean.

    Raises
    ------
    BadInputError
        If there are no pixels, the step is not positive, or the seed is out of its range.
    """
    if not (np.isfinite(step) and step > 0):
        raise BadInputError(f"Pixels cannot be coded in steps of {step}", "", "use a positive step")
    if not 1 <= seed <= RANDOM_NUMBERS:
        raise BadInputError(f"{seed} is no seed of dithering", "", f"use 1 to {RANDOM_NUMBERS}")
    tiles, words = _empty(image, rows)
    randoms = random_numbers()
    blank = _encode_floats(image, rows, step, seed, randoms, words, tiles.offsets, tiles.sizes, tiles.zeros)
    return _filled(tiles, words, blank)


@cache
def random_numbers() -> NDArray[np.float32]:
    """Return the sequence that values are dithered with (FITS standard 4.0, appendix I), shape (10000,)."""
    factor, modulus, seed = 16807, 2147483647, 1
    values = np.empty(RANDOM_NUMBERS, np.float32)
    for i in range(RANDOM_NUMBERS):
        seed = factor * seed % modulus
        values[i] = seed / modulus
    if seed != 1043618065:  # what the standard says to check
        raise AssertionError("The sequence of random numbers is not that of the FITS standard")
    return values


def _empty(image: NDArray[np.generic], rows: int) -> tuple[Tiles, NDArray[np.uint32]]:
    """Return tiles to be filled, and room for all streams (of which only what is used takes memory)."""
    if image.ndim != 2 or image.size == 0 or rows < 1:
        raise BadInputError(f"An image of shape {image.shape} cannot be coded in tiles of {rows} rows")
    number = -(-image.shape[0] // rows)
    words = np.empty(int(image.size * _WORST) + 8 * number, np.uint32)
    tiles = Tiles(
        words.view(np.uint8), np.zeros(number, np.int64), np.zeros(number, np.int64), np.zeros(number)
    )
    return tiles, words


def _filled(tiles: Tiles, words: NDArray[np.uint32], blank: bool = False) -> Tiles:
    end = int(tiles.offsets[-1] + tiles.sizes[-1])
    return Tiles(words.view(np.uint8)[:end], tiles.offsets, tiles.sizes, tiles.zeros, blank)


@compiled
def _encode_integers(
    image: NDArray[np.int32],
    rows: int,
    words: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> None:
    """Code the tiles one after the other; each begins at a whole word."""
    folded = np.empty(rows * image.shape[1], np.uint32)
    word = 0
    for tile in range(offsets.size):
        values = image[tile * rows : min((tile + 1) * rows, image.shape[0])].reshape(-1)
        offsets[tile] = 4 * word
        sizes[tile] = _encode(values, folded, words[word:])
        word += (sizes[tile] + 3) // 4


@compiled
def _encode_floats(
    image: NDArray[np.float32],
    rows: int,
    step: float,
    seed: int,
    randoms: NDArray[np.float32],
    words: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    zeros: NDArray[np.float64],
) -> bool:
    """Quantise and code the tiles one after the other, and tell whether there is a NaN."""
    blank = False
    steps = np.empty(rows * image.shape[1], np.int32)
    folded = np.empty(rows * image.shape[1], np.uint32)
    word = 0
    for tile in range(offsets.size):
        values = image[tile * rows : min((tile + 1) * rows, image.shape[0])].reshape(-1)
        offsets[tile] = 4 * word
        lowest, highest, unknown = _range(values)
        blank |= unknown
        if not (np.float64(highest) - np.float64(lowest)) / step < _MOST_STEPS:
            continue
        # The least value is near those that mean NaN and zero, so that the difference to these is small.
        zeros[tile] = np.float64(lowest) - step * (_LOWEST + RESERVED)
        quantised = steps[: values.size]
        _dither(values, step, zeros[tile], randoms, (tile + seed - 1) % randoms.size, quantised)
        sizes[tile] = _encode(quantised, folded, words[word:])
        word += (sizes[tile] + 3) // 4
    return blank


@compiled
def _range(values: NDArray[np.float32]) -> tuple[np.float32, np.float32, bool]:
    """Return the least and the greatest value that is not NaN (zeros if there is none), and if one is NaN.

    Compared are the bits as integers, in the order of the values: for them the processor does eight at once.
    """
    bits = values.view(np.int32)
    lowest, highest = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    unknown = np.int32(0)
    for i in range(bits.size):
        bit = bits[i]
        magnitude = bit & np.int32(0x7FFFFFFF)
        known = magnitude <= np.int32(0x7F800000)
        order = np.int32(bit if bit >= 0 else -magnitude)
        lowest = min(lowest, order if known else np.int32(0x7FFFFFFF))
        highest = max(highest, order if known else np.int32(-0x80000000))
        unknown |= np.int32(0) if known else np.int32(1)
    if lowest > highest:
        return np.float32(0.0), np.float32(0.0), unknown != 0
    return _value(lowest), _value(highest), unknown != 0


@compiled
def _value(order: np.int32) -> np.float32:
    """Return the number whose bits have this place in the order."""
    bits = np.empty(1, np.uint32)
    bits[0] = np.uint32(order) if order >= 0 else np.uint32(-order) | np.uint32(0x80000000)
    value: np.float32 = bits.view(np.float32)[0]
    return value


@compiled
def _dither(
    values: NDArray[np.float32],
    step: float,
    zero: float,
    randoms: NDArray[np.float32],
    row: int,
    quantised: NDArray[np.int32],
) -> None:
    """Turn values into steps, with a random number added (`SUBTRACTIVE_DITHER_2`)."""
    next_random = int(randoms[row] * 500)
    done = 0
    while done < values.size:
        run = min(values.size - done, randoms.size - next_random)
        _dither_run(
            values[done : done + run],
            step,
            zero,
            randoms[next_random : next_random + run],
            quantised[done : done + run],
        )
        done += run
        row = (row + 1) % randoms.size
        next_random = int(randoms[row] * 500)


@compiled
def _dither_run(
    values: NDArray[np.float32],
    step: float,
    zero: float,
    randoms: NDArray[np.float32],
    quantised: NDArray[np.int32],
) -> None:
    """Dither values, each with its own random number."""
    per_step = 1.0 / step
    for i in range(values.size):
        value = values[i]
        known = not np.isnan(value)
        at = ((np.float64(value) if known else zero) - zero) * per_step
        steps = np.int32(np.floor(at + np.float64(randoms[i])))
        steps = np.int32(ZERO) if value == np.float32(0.0) else steps
        quantised[i] = steps if known else np.int32(BLANK)


@compiled
def _fold(values: NDArray[np.int32], folded: NDArray[np.uint32]) -> None:
    """Take the difference of each value to the one before, and fold it to be positive: 0, -1, 1, -2, ..."""
    folded[0] = np.uint32(0)
    before, after, folds = values[:-1], values[1:], folded[1:]
    for i in range(folds.size):
        difference = np.int32(after[i] - before[i])
        folds[i] = np.uint32((difference << np.int32(1)) ^ (difference >> np.int32(31)))


@compiled
def _encode(values: NDArray[np.int32], folded: NDArray[np.uint32], words: NDArray[np.uint32]) -> int:
    """Write the RICE_1 stream of 32-bit integers, and return its length in bytes.

    The first value stands as it is. Then, for each block, come the number of low bits (plus one; zero says
    that all differences are zero, 26 that they follow as they are), and of each difference the high part in
    unary, a one, and the low bits.
    """
    _fold(values, folded)
    words[0] = _swapped(np.uint32(values[0]))
    # Bits wait in the upper end of `bits`, fewer than 32 of them after each step. The word that they begin is
    # stored at once, complete or not: that is quicker than to ask.
    bits, waiting, word = np.uint64(0), 0, 1
    for start in range(0, values.size, PIXELS_PER_BLOCK):
        block = folded[start : min(start + PIXELS_PER_BLOCK, values.size)]
        total = np.uint64(0)
        for i in range(block.size):
            total += np.uint64(block[i])
        low = min(_low_bits(total, block.size), _MOST_LOW_BITS)
        count = low + 1 if total > 0 else 0
        bits |= np.uint64(count) << np.uint64(64 - waiting - _COUNT_BITS)
        bits, waiting, word = _store(bits, waiting + _COUNT_BITS, words, word)
        if count == 0:
            continue
        if low == _MOST_LOW_BITS:
            for i in range(block.size):
                bits |= np.uint64(block[i]) << np.uint64(32 - waiting)
                bits, waiting, word = _store(bits, waiting + 32, words, word)
            continue
        shift, one = np.uint64(low), np.uint64(1) << np.uint64(low)
        for i in range(0, block.size - 1, 2):
            # Two at a time, as each has to wait for the one before.
            fold, other = np.uint64(block[i]), np.uint64(block[i + 1])
            length, further = int(np.int64(fold >> shift)) + 1 + low, int(np.int64(other >> shift)) + 1 + low
            code, last = one | (fold & (one - np.uint64(1))), one | (other & (one - np.uint64(1)))
            if length + further <= 32:
                code = (code << np.uint64(further)) | last
                length += further
            else:
                bits, waiting, word = _put(code, length, low, bits, waiting, words, word)
                code, length = last, further
            bits, waiting, word = _put(code, length, low, bits, waiting, words, word)
        if block.size % 2:
            fold = np.uint64(block[-1])
            code, length = one | (fold & (one - np.uint64(1))), int(np.int64(fold >> shift)) + 1 + low
            bits, waiting, word = _put(code, length, low, bits, waiting, words, word)
    _store(bits, waiting, words, word)
    return 4 * word + (waiting + 7) // 8


@compiled
def _put(
    code: np.uint64,
    length: int,
    low: int,
    bits: np.uint64,
    waiting: int,
    words: NDArray[np.uint32],
    word: int,
) -> tuple[np.uint64, int, int]:
    """Append a code, whose zeros may be more than a word has room for."""
    while length > 32:
        part = min(length - low - 1, 32)
        bits, waiting, word = _store(bits, waiting + part, words, word)
        length -= part
    return _store(bits | (code << np.uint64(64 - waiting - length)), waiting + length, words, word)


@compiled
def _store(bits: np.uint64, waiting: int, words: NDArray[np.uint32], word: int) -> tuple[np.uint64, int, int]:
    """Store the word that the waiting bits begin, and keep what it does not hold."""
    words[word] = _swapped(np.uint32(bits >> np.uint64(32)))
    full = waiting >> 5
    return bits << np.uint64(32 * full), waiting - 32 * full, word + full


@compiled
def _low_bits(total: np.uint64, size: int) -> int:
    """Return how many low bits suit differences of this sum; the coder's own rule, which no reader needs."""
    mean = (np.float64(total) - size // 2 - 1) / size
    number = np.int64(max(mean, 0.0)) >> 1
    low = 0
    while number > 0:
        low += 1
        number >>= 1
    return low


@compiled
def _swapped(word: np.uint32) -> np.uint32:
    """Return a word with its bytes in the order of the stream."""
    return np.uint32(
        (word >> np.uint32(24))
        | ((word >> np.uint32(8)) & np.uint32(0xFF00))
        | ((word & np.uint32(0xFF00)) << np.uint32(8))
        | (word << np.uint32(24))
    )

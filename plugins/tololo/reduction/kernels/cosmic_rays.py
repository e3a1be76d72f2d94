"""Cosmic rays: pixels that stand out more sharply than any star can.

This is L.A.Cosmic turned round. A fast pass finds the few pixels that stand out from two opposite neighbours;
only these candidates are looked at, in many shapes: alone, in lines of several directions, one and two pixels
wide. A candidate is a cosmic ray if in one of them it is significant and, as the fine structure decides in
L.A.Cosmic, sharper than the sharpest star or trail may be. What is found is replaced, and its neighbours are
looked at again with a lower threshold.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.masks import BIT, UNUSABLE
from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.cosmic_ray_shapes import shape_tables, star_ratios

SHARPEST = 0.87
"""A star may be as sharp as this part of the FWHM says: the PSF varies and is not round."""
MODEL_ERROR = 0.1
"""Error of what a star is expected to show, relative to its light."""
GUESS_ERROR = 0.3
"""The same where the dark pixels are themselves replaced cosmic rays."""
UNLIKE_A_STAR = 2.5
"""By how many sigma a candidate has to be sharper than a star of the same light."""
SCREEN = 3.0
"""Threshold of the fast pass, in sigma."""
QUICK = 2.0
"""The same for the neighbours of what is found."""
GROWTH = 3.0
"""Threshold for these neighbours, which need not be told from all the noise of the image."""
SHARE = 3.0
"""By how many sigma a pixel has to stand out itself to belong to a shape of several."""
QUEUED, NEAR = 1, 2
"""State of a pixel: is a candidate of this round; is a neighbour of one that was found."""
RING_POINTS = 16
LOW_QUANTILE = 5
"""The sky at a candidate is this one of the ring's pixels in rising order: never the light of its star."""


@compiled
def screen(
    image: NDArray[np.float32], variance: NDArray[np.float32], factor: float, found: NDArray[np.int64]
) -> int:
    """Write flat indices of pixels far above the lowest mean of two opposite neighbours, as far as they fit.

    Return how many there are. ``factor`` is the square of the threshold in units of the pixel's noise.
    """
    height, width = image.shape
    padded = (width + 7) // 8 * 8
    flags = np.zeros(padded, np.uint8)
    words = flags.view(np.uint64)
    limit, half = np.float32(factor), np.float32(0.5)
    number = 0
    for y in range(1, height - 1):
        up, middle, down, noise = image[y - 1], image[y], image[y + 1], variance[y]
        for x in range(1, width - 1):
            lowest = middle[x - 1] + middle[x + 1]
            other = up[x] + down[x]
            lowest = other if other < lowest else lowest
            other = up[x - 1] + down[x + 1]
            lowest = other if other < lowest else lowest
            other = up[x + 1] + down[x - 1]
            lowest = other if other < lowest else lowest
            excess = middle[x] - half * lowest
            over = excess * excess > limit * noise[x]
            flags[x] = np.uint8(over) & np.uint8(excess > np.float32(0.0))
        for k in range(words.size):
            if words[k] != 0:
                for x in range(8 * k, 8 * k + 8):
                    if flags[x] != 0:
                        if number < found.size:
                            found[number] = y * width + x
                        number += 1
    return number


@compiled
def sky_at(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bits: NDArray[np.int32],
    leave_out: int,
    y: int,
    x: int,
    ring: NDArray[np.int64],
    values: NDArray[np.float64],
    noises: NDArray[np.float64],
) -> tuple[float, float]:
    """Return a low value of the pixels around a candidate and its variance; infinity where there are none."""
    height, width = image.shape
    n = 0
    for k in range(ring.shape[0]):
        j, i = y + ring[k, 0], x + ring[k, 1]
        if j < 0 or i < 0 or j >= height or i >= width or bits[j, i] & leave_out != 0:
            continue
        value, m = float(image[j, i]), n
        while m > 0 and values[m - 1] > value:
            values[m], noises[m] = values[m - 1], noises[m - 1]
            m -= 1
        values[m], noises[m] = value, float(variance[j, i])
        n += 1
    if n < 4:
        return np.inf, np.inf
    m = n * LOW_QUANTILE // RING_POINTS
    return values[m], noises[m]


@compiled
def is_sharp(
    image: NDArray[np.float32],
    bits: NDArray[np.int32],
    unusable: int,
    found: int,
    y: int,
    x: int,
    sky: float,
    noise: float,
    points: NDArray[np.int64],
    n_own: NDArray[np.int64],
    n_dark: NDArray[np.int64],
    ratios: NDArray[np.float64],
    threshold: float,
) -> bool:
    """Say whether a pixel stands out by so many sigma in one of the shapes and no star explains that."""
    height, width = image.shape
    for k in range(points.shape[0]):
        own, dark = 0.0, 0.0
        usable, guessed = True, 0
        for m in range(n_own[k] + n_dark[k]):
            j, i = y + points[k, m, 0], x + points[k, m, 1]
            if j < 0 or i < 0 or j >= height or i >= width or bits[j, i] & unusable != 0:
                usable = False
                break
            if m < n_own[k]:
                own += image[j, i]
            else:
                dark += image[j, i]
                guessed += int(bits[j, i] & found != 0)
        if not usable:
            continue
        own = own / n_own[k] - sky
        dark = dark / n_dark[k] - sky
        star = max(dark / ratios[k], 0.0)
        own_noise = (noise + star) / n_own[k]
        dark_noise = (noise + star * ratios[k]) / n_dark[k]
        excess = own - dark
        if not (excess > 0.0 and excess * excess > threshold * threshold * (own_noise + dark_noise)):
            continue
        # Were it a star, its dark pixels would have it hold at most this much.
        rest = dark / ratios[k]
        error = (MODEL_ERROR + GUESS_ERROR * guessed / n_dark[k]) * star
        spread = math.sqrt(own_noise + dark_noise / ratios[k] ** 2 + error * error)
        # The pixel has to take part in what it is found for.
        alone = image[y, x] - sky - rest > SHARE * math.sqrt(noise + star)
        if own - rest > UNLIKE_A_STAR * spread and (alone or n_own[k] == 1):
            return True
    return False


@compiled
def stands_out(image: NDArray[np.float32], variance: NDArray[np.float32], y: int, x: int) -> bool:
    """Say quickly whether a pixel is worth a closer look: the test of `screen` with a lower threshold."""
    height, width = image.shape
    if y < 1 or x < 1 or y >= height - 1 or x >= width - 1:
        return True
    lowest = min(
        image[y, x - 1] + image[y, x + 1],
        image[y - 1, x] + image[y + 1, x],
        image[y - 1, x - 1] + image[y + 1, x + 1],
        image[y - 1, x + 1] + image[y + 1, x - 1],
    )
    excess = image[y, x] - 0.5 * lowest
    return bool(excess > 0.0 and excess * excess > QUICK * QUICK * variance[y, x])


@compiled
def judge(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bits: NDArray[np.int32],
    unusable: int,
    found: int,
    candidates: NDArray[np.int64],
    state: NDArray[np.uint8],
    threshold: float,
    ring: NDArray[np.int64],
    points: NDArray[np.int64],
    n_own: NDArray[np.int64],
    n_dark: NDArray[np.int64],
    ratios: NDArray[np.float64],
    hits: NDArray[np.int64],
) -> int:
    """Write those candidates that no star explains into ``hits``; return how many."""
    width = image.shape[1]
    values, noises = np.empty(ring.shape[0]), np.empty(ring.shape[0])
    number = 0
    for n in range(candidates.size):
        y, x = candidates[n] // width, candidates[n] % width
        near = state[y, x] & NEAR != 0
        state[y, x] &= NEAR
        if bits[y, x] & (unusable | found) != 0 or not stands_out(image, variance, y, x):
            continue
        sky, noise = sky_at(image, variance, bits, unusable | found, y, x, ring, values, noises)
        if not (sky < np.inf and noise > 0.0):
            continue
        limit = min(GROWTH, threshold) if near else threshold
        if is_sharp(image, bits, unusable, found, y, x, sky, noise, points, n_own, n_dark, ratios, limit):
            hits[number] = candidates[n]
            number += 1
    return number


@compiled
def replace(
    image: NDArray[np.float32], bits: NDArray[np.int32], leave_out: int, hits: NDArray[np.int64]
) -> None:
    """Give pixels the median of the good ones in the 5 x 5 around them, for what is compared next."""
    height, width = image.shape
    values = np.empty(25)
    for n in range(hits.size):
        y, x = hits[n] // width, hits[n] % width
        m = 0
        for j in range(max(0, y - 2), min(height, y + 3)):
            for i in range(max(0, x - 2), min(width, x + 3)):
                if bits[j, i] & leave_out == 0:
                    values[m] = image[j, i]
                    m += 1
        if m > 0:
            image[y, x] = np.median(values[:m])


@compiled
def neighbours(hits: NDArray[np.int64], state: NDArray[np.uint8], candidates: NDArray[np.int64]) -> int:
    """Write the pixels within 2 of what was found, each once, into ``candidates``; return how many."""
    height, width = state.shape
    number = 0
    for n in range(hits.size):
        y, x = hits[n] // width, hits[n] % width
        for j in range(max(0, y - 2), min(height, y + 3)):
            for i in range(max(0, x - 2), min(width, x + 3)):
                if state[j, i] & QUEUED == 0:
                    candidates[number] = j * width + i
                    number += 1
                    state[j, i] |= QUEUED
                if abs(j - y) <= 1 and abs(i - x) <= 1:
                    state[j, i] |= NEAR
    return number


@compiled
def interpolate(
    image: NDArray[np.float32],
    bits: NDArray[np.int32],
    leave_out: int,
    pixels: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> None:
    """Fill pixels with the weighted mean of the good ones around them; without any they stay as they are.

    ``weights`` (2a + 1, 2a + 1) is centred on the pixel.
    """
    height, width = image.shape
    reach = weights.shape[0] // 2
    for n in range(pixels.size):
        y, x = pixels[n] // width, pixels[n] % width
        total, weight = 0.0, 0.0
        for j in range(max(0, y - reach), min(height, y + reach + 1)):
            for i in range(max(0, x - reach), min(width, x + reach + 1)):
                if bits[j, i] & leave_out == 0:
                    w = weights[j - y + reach, i - x + reach]
                    total += w * image[j, i]
                    weight += w
        if weight > 0.0:
            image[y, x] = total / weight


def find_cosmic_rays(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bits: NDArray[np.int32],
    psf_fwhm: float,
    *,
    threshold: float = 4.6,
    iterations: int = 8,
) -> int:
    """Mask cosmic rays and interpolate across them, in place.

    Parameters
    ----------
    image : `numpy.ndarray`, (height, width), float32
        Any unit, with or without sky; overwritten where cosmic rays are found.
    variance : `numpy.ndarray`, (height, width), float32
        Noise variance, with that of the signal.
    bits : `numpy.ndarray`, (height, width), int32
        Mask of `tololo.reduction.formats.masks`: unusable pixels are neither candidates nor compared with;
        what is found gets COSMIC_RAY and INTERPOLATED.
    psf_fwhm : `float`
        Of stars, pixels.
    threshold : `float`
        How far a pixel has to stand out from what a star may show, in sigma; next to one that is found, 3.
    iterations : `int`
        Most rounds of looking at the neighbours of what the round before has found.

    Returns
    -------
    number : `int`
        Pixels that were found.

    Raises
    ------
    BadInputError
        The planes have other types or shapes, or the FWHM is no positive number.
    """
    planes = {"image": (image, np.float32), "variance": (variance, np.float32), "mask": (bits, np.int32)}
    for name, (plane, dtype) in planes.items():
        if plane.dtype != dtype or plane.shape != image.shape or not plane.flags.c_contiguous:
            raise BadInputError(
                f"The {name} is {plane.dtype} of shape {plane.shape}, not a contiguous {np.dtype(dtype)} "
                f"of shape {image.shape}"
            )
    if image.ndim != 2 or not 0 < psf_fwhm < np.inf:
        raise BadInputError(
            f"No cosmic rays in an image of shape {image.shape} with a PSF of {psf_fwhm} pixels"
        )
    found_bit, unusable = BIT["COSMIC_RAY"], UNUSABLE & ~BIT["COSMIC_RAY"]
    candidates = np.empty(max(1024, image.size // 64), np.int64)
    number = screen(image, variance, 1.5 * SCREEN**2, candidates)
    if number > candidates.size:
        candidates = np.empty(number, np.int64)
        screen(image, variance, 1.5 * SCREEN**2, candidates)
    candidates = candidates[:number]
    state = np.zeros(image.shape, np.uint8)
    ring, ratios = ring_offsets(psf_fwhm), star_ratios(round(SHARPEST * psf_fwhm, 2))
    found: list[NDArray[np.int64]] = []
    for _ in range(iterations):
        hits = np.empty(candidates.size, np.int64)
        n = judge(
            image,
            variance,
            bits,
            unusable,
            found_bit,
            candidates,
            state,
            threshold,
            ring,
            *_TABLES,
            ratios,
            hits,
        )
        if n == 0:
            break
        hits = hits[:n].copy()
        bits.ravel()[hits] |= found_bit
        replace(image, bits, unusable | found_bit, hits)
        found.append(hits)
        candidates = np.empty(25 * n, np.int64)
        candidates = candidates[: neighbours(hits, state, candidates)]
    if not found:
        return 0
    pixels = np.concatenate(found)
    bits.ravel()[pixels] |= BIT["INTERPOLATED"]
    interpolate(image, bits, unusable | found_bit, pixels, _weights(psf_fwhm))
    return pixels.size


def ring_offsets(psf_fwhm: float) -> NDArray[np.int64]:
    """Return offsets (dy, dx) of pixels on a circle that is mostly free of a star's light."""
    radius = max(3.0, 1.25 * psf_fwhm)
    angle = 2 * np.pi * np.arange(RING_POINTS) / RING_POINTS
    return np.rint(radius * np.column_stack([np.sin(angle), np.cos(angle)])).astype(np.int64)


def _weights(psf_fwhm: float) -> NDArray[np.float64]:
    """Weights of interpolation: a Gaussian of the PSF's width."""
    reach = max(3, math.ceil(psf_fwhm))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(np.exp(-4 * math.log(2) * (y * y + x * x) / psf_fwhm**2))


_TABLES = shape_tables()

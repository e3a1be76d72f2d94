"""Detection of point sources: the PSF matched filter, its peaks, and a deblending by subtraction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.planes import Float32Image, check_planes
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.star_field import StarField

SOURCE_DTYPE = np.dtype([("x", "f8"), ("y", "f8"), ("score", "f8"), ("flux", "f8")])

MIN_GOOD_FRACTION = 0.4
"""A pixel gets no score where less than this part of the PSF's squared weight lies on good pixels."""
RANK_TOLERANCE, NORM_TOLERANCE = 3e-3, 1e-2
FILTER_LIGHT = 0.995
CHUNK = 64
"""Pixels of a row that are looked at together: most hold no peak."""
PSF_MODEL_ERROR = 0.05
"""Error of the PSF model relative to its value, counted as noise where a star has been subtracted."""


def separate(
    kernel: NDArray[np.float64], tolerance: float = RANK_TOLERANCE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Write a kernel as a sum of a few products of a column and a row (its leading singular vectors).

    Parameters
    ----------
    kernel : `numpy.ndarray`, (size, size)
    tolerance : `float`
        Singular vectors with less than this part of the first one's value are left out.

    Returns
    -------
    columns, rows : `numpy.ndarray`, (rank, size), float32
        ``kernel[j, i]`` is the sum over the rank of ``columns[:, j] * rows[:, i]`` to about ``tolerance`` of
        its peak.
    """
    u, s, v = np.linalg.svd(np.asarray(kernel, dtype=np.float64))
    rank = max(1, int(np.count_nonzero(s > tolerance * s[0])))
    root = np.sqrt(s[:rank])[:, None]
    return (u[:, :rank].T * root).astype(np.float32), (v[:rank] * root).astype(np.float32)


def separate_norm(kernel: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Write the square of a kernel as `separate` does, to 1e-2 but with its exact sum.

    What it is summed with, inverse variances, is smooth but for the bad pixels.
    """
    square = np.asarray(kernel, dtype=np.float64) ** 2
    columns, rows = separate(square, NORM_TOLERANCE)
    return columns * np.float32(square.sum() / (columns.T @ rows).sum()), rows


def correlate_separable(
    image: Float32Image, columns: NDArray[np.float32], rows: NDArray[np.float32], out: Float32Image
) -> None:
    """Write the correlation of an image with a separable kernel to ``out``; zero is beyond the edge."""
    correlate_box(image, columns, rows, out, (0, image.shape[0], 0, image.shape[1]))


@compiled_fast
def correlate_box(
    image: Float32Image,
    columns: NDArray[np.float32],
    rows: NDArray[np.float32],
    out: Float32Image,
    box: tuple[int, int, int, int],
) -> None:
    """Do `correlate_separable` for the pixels y0 to y1, x0 to x1 of a box, with what lies around it."""
    y0, y1, x0, x1 = box
    height, width = image.shape
    rank, size = columns.shape
    half, taps = size // 2, -(-size // 4) * 4
    # Four taps at a time: each sum is then loaded and stored a quarter as often.
    down, along = np.zeros((rank, taps), np.float32), np.zeros((rank, taps), np.float32)
    down[:, :size], along[:, :size] = columns, rows
    low, high = max(0, x0 - half), min(width, x1 - half + taps - 1)
    nothing = np.zeros(high - low, np.float32)
    line = np.zeros(x1 - x0 + taps, np.float32)
    middle = line[low - x0 + half : high - x0 + half]
    for j in range(y0, y1):
        target = out[j, x0:x1]
        target[:] = np.float32(0.0)
        for r in range(rank):
            middle[:] = np.float32(0.0)
            for k in range(0, taps, 4):
                y = j + k - half
                a = image[y, low:high] if 0 <= y < height else nothing
                b = image[y + 1, low:high] if 0 <= y + 1 < height else nothing
                c = image[y + 2, low:high] if 0 <= y + 2 < height else nothing
                d = image[y + 3, low:high] if 0 <= y + 3 < height else nothing
                add_four(middle, down[r, k : k + 4], a, b, c, d)
            for k in range(0, taps, 4):
                add_four(target, along[r, k : k + 4], line[k:], line[k + 1 :], line[k + 2 :], line[k + 3 :])


@compiled_fast
def add_four(
    target: NDArray[np.float32],
    weights: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    c: NDArray[np.float32],
    d: NDArray[np.float32],
) -> None:
    """Add four arrays times their weights to another."""
    wa, wb, wc, wd = weights[0], weights[1], weights[2], weights[3]
    for i in range(target.size):
        target[i] += (wa * a[i] + wb * b[i]) + (wc * c[i] + wd * d[i])


def trim(kernel: NDArray[np.float64], light: float = FILTER_LIGHT) -> NDArray[np.float64]:
    """Cut a centred kernel to the smallest odd square with this part of the sum of its squares."""
    half = kernel.shape[0] // 2
    square = np.asarray(kernel, dtype=np.float64) ** 2
    for h in range(1, half):
        if square[half - h : half + h + 1, half - h : half + h + 1].sum() >= light * square.sum():
            return kernel[half - h : half + h + 1, half - h : half + h + 1]
    return kernel


def matched_filter(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf_kernel: NDArray[np.floating],
) -> tuple[Float32Image, Float32Image, Float32Image]:
    """Fit a point source at every pixel.

    With P the PSF and w = 1 / variance on good pixels, zero on bad ones: flux = Σ P w d / Σ P² w, its
    variance is 1 / Σ P² w, and the score is their signal to noise. Bad pixels and the image's edge thus drop
    out without bias.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, (height, width)
        Background-subtracted image (any unit) and its noise variance (unit²).
    bad : `numpy.ndarray`, (height, width), bool
        Pixels to leave out; those without a finite positive variance are left out as well.
    psf_kernel : `numpy.ndarray`, (size, size)
        Centred PSF of unit sum, of odd size; its faint wings are cut.

    Returns
    -------
    score, flux, flux_variance : `numpy.ndarray`, (height, width), float32
        Where less than 0.4 of the PSF's weight lies on good pixels: 0, 0, and infinity.

    Raises
    ------
    BadInputError
        The planes' shapes differ or the kernel's size is even.
    """
    if psf_kernel.ndim != 2 or psf_kernel.shape[0] != psf_kernel.shape[1] or psf_kernel.shape[0] % 2 == 0:
        raise BadInputError(f"The PSF kernel has the shape {psf_kernel.shape}, not a square of odd size")
    data, noise, masked = check_planes(image, variance, bad)
    kernel, box = trim(np.asarray(psf_kernel, dtype=np.float64)), (0, data.shape[0], 0, data.shape[1])
    score, flux, weight, weighted = (np.empty_like(data) for _ in range(4))
    scale = weigh(data, noise, masked, weight, weighted)
    correlate_separable(weighted, *separate(kernel), flux)
    correlate_separable(weight, *separate_norm(kernel), score)
    finish_box(score, flux, weight, masked, scale, float((kernel**2).sum()), box)
    return score, flux, weight


@compiled_fast
def weigh(
    data: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    weight: Float32Image,
    weighted: Float32Image,
) -> float:
    """Fill 1 / variance relative to its mean, and its product with the data; return that mean (roughly)."""
    total, number = 0.0, 0
    for j in range(0, data.shape[0], 16):
        for i in range(data.shape[1]):
            if not masked[j, i]:
                total += 1.0 / noise[j, i]
                number += 1
    mean = total / number if number else 1.0
    factor = np.float32(1.0 / mean)
    for j in range(data.shape[0]):
        values, spread, hidden, w, product = data[j], noise[j], masked[j], weight[j], weighted[j]
        for i in range(data.shape[1]):
            own = np.float32(0.0) if hidden[i] else factor / spread[i]
            w[i] = own
            product[i] = own * values[i]
    return mean


@compiled
def finish_box(
    score: Float32Image,
    flux: Float32Image,
    weight: Float32Image,
    masked: NDArray[np.bool_],
    scale: float,
    full: float,
    box: tuple[int, int, int, int],
) -> None:
    """Turn Σ P² w (in ``score``), Σ P w d (in ``flux``) and w into score, flux and flux variance.

    For the pixels y0 to y1, x0 to x1 of a box; ``full`` is Σ P², ``scale`` the unit of w.
    """
    y0, y1, x0, x1 = box
    least, zero, one = np.float32(MIN_GOOD_FRACTION * full), np.float32(0.0), np.float32(1.0)
    root, inverse, infinite = np.float32(math.sqrt(scale)), np.float32(1.0 / scale), np.float32(np.inf)
    for j in range(y0, y1):
        norms, totals, spread, hidden = score[j, x0:x1], flux[j, x0:x1], weight[j, x0:x1], masked[j, x0:x1]
        for i in range(x1 - x0):
            # On a bad pixel the noise is not known: there the mean weight, 1, stands for it.
            own = one if hidden[i] else spread[i]
            usable = (norms[i] >= least * own) & (norms[i] > zero)
            part = one / norms[i] if usable else zero
            norms[i] = root * totals[i] * np.sqrt(part)
            totals[i] = totals[i] * part
            spread[i] = inverse * part if usable else infinite


@compiled
def any_above(line: NDArray[np.float32], threshold: float, both_signs: bool) -> bool:
    """Say whether a part of a row reaches the threshold anywhere."""
    limit, found = np.float32(threshold), False
    for i in range(line.size):
        found |= (line[i] >= limit) | (both_signs & (-line[i] >= limit))
    return bool(found)


@compiled
def is_peak(score: Float32Image, i: int, j: int, sign: float) -> bool:
    """Say whether none of the eight neighbours is higher; of equal ones the first in reading order is."""
    peak = sign * score[j, i]
    for b in range(-1, 2):
        for a in range(-1, 2):
            if a == 0 and b == 0:
                continue
            other = sign * score[j + b, i + a]
            if other > peak or (other == peak and (b < 0 or (b == 0 and a < 0))):
                return False
    return True


@compiled
def collect_peaks(
    score: Float32Image, threshold: float, both_signs: bool, edge: int, found: NDArray[np.float64]
) -> int:
    """Write x, y, score of local maxima into ``found`` as far as they fit; return how many there are."""
    height, width = score.shape
    low, high = max(1, edge), min(width - 1, width - edge)
    number = 0
    for j in range(max(1, edge), min(height - 1, height - edge)):
        for first in range(low, high, CHUNK):
            last = min(high, first + CHUNK)
            if not any_above(score[j, first:last], threshold, both_signs):
                continue
            for i in range(first, last):
                value = score[j, i]
                sign = -1.0 if both_signs and value < 0 else 1.0
                peak = sign * value
                if not peak >= threshold or not is_peak(score, i, j, sign):
                    continue
                if number < found.shape[0]:
                    left, right = sign * score[j, i - 1], sign * score[j, i + 1]
                    down, up = sign * score[j - 1, i], sign * score[j + 1, i]
                    cx, cy = left + right - 2 * peak, down + up - 2 * peak
                    found[number, 0] = i + (min(0.5, max(-0.5, 0.5 * (left - right) / cx)) if cx < 0 else 0.0)
                    found[number, 1] = j + (min(0.5, max(-0.5, 0.5 * (down - up) / cy)) if cy < 0 else 0.0)
                    found[number, 2] = value
                number += 1
    return number


def find_peaks(
    score: NDArray[np.floating], threshold: float, both_signs: bool = False, edge: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Find the local maxima of a score image (3 x 3 pixels, refined by parabolas).

    Parameters
    ----------
    score : `numpy.ndarray`, (height, width)
        As `matched_filter` makes it.
    threshold : `float`
        Lowest score of a peak.
    both_signs : `bool`
        Also find minima below -threshold.
    edge : `int`
        Width of the border, in pixels, without peaks; at least 1.

    Returns
    -------
    x, y, score : `numpy.ndarray`, (n,), float64
        Positions in pixels, and the signed score of the peak's pixel; in reading order.
    """
    plane = np.ascontiguousarray(score, dtype=np.float32)
    found = np.empty((4096, 3))
    number = collect_peaks(plane, float(threshold), both_signs, edge, found)
    if number > found.shape[0]:
        found = np.empty((number, 3))
        collect_peaks(plane, float(threshold), both_signs, edge, found)
    x, y, value = found[:number].T.copy()
    return x, y, value


def detect_sources(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf: PixelPsf,
    threshold: float = 5.0,
    *,
    both_signs: bool = False,
    edge: int = 1,
    deblend: bool = True,
) -> NDArray[np.void]:
    """Find point-like sources, close neighbours separately.

    The peaks of the matched filter are fitted and subtracted as stars and the filter is applied again: a
    neighbour that the first peak's flank had swallowed then stands alone. In this second pass 5 % of each
    subtracted star counts as noise of the model, so that its imperfections are not taken for neighbours.

    Parameters
    ----------
    image, variance, bad
        As for `matched_filter`, which uses the PSF at the middle of the image.
    psf : `PixelPsf`
        A first guess will do.
    threshold : `float`
        Lowest signal to noise.
    both_signs : `bool`
        Also find negative sources.
    edge : `int`
        Width of the border without detections, in pixels.
    deblend : `bool`
        Do the second pass.

    Returns
    -------
    sources : structured `numpy.ndarray`, (n,)
        x, y (pixels), score, flux (of the filter, in the image's unit, biased by close neighbours), ordered
        from bright to faint.
    """
    data, noise, masked = check_planes(image, variance, bad)
    kernel = psf.kernel(data.shape[1] / 2, data.shape[0] / 2)
    sources = _peaks(*matched_filter(data, noise, masked, kernel)[:2], threshold, both_signs, edge)
    if deblend and sources.size:
        # The peaks of a close pair lean towards each other: without a fit their flanks would remain.
        field = StarField(data, noise, masked, psf)
        field.add(sources["x"], sources["y"], sources["flux"])
        field.settle()
        sources["x"], sources["y"], sources["flux"] = field.places.T
        hidden = hidden_sources(field, threshold, both_signs=both_signs, edge=edge)
        sources = np.concatenate([sources, hidden])
    return sources[np.argsort(-np.abs(sources["flux"]), kind="stable")]


def hidden_sources(
    field: StarField, threshold: float = 5.0, *, both_signs: bool = False, edge: int = 1
) -> NDArray[np.void]:
    """Find what stands out once the stars of a field are subtracted.

    Parameters
    ----------
    field : `StarField`
        Settled.
    threshold, both_signs, edge
        As for `detect_sources`.

    Returns
    -------
    sources : structured `numpy.ndarray`, (n,)
        As `detect_sources` returns them, in reading order; none closer than half a FWHM to a star.
    """
    height, width = field.noise.shape
    kernel, fwhm = field.psf.kernel(width / 2, height / 2), field.psf.fwhm(width / 2, height / 2)
    noise = field.inflated_noise(PSF_MODEL_ERROR)
    score, flux, _ = matched_filter(field.residual, noise, field.masked, kernel)
    sources = _peaks(score, flux, threshold, both_signs, edge)
    if not len(field.places):
        return sources
    x, y = field.places[:, 0], field.places[:, 1]
    return sources[apart_from(sources["x"], sources["y"], x, y, 0.5 * fwhm)]


def _peaks(
    score: Float32Image, flux: Float32Image, threshold: float, both_signs: bool, edge: int
) -> NDArray[np.void]:
    x, y, value = find_peaks(score, threshold, both_signs, edge)
    sources = np.empty(x.size, SOURCE_DTYPE)
    sources["x"], sources["y"], sources["score"] = x, y, value
    sources["flux"] = flux[np.rint(y).astype(int), np.rint(x).astype(int)]
    return sources


def apart_from(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    x0: NDArray[np.float64],
    y0: NDArray[np.float64],
    radius: float,
) -> NDArray[np.bool_]:
    """Say which of the points (x, y) are farther than a radius from every point (x0, y0)."""
    from scipy.spatial import cKDTree

    if not x.size:
        return np.zeros(0, dtype=bool)
    distance, _ = cKDTree(np.column_stack([x0, y0])).query(np.column_stack([x, y]))
    return np.asarray(distance > radius)

"""Stacking: combine aligned images pixel by pixel by mean, median, clipped mean or minimum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.clipping import PSF_ALLOWANCE, bands, clip
from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.means import Means, add, divide
from tololo.reduction.kernels.order import CHUNK, median_variance_factor, network, sort_chunk

Method = Literal["mean", "median", "meanclip", "min"]

MOST_INPUTS = 64
"""As many as a word has bits, in which the rejected ones are marked."""


class Rows(Protocol):
    """A plane that is asked for some rows at a time: an array, or what computes them when it is asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]: ...


class Stacked(NamedTuple):
    """A combined image; all planes have the shape of one input."""

    image: NDArray[np.float32]
    """NaN where no input had data."""

    variance: NDArray[np.float32]
    """Variance of ``image``; NaN where no input had data."""

    n_used: NDArray[np.int16]
    """Number of inputs that went into the pixel (for min: that were compared)."""

    mask: NDArray[Any]
    """Bits of the inputs that were used, and ``clipped_bit`` where one was rejected."""

    clipped: NDArray[np.int64]
    """Number of pixels of each input that were rejected."""


def stack(
    images: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    variances: Sequence[Rows] | NDArray[np.float32],
    masks: Sequence[NDArray[Any]] | NDArray[Any],
    weights: Sequence[float] | NDArray[np.float64] | None = None,
    method: Method = "meanclip",
    *,
    n_sigma: float = 4.0,
    psf_allowance: float = PSF_ALLOWANCE,
    tolerance: NDArray[np.float32] | None = None,
    clipped_bit: int = 0,
) -> Stacked:
    """Combine aligned, equally scaled and background-subtracted images.

    Parameters
    ----------
    images, variances : sequence of `numpy.ndarray` or `numpy.ndarray`, (n, ny, nx)
        Planes of each input. A pixel that is not finite in either is not used: that is how NO_DATA is said.
        Variances may be `Rows` that are computed when they are asked for.
    masks : sequence of integer `numpy.ndarray`, or `numpy.ndarray`, (n, ny, nx)
        Mask bits of each input.
    weights : sequence of `float`, optional
        One weight per input for mean and meanclip, e.g. 1 / its typical variance. One per input and not per
        pixel on purpose: pixel weights follow the sources' own Poisson noise and bias their flux. Default
        equal.
    method : {"mean", "median", "meanclip", "min"}
        See Notes.
    n_sigma : `float`
        meanclip: rejection threshold in units of the expected noise.
    psf_allowance : `float`
        meanclip: part of the local signal that counts as one sigma of noise, so that stars of good and bad
        seeing are not taken for outliers of one another.
    tolerance : `numpy.ndarray`, (ny, nx), optional
        meanclip: variance by which inputs may differ beyond their noise, where more is known of it.
    clipped_bit : `int`
        Mask value (2 ** bit) that is set where meanclip rejected an input; 0 for none.

    Returns
    -------
    stacked : `Stacked`

    Raises
    ------
    BadInputError
        On an unknown method, no inputs, unequal shapes, or weights that are not positive.

    Notes
    -----
    mean
        Weighted mean, variance sum(w^2 v) / sum(w)^2.
    median
        Variance n c_n / (sum 1 / sigma)^2, with c_n of `median_variance_factor`: exact for equal variances at
        every n, asymptotically right for unequal ones (the density at the centre is what counts).
    meanclip
        Each input is compared with the median of the others, and its distance with the noise expected of
        both; the worst is rejected, and again until all agree or only half are left: so one bad frame of
        three goes, instead of drawing the others along. Of two that disagree the one farther from the sky
        level goes: cosmic rays, satellites and passing asteroids add light. Neighbours of a rejected pixel
        are tested again at half the threshold. Then as for mean; clipping at 4 sigma takes less than 0.1 % of
        the variance, which is not corrected for.
    min
        The lowest value. It is biased low by about the noise (0.56 sigma for 2, 1.5 for 10 inputs) and its
        variance is given as that of the input it was taken from, an upper bound.
    """
    if method not in get_args(Method):
        raise BadInputError(
            f"Unknown stacking method {method!r}", "method", f"use one of {', '.join(get_args(Method))}"
        )
    n = len(images)
    if n == 0 or n > MOST_INPUTS or not n == len(variances) == len(masks):
        raise BadInputError(
            f"{n} images, {len(variances)} variances and {len(masks)} masks",
            "stack",
            f"give 1 to {MOST_INPUTS} inputs with all three planes each",
        )
    shape = images[0].shape
    if any(p.shape != shape for planes in (images, variances, masks) for p in planes):
        raise BadInputError("The inputs differ in shape", "stack", "warp all onto one grid first")
    share = np.ones(n) if weights is None else np.asarray(weights, float)
    if share.shape != (n,) or not (np.isfinite(share) & (share > 0)).all():
        raise BadInputError(f"Weights {share} for {n} inputs", "stack", "give one positive weight per input")

    image, variance = np.empty(shape, np.float32), np.empty(shape, np.float32)
    n_used, mask = np.empty(shape, np.int16), np.empty(shape, masks[0].dtype)
    clipped = np.zeros(n, np.int64)
    factors = np.array([median_variance_factor(m) for m in range(n + 1)])
    for rows, lines, inner, (values, noise, bits) in _bands(images, variances, masks, method):
        out = image[rows], variance[rows], n_used[rows], mask[rows]
        top = lines.start + inner.start
        if method == "min":
            _minimum(values, noise, bits, top, *out)
        elif method == "median":
            _median(values, noise, bits, top, network(n), factors, *out)
        elif method == "mean" or n == 1:
            _mean(values, noise, bits, top, share, *out)
        else:
            low = rows.start - inner.start
            spare = None if tolerance is None else tolerance[low : low + lines.stop - lines.start]
            means = Means(bits, share, *out)
            rejected = clip(values, noise, n_sigma, psf_allowance, spare, lines, means, inner.start)[inner]
            _leave_out(rejected, values, noise, bits, top, share, clipped_bit, *out, clipped)
    return Stacked(image, variance, n_used, mask, clipped)


def _bands(
    images: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    variances: Sequence[Rows] | NDArray[np.float32],
    masks: Sequence[NDArray[Any]] | NDArray[Any],
    method: Method,
) -> Iterator[tuple[slice, slice, slice, list[NDArray[Any]]]]:
    """Go through the inputs some rows at a time, with one more at both sides where neighbours are looked at.

    Yields the rows of the result; planes in memory, and which of their rows to look at; where the rows of the
    result are among these. Arrays are taken as they are, of anything else the rows are copied.
    """
    kinds = (np.dtype(np.float32), np.dtype(np.float32), masks[0].dtype)
    planes = [
        given
        for given, kind in zip((images, variances, masks), kinds, strict=True)
        if isinstance(given, np.ndarray) and given.dtype == kind and given.flags.c_contiguous
    ]
    ny, nx = images[0].shape
    cut = bands(ny, margin=1 if method == "meanclip" else 0)
    if len(planes) == 3:
        for rows, wide, inner in cut:
            yield rows, wide, inner, planes
        return
    height = max(wide.stop - wide.start for _, wide, _ in cut)
    planes = [np.empty((len(images), height, nx), kind) for kind in kinds]
    for rows, wide, inner in cut:
        lines = slice(0, wide.stop - wide.start)
        for plane, given in zip(planes, (images, variances, masks), strict=True):
            for p in range(len(images)):
                plane[p, lines] = given[p][wide]
        yield rows, lines, inner, planes


@compiled
def _median(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    bits: NDArray[Any],
    top: int,
    pairs: NDArray[np.int64],
    factors: NDArray[np.float64],
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    n_used: NDArray[np.int16],
    mask: NDArray[Any],
) -> None:
    """Median of the usable values."""
    n, (ny, nx) = values.shape[0], image.shape
    ordered, number = np.empty((n, CHUNK), np.float32), np.empty(CHUNK, np.int32)
    total, inverse = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for y in range(ny):
        for first in range(0, nx, CHUNK):
            last = min(nx, first + CHUNK)
            sort_chunk(values, noise, top + y, first, last, pairs, ordered, number)
            total[:] = 0.0
            inverse[:] = 0.0
            flags = mask[y, first:last]
            flags[:] = 0
            for p in range(n):
                own, source, found = (
                    values[p, top + y, first:last],
                    noise[p, top + y, first:last],
                    bits[p, top + y, first:last],
                )
                for x in range(last - first):
                    usable = (own[x] - own[x]) + (source[x] - source[x]) == 0.0
                    total[x] += source[x] if usable else np.float32(0.0)
                    inverse[x] += np.float32(1.0) / np.sqrt(source[x]) if usable else np.float32(0.0)
                    flags[x] |= found[x] if usable else 0
            for x in range(last - first):
                m = number[x]
                n_used[y, first + x] = m
                if m == 0:
                    image[y, first + x], variance[y, first + x] = np.nan, np.nan
                    continue
                image[y, first + x] = np.float32(0.5) * (ordered[(m - 1) // 2, x] + ordered[m // 2, x])
                if m <= 2:
                    variance[y, first + x] = total[x] / (m * m)
                else:
                    variance[y, first + x] = factors[m] * m / (inverse[x] * inverse[x])


@compiled
def _minimum(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    bits: NDArray[Any],
    top: int,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    n_used: NDArray[np.int16],
    mask: NDArray[Any],
) -> None:
    """Lowest usable value, with the variance and the mask bits of its input."""
    for y in range(image.shape[0]):
        lowest, spread, number, flags = image[y], variance[y], n_used[y], mask[y]
        lowest[:], spread[:], number[:], flags[:] = np.inf, np.nan, 0, 0
        for p in range(values.shape[0]):
            own, source, found = values[p, top + y], noise[p, top + y], bits[p, top + y]
            for x in range(lowest.size):
                usable = (own[x] - own[x]) + (source[x] - source[x]) == 0.0
                lower = usable and own[x] < lowest[x]
                number[x] += 1 if usable else 0
                lowest[x] = own[x] if lower else lowest[x]
                spread[x] = source[x] if lower else spread[x]
                flags[x] = found[x] if lower else flags[x]
        for x in range(lowest.size):
            lowest[x] = lowest[x] if number[x] > 0 else np.float32(np.nan)


@compiled
def _mean(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    bits: NDArray[Any],
    top: int,
    weights: NDArray[np.float64],
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    n_used: NDArray[np.int16],
    mask: NDArray[Any],
) -> None:
    """Weighted mean of the usable values, of as many rows as are asked for, from row ``top``."""
    nx = values.shape[2]
    sums = np.empty((4, CHUNK), np.float32)
    for y in range(image.shape[0]):
        for first in range(0, nx, CHUNK):
            last = min(nx, first + CHUNK)
            flags = mask[y, first:last]
            sums[:], flags[:] = np.float32(0.0), 0
            for p in range(values.shape[0]):
                own, source = values[p, top + y, first:last], noise[p, top + y, first:last]
                add(own, source, bits[p, top + y, first:last], np.float32(weights[p]), sums, flags)
            divide(sums, image[y, first:last], variance[y, first:last], n_used[y, first:last])


@compiled
def _leave_out(
    rejected: NDArray[np.uint64],
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    bits: NDArray[Any],
    top: int,
    weights: NDArray[np.float64],
    clipped_bit: int,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    n_used: NDArray[np.int16],
    mask: NDArray[Any],
    clipped: NDArray[np.int64],
) -> None:
    """Take the mean again where inputs are rejected, without them, and count them in ``clipped``.

    Plane by plane along each row, as the memory goes.
    """
    nx = rejected.shape[1]
    places, number = np.empty(nx, np.int64), np.empty(nx, np.int64)
    total, weight, spread = np.empty(nx), np.empty(nx), np.empty(nx)
    for y in range(rejected.shape[0]):
        found, flags, few = rejected[y], mask[y], 0
        for x in range(nx):
            if found[x] != 0:
                places[few], flags[x] = x, clipped_bit
                total[few], weight[few], spread[few], number[few] = 0.0, 0.0, 0.0, 0
                few += 1
        if few == 0:
            continue
        for p in range(values.shape[0]):
            own, source, given = values[p, top + y], noise[p, top + y], bits[p, top + y]
            bit, w = np.uint64(1) << np.uint64(p), weights[p]
            for k in range(few):
                x = places[k]
                if found[x] & bit != 0:
                    clipped[p] += 1
                elif (own[x] - own[x]) + (source[x] - source[x]) == 0.0:
                    total[k] += w * own[x]
                    spread[k] += w * w * source[x]
                    weight[k] += w
                    number[k] += 1
                    flags[x] |= given[x]
        for k in range(few):
            x = places[k]
            image[y, x], variance[y, x] = total[k] / weight[k], spread[k] / (weight[k] * weight[k])
            n_used[y, x] = number[k]

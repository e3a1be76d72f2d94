"""The point-spread function of a detector: a pixel model that varies as a polynomial in x and y."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.interpolation import shift_into

SIGMA_TO_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
N_TERMS = {0: 1, 1: 3, 2: 6}
"""Number of polynomial terms (1, x, y, x², xy, y²) for each order."""
QUICK_ROUNDS = 20
"""Rounds of `adaptive_moments` after which only the slow and sure way is taken."""


@compiled
def polynomial_terms(u: float, v: float, terms: NDArray[np.float64]) -> None:
    """Fill ``terms`` (1, 3 or 6 of them) with 1, u, v, u², uv, v²."""
    terms[0] = 1.0
    if terms.size >= 3:
        terms[1] = u
        terms[2] = v
    if terms.size >= 6:
        terms[3] = u * u
        terms[4] = u * v
        terms[5] = v * v


@compiled
def kernel_into(
    coefficients: NDArray[np.float64],
    frame: NDArray[np.float64],
    x: float,
    y: float,
    out: NDArray[np.float64],
) -> None:
    """Write the PSF at (x, y), centred and of unit sum, into ``out``; frame is (x0, y0, x scale, y scale)."""
    n_terms, height, width = coefficients.shape
    terms = np.empty(n_terms)
    polynomial_terms((x - frame[0]) / frame[2], (y - frame[1]) / frame[3], terms)
    total = 0.0
    for j in range(height):
        for i in range(width):
            value = 0.0
            for k in range(n_terms):
                value += terms[k] * coefficients[k, j, i]
            out[j, i] = value
            total += value
    out /= total


@compiled
def stamp_into(
    coefficients: NDArray[np.float64],
    frame: NDArray[np.float64],
    x: float,
    y: float,
    kernel: NDArray[np.float64],
    work: NDArray[np.float64],
    out: NDArray[np.float64],
) -> tuple[int, int]:
    """Write a star of unit flux at (x, y) into ``out`` and return the pixel (x0, y0) of its corner.

    ``kernel`` and ``work`` have the shape of ``out``; kernel holds the centred PSF afterwards.
    """
    half = out.shape[0] // 2
    kernel_into(coefficients, frame, x, y, kernel)
    ix = math.floor(x + 0.5)
    iy = math.floor(y + 0.5)
    shift_into(kernel, x - ix, y - iy, work, out)
    return ix - half, iy - half


@dataclass(frozen=True)
class PixelPsf:
    """The effective (pixel-integrated) PSF as a pixel grid whose values are polynomials in x and y.

    Parameters
    ----------
    coefficients : `numpy.ndarray`, (n_terms, size, size)
        Pixel values of the terms 1, u, v, u², uv, v² with u = (x - center[0]) / scale[0] and v likewise;
        n_terms is 1, 3 or 6 for order 0, 1 or 2, size is odd. Sampled at the detector's own pixels, indexed
        [term, y, x], with the star's centre at the centre of the middle pixel.
    order : `int`
        0, 1 or 2.
    center, scale : `tuple` [`float`, `float`]
        Of the polynomial's variables, in pixels (x, y); normally the middle and the half size of the
        detector.

    Raises
    ------
    BadInputError
        The shape of the coefficients does not go with the order, or a value is not finite.
    """

    coefficients: NDArray[np.float64]
    order: int = 0
    center: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.coefficients, dtype=np.float64)
        if self.order not in N_TERMS:
            raise BadInputError(f"PSF polynomial order {self.order} is not 0, 1 or 2")
        n_terms = N_TERMS[self.order]
        if (
            values.ndim != 3
            or values.shape[0] != n_terms
            or values.shape[1] != values.shape[2]
            or values.shape[1] % 2 == 0
        ):
            raise BadInputError(
                f"PSF coefficients of order {self.order} have the shape {values.shape}, "
                f"not ({n_terms}, size, size) with an odd size"
            )
        if not (np.isfinite(values).all() and min(self.scale) > 0):
            raise BadInputError(
                "The PSF model has coefficients that are not finite, or a scale that is not positive"
            )
        object.__setattr__(self, "coefficients", values)

    @property
    def size(self) -> int:
        """Width and height of the model in pixels (odd)."""
        return int(self.coefficients.shape[1])

    @property
    def frame(self) -> NDArray[np.float64]:
        """Center and scale of the polynomial as (x0, y0, x scale, y scale), for the compiled functions."""
        return np.array([*self.center, *self.scale], dtype=np.float64)

    def kernel(self, x: float, y: float) -> NDArray[np.float64]:
        """Return the PSF at a position, centred on the middle pixel.

        Parameters
        ----------
        x, y : `float`
            Position on the detector in pixels.

        Returns
        -------
        kernel : `numpy.ndarray`, (size, size), float64
            Sum 1.
        """
        out = np.empty((self.size, self.size))
        kernel_into(self.coefficients, self.frame, float(x), float(y), out)
        return out

    def stamp(self, x: float, y: float) -> tuple[NDArray[np.float64], int, int]:
        """Return a star of unit flux at (x, y) as a postage stamp.

        The sub-pixel shift is a Lanczos-5 interpolation of the model; its error on a well sampled PSF is
        given at `tololo.reduction.kernels.interpolation.ORDER`.

        Parameters
        ----------
        x, y : `float`
            Position of the star in pixels.

        Returns
        -------
        stamp : `numpy.ndarray`, (size, size), float64
            The star's light; ``stamp[j, i]`` belongs to the detector pixel (x0 + i, y0 + j), which can lie
            outside the detector.
        x0, y0 : `int`
            Pixel of the stamp's corner.
        """
        kernel, work, out = np.empty((3, self.size, self.size))
        x0, y0 = stamp_into(self.coefficients, self.frame, float(x), float(y), kernel, work, out)
        return out, x0, y0

    def fwhm(self, x: float, y: float) -> float:
        """Return the full width at half maximum in pixels, including the pixel's own width.

        It is the diameter of the circle with the area in which the model exceeds half of its peak.
        """
        return half_maximum_width(self.kernel(x, y))

    def gaussian_fwhm(self, x: float, y: float) -> float:
        """Return the FWHM in pixels of the Gaussian with the model's adaptive moments.

        That of a Moffat profile with beta 3 is 1.13 times its half-maximum width. LSST's psfSigma is of this
        kind, and the DECam Community Pipeline's FWHM agrees with this one rather than with `fwhm`.
        """
        xx, yy, xy = self.moments(x, y)
        return SIGMA_TO_FWHM * math.sqrt(math.sqrt(xx * yy - xy * xy))

    def moments(self, x: float, y: float) -> tuple[float, float, float]:
        """Return the adaptive Gaussian-weighted second moments (xx, yy, xy) in pixels²."""
        kernel, out = self.kernel(x, y), np.full(5, math.nan)
        adaptive_moments(kernel, np.ones(kernel.shape, dtype=np.bool_), out)
        return float(out[2]), float(out[3]), float(out[4])

    def ellipticity(self, x: float, y: float) -> float:
        """Return 1 - b/a, with the axes a and b of the adaptive second moments."""
        xx, yy, xy = self.moments(x, y)
        root = math.hypot((xx - yy) / 2, xy)
        mean = (xx + yy) / 2
        return 1.0 - math.sqrt((mean - root) / (mean + root))


def sizes_at(
    psf: PixelPsf, shape: tuple[int, int], x: NDArray[np.float64], y: NDArray[np.float64], points: int = 3
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the PSF's size at many positions: a parabola in x and y through so many points on each axis.

    Parameters
    ----------
    psf : `PixelPsf`
    shape : `tuple` [`int`, `int`]
        (height, width) of the image.
    x, y : `numpy.ndarray`, (n,)
        Pixels.

    Returns
    -------
    fwhm, sigma : `numpy.ndarray`, (n,)
        As `PixelPsf.fwhm`, and of the Gaussian with the adaptive moments (pixels).
    """

    def sizes(x: float, y: float) -> tuple[float, float]:
        return psf.fwhm(x, y), psf.gaussian_fwhm(x, y) / SIGMA_TO_FWHM

    if psf.order == 0:
        fwhm, sigma = sizes(0.0, 0.0)
        return np.full(x.size, fwhm), np.full(x.size, sigma)
    axis = np.linspace(-1, 1, points)
    u, v = (grid.ravel() for grid in np.meshgrid(axis, axis))
    half_width, half_height = shape[1] / 2, shape[0] / 2
    samples = [sizes((1 + a) * half_width, (1 + b) * half_height) for a, b in zip(u, v, strict=True)]

    def terms(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([np.ones(a.size), a, b, a * a, a * b, b * b])

    solution, *_ = np.linalg.lstsq(terms(u, v), np.array(samples), rcond=None)
    fwhm_at, sigma_at = (terms(x / half_width - 1, y / half_height - 1) @ solution).T
    return fwhm_at, sigma_at


def half_maximum_width(kernel: NDArray[np.float64], oversampling: int = 8) -> float:
    """Return the equivalent circular diameter (pixels) of the part of a centred stamp above half its peak."""
    half = kernel.shape[0] // 2
    # Beyond a pixel from what is near half of the peak nothing counts.
    bright = np.argwhere(kernel > 0.25 * kernel.max()) - half
    reach = min(half, int(abs(bright).max()) + 1)
    axis = np.arange(-reach, reach + 0.5 / oversampling, 1.0 / oversampling)
    fine = ndimage.map_coordinates(kernel, np.meshgrid(axis + half, axis + half, indexing="ij"), order=5)
    middle = abs(axis) <= 1.5
    peak = fine[np.ix_(middle, middle)].max()
    return 2.0 * math.sqrt(np.count_nonzero(fine > 0.5 * peak) / math.pi) / oversampling


@compiled
def adaptive_moments(stamp: NDArray[np.float64], good: NDArray[np.bool_], out: NDArray[np.float64]) -> bool:
    """Measure centroid and second moments of a stamp under the elliptical Gaussian that matches them.

    Bernstein & Jarvis (2002, AJ 123, 583): a matched Gaussian weight halves the moments of a Gaussian, so
    twice the weighted moments is the fixed point; likewise twice the weighted offset for the centroid. The
    next weight is the one that would fit if the source were a Gaussian: its inverse moments are those
    measured less those of the weight before. Where that is none or far away it is twice the moments.

    Parameters
    ----------
    stamp : `numpy.ndarray`, (size, size), float64
        Background-subtracted, the source near its middle.
    good : `numpy.ndarray`, (size, size), bool
        Pixels to use.
    out : `numpy.ndarray`, (5,), float64
        Overwritten: x and y from the middle pixel (pixels), xx, yy, xy (pixels²).

    Returns
    -------
    converged : `bool`
    """
    light = np.zeros(stamp.shape, np.float32)
    for j in range(stamp.shape[0]):
        for i in range(stamp.shape[1]):
            if good[j, i]:
                light[j, i] = stamp[j, i]
    return matched_moments(light, out)


@compiled
def matched_moments(light: NDArray[np.float32], out: NDArray[np.float64]) -> bool:
    """Do `adaptive_moments` with a stamp that is 0 on bad pixels."""
    half, sums = light.shape[0] // 2, np.empty(6)
    cx, cy, xx, yy, xy = 0.0, 0.0, 4.0, 4.0, 0.0
    for iteration in range(50):
        weighted_sums(light, cx, cy, xx, yy, xy, sums)
        s = sums[0]
        if s <= 0:
            return False
        mx, my = sums[1] / s, sums[2] / s
        own_xx, own_yy, own_xy = sums[3] / s - mx * mx, sums[4] / s - my * my, sums[5] / s - mx * my
        new_xx, new_yy, new_xy = 2 * own_xx, 2 * own_yy, 2 * own_xy
        own_det, det = own_xx * own_yy - own_xy * own_xy, xx * yy - xy * xy
        if own_xx > 0 and own_det > 0 and iteration < QUICK_ROUNDS:
            a, b, c = own_yy / own_det - yy / det, own_xx / own_det - xx / det, xy / det - own_xy / own_det
            inverse = a * b - c * c
            if a > 0 and inverse > 0 and 0.5 * xx < b / inverse < 2 * xx and 0.5 * yy < a / inverse < 2 * yy:
                new_xx, new_yy, new_xy = b / inverse, a / inverse, -c / inverse
        if (
            new_xx < 0.05
            or new_yy < 0.05
            or new_xx * new_yy - new_xy * new_xy < 1e-6 * new_xx * new_yy  # as thin as a line
            or new_xx + new_yy > half * half
        ):
            return False
        step = max(abs(new_xx - xx), abs(new_yy - yy), abs(new_xy - xy), abs(mx), abs(my))
        cx += 2 * mx
        cy += 2 * my
        xx, yy, xy = new_xx, new_yy, new_xy
        if abs(cx) > half or abs(cy) > half:
            return False
        if step < 1e-4 and iteration > 2:
            break
    out[0], out[1], out[2], out[3], out[4] = cx, cy, xx, yy, xy
    return True


@compiled_fast
def weighted_sums(
    light: NDArray[np.float32],
    cx: float,
    cy: float,
    xx: float,
    yy: float,
    xy: float,
    sums: NDArray[np.float64],
) -> None:
    """Fill sums of 1, x, y, xx, yy, xy over a stamp's light under a Gaussian cut at 5 sigma.

    The exponential is a power series of a 32nd of its argument, squared five times: unlike the library's it
    runs over whole rows at once. It is good to 1e-5.
    """
    size = light.shape[0]
    half = size // 2
    det = xx * yy - xy * xy
    a, b, c = np.float32(yy / det), np.float32(-2 * xy / det), xx / det
    reach_x, reach_y = 5 * math.sqrt(xx), 5 * math.sqrt(yy)
    low, high = max(0, math.ceil(half + cx - reach_x)), min(size, math.floor(half + cx + reach_x) + 1)
    one = np.float32(1.0)
    sums[:] = 0.0
    for j in range(max(0, math.ceil(half + cy - reach_y)), min(size, math.floor(half + cy + reach_y) + 1)):
        dy = j - half - cy
        row, first = light[j, low:high], np.float32(low - half - cx)
        cross, own = b * np.float32(dy), np.float32(c * dy * dy)
        s, sx, sxx = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for i in range(row.size):
            dx = first + np.float32(i)
            rho = (a * dx + cross) * dx + own
            t = rho * np.float32(0.5 / 32)
            e = np.float32(1 / 6) - t * (np.float32(1 / 24) - t * np.float32(1 / 120))
            e = one - t * (one - t * (np.float32(0.5) - t * e))
            e *= e
            e *= e
            e *= e
            e *= e
            e *= e
            value = row[i] * e if rho < np.float32(25.0) else np.float32(0.0)
            s += value
            sx += value * dx
            sxx += value * dx * dx
        sums[0] += s
        sums[1] += sx
        sums[2] += s * dy
        sums[3] += sxx
        sums[4] += s * dy * dy
        sums[5] += sx * dy

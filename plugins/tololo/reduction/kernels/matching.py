"""The PSF-matching kernel of Alard & Lupton: Gaussians times polynomials, fitted on star stamps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import NothingToDoError
from tololo.reduction.kernels.compiled import compiled_fast

SIGMA_OF_FWHM = 1.0 / 2.3548
MAX_RADIUS = 17
CLIP = 4.0
"""Stamps and pixels are rejected beyond this many robust standard deviations."""

ROUNDS = 5
TERMS = (1, 3, 6)
"""Number of polynomial terms 1, u, v, u^2, uv, v^2 for orders 0, 1, 2."""


def polynomial(order: int, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the terms 1, u, v, u^2, uv, v^2 up to an order, one column each."""
    u, v = np.atleast_1d(u), np.atleast_1d(v)
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v][: TERMS[order]], axis=-1)


@dataclass(frozen=True)
class Basis:
    """Gaussians of several widths times polynomials, x^i y^j exp(-r^2 / 2 sigma^2) with i + j <= degree.

    The first function has the sum 1 and the others the sum 0, so that the coefficient of the first is the
    kernel's sum (the flux ratio), the same everywhere, while the shape may vary (Alard 2000, A&AS 144, 363).
    """

    sigmas: tuple[float, ...]
    degrees: tuple[int, ...]
    radius: int

    @property
    def size(self) -> int:
        """Number of pixels along a kernel's side."""
        return 2 * self.radius + 1

    def profiles(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
        """Return the functions in separable form.

        Returns
        -------
        lines : `numpy.ndarray`, (n lines, size)
            The one-dimensional functions.
        pairs : `numpy.ndarray`, (n, 2)
            Lines of each function in x and in y.
        scales : `numpy.ndarray`, (n,)
            Factor of each product: unit sum where the sum is not zero, else unit norm.
        even : `numpy.ndarray`, (n,)
            Functions from which the first is subtracted, to make their sum zero.
        """
        t = np.arange(-self.radius, self.radius + 1, dtype=float)
        lines: list[NDArray[np.float64]] = []
        pairs, scales, even = [], [], []
        for sigma, degree in zip(self.sigmas, self.degrees, strict=True):
            start = len(lines)
            lines += [t**i * np.exp(-0.5 * (t / sigma) ** 2) for i in range(degree + 1)]
            for i in range(degree + 1):
                for j in range(degree + 1 - i):
                    x, y = lines[start + i], lines[start + j]
                    pairs.append((start + i, start + j))
                    even.append(i % 2 == 0 and j % 2 == 0)
                    scales.append(1.0 / (x.sum() * y.sum() if even[-1] else math.sqrt((x @ x) * (y @ y))))
        even[0] = False
        return (
            np.array(lines, np.float32),
            np.array(pairs, np.int64),
            np.array(scales, np.float32),
            np.array(even, np.bool_),
        )

    def images(self) -> NDArray[np.float64]:
        """Return the functions as images; (n, size, size), indexed [function, y, x]."""
        lines, pairs, scales, even = self.profiles()
        out = np.einsum("k,ky,kx->kyx", scales, lines[pairs[:, 1]], lines[pairs[:, 0]]).astype(float)
        out[even] -= out[0]
        return np.asarray(out)


@dataclass(frozen=True)
class SpatialKernel:
    """A matching kernel that varies over the detector as a polynomial."""

    basis: Basis
    coefficients: NDArray[np.float64]
    """(n functions, n terms); the first function has only the constant term."""

    order: int
    center: tuple[float, float]
    scale: tuple[float, float]
    background: NDArray[np.float64]
    """Coefficients of the difference of the two backgrounds, in the same polynomial terms (may be fewer)."""

    box: tuple[float, float, float, float]
    """Lowest and highest x, lowest and highest y of the stars used: beyond it the kernel stays."""

    @property
    def sum(self) -> float:
        """Sum of the kernel: flux in the matched-to image over flux in the convolved one."""
        return float(self.coefficients[0, 0])

    def terms(self, x: float | NDArray[np.float64], y: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the polynomial terms at positions, (n, n terms)."""
        u = (np.asarray(x, float) - self.center[0]) / self.scale[0]
        v = (np.asarray(y, float) - self.center[1]) / self.scale[1]
        return polynomial(self.order, u, v)

    def at(self, x: float | NDArray[np.float64], y: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the kernels at positions, (n, size, size)."""
        inside = np.clip(x, *self.box[:2]), np.clip(y, *self.box[2:])
        weights = self.terms(*inside) @ self.coefficients.T
        return np.asarray(np.tensordot(weights, self.basis.images(), 1))


def constant_kernel(total: float, shape: tuple[int, ...]) -> SpatialKernel:
    """Return a kernel that scales by a factor and hardly widens anything, the same everywhere."""
    center, scale = ((shape[1] - 1) / 2, (shape[0] - 1) / 2), (shape[1] / 2, shape[0] / 2)
    box = 0.0, float(shape[1]), 0.0, float(shape[0])
    return SpatialKernel(Basis((0.2,), (0,), 1), np.full((1, 1), total), 0, center, scale, np.zeros(1), box)


class Stamps(NamedTuple):
    """Pieces of the image on which the kernel is fitted; n of them with p pixels each."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    model: NDArray[np.float32]
    """(n, functions + 1, p): the convolved basis functions, and ones for the background."""

    target: NDArray[np.float32]
    """(n, p)"""

    weight: NDArray[np.float32]
    """(n, p): 1 / variance, 0 for pixels that are left out."""


def choose_basis(sharp_fwhm: float, broad_fwhm: float) -> Basis:
    """Choose widths and degrees (4, 2, 2) of the Gaussians for two seeings, in pixels.

    The middle Gaussian is the one that turns one Gaussian PSF into the other; the others have half and twice
    its width, as in LSST's `makeKernelBasisList`, with the floor that the pixels set.
    """
    gap = math.sqrt(max(broad_fwhm**2 - sharp_fwhm**2, 0.0)) * SIGMA_OF_FWHM
    sigmas = (max(0.7, gap / 2), max(1.5, gap), max(3.0, 2 * gap))
    return Basis(sigmas, (4, 2, 2), min(MAX_RADIUS, math.ceil(3.3 * sigmas[2])))


def choose_order(x: NDArray[np.float64], y: NDArray[np.float64], shape: tuple[int, int], highest: int) -> int:
    """Return the order of the variation over the detector that the number and the spread of stamps allow."""
    ny, nx = shape
    thirds = np.unique(np.minimum((3 * x / nx).astype(int), 2) * 3 + np.minimum((3 * y / ny).astype(int), 2))
    halves = np.unique((2 * x >= nx) * 2 + (2 * y >= ny))
    if highest >= 2 and x.size >= 30 and thirds.size >= 8:
        return 2
    return 1 if highest >= 1 and x.size >= 10 and halves.size == 4 else 0


def cut_stamps(
    sharp: NDArray[np.float32],
    broad: NDArray[np.float32],
    weight: NDArray[np.float32],
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    side: int,
    basis: Basis,
) -> Stamps:
    """Convolve square pieces of an image with every function of the basis.

    Parameters
    ----------
    sharp : `numpy.ndarray`, (ny + 2r, nx + 2r + 7)
        The image to convolve as `convolution.pad` makes it.
    broad, weight : `numpy.ndarray`, (ny, nx)
        The image to be matched, and the weight of its pixels.
    x0, y0 : `numpy.ndarray`, (n,)
        Corner pixels of the pieces.
    side : `int`
        Their side; pixels beyond the image get no weight.
    basis : `Basis`
    """
    ny, nx = broad.shape
    lines, pairs, scales, even = basis.profiles()
    n = x0.size
    model = np.ones((n, len(pairs) + 1, side, side), np.float32)
    target, shares = np.zeros((n, side, side), np.float32), np.zeros((n, side, side), np.float32)
    _convolve_stamps(sharp, x0, y0, lines[:, ::-1].copy(), pairs, scales, even, model)
    for s in range(n):
        piece = np.s_[y0[s] : min(ny, y0[s] + side), x0[s] : min(nx, x0[s] + side)]
        inside = np.s_[s, : min(ny, y0[s] + side) - y0[s], : min(nx, x0[s] + side) - x0[s]]
        target[inside], shares[inside] = broad[piece], weight[piece]
    half = np.float64((side - 1) / 2)
    return Stamps(
        x0.astype(float) + half,
        y0.astype(float) + half,
        model.reshape(n, model.shape[1], side**2),
        target.reshape(n, side**2),
        shares.reshape(n, side**2),
    )


@compiled_fast
def _convolve_rows(piece: NDArray[np.float32], line: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Correlate every row of ``piece`` with a line."""
    side = out.shape[1]
    out[:] = 0.0
    for j in range(out.shape[0]):
        target = out[j]
        for i in range(line.size):
            w, source = line[i], piece[j, i : i + side]
            for x in range(side):
                target[x] += w * source[x]


@compiled_fast
def _convolve_columns(
    rows: NDArray[np.float32], line: NDArray[np.float32], scale: np.float32, out: NDArray[np.float32]
) -> None:
    """Correlate every column of ``rows`` with a line, times ``scale``."""
    side = out.shape[0]
    out[:] = 0.0
    for j in range(side):
        target = out[j]
        for i in range(line.size):
            w, source = scale * line[i], rows[j + i]
            for x in range(side):
                target[x] += w * source[x]


@compiled_fast
def _convolve_stamps(
    image: NDArray[np.float32],
    x0: NDArray[np.int64],
    y0: NDArray[np.int64],
    lines: NDArray[np.float32],
    pairs: NDArray[np.int64],
    scales: NDArray[np.float32],
    even: NDArray[np.bool_],
    out: NDArray[np.float32],
) -> None:
    """Fill the convolved basis functions of each stamp, rows first; ``lines`` are given back to front."""
    side = out.shape[2]
    tall = side + lines.shape[1] - 1
    rows = np.empty((tall, side), np.float32)
    for s in range(x0.size):
        piece = np.zeros((tall, tall), np.float32)
        inside = image[y0[s] : y0[s] + tall, x0[s] : x0[s] + tall]
        piece[: inside.shape[0], : inside.shape[1]] = inside
        for a in range(lines.shape[0]):
            _convolve_rows(piece, lines[a], rows)
            for k in range(pairs.shape[0]):
                if pairs[k, 0] == a:
                    _convolve_columns(rows, lines[pairs[k, 1]], scales[k], out[s, k])
        for k in range(pairs.shape[0]):
            if even[k]:
                out[s, k] -= out[s, 0]


class Fit(NamedTuple):
    """The outcome of a kernel fit."""

    kernel: SpatialKernel
    used: NDArray[np.bool_]
    """Stamps that were not rejected."""

    chi2: float
    """Median over the used stamps of chi^2 per pixel."""


def fit_on_stars(stamps: Stamps, basis: Basis, shape: tuple[int, int], highest_order: int) -> Fit:
    """Fit the kernel on star stamps and reject the stars that do not follow (variables, blends, bad pixels).

    Raises
    ------
    NothingToDoError
        If no stamp has pixels with weight.
    """
    matrix, vector, square = _moments(stamps.model, stamps.target, stamps.weight)
    pixels = np.count_nonzero(stamps.weight > 0, axis=1)
    enough = pixels > 2 * matrix.shape[1]
    used = enough & _alike(_own_sums(matrix, vector, enough), enough)
    for _ in range(ROUNDS):
        if not used.any():
            raise NothingToDoError(
                "No star stamp is usable for the matching kernel",
                "subtraction",
                "check masks and star positions",
            )
        order = choose_order(stamps.x[used], stamps.y[used], shape, highest_order)
        kernel, solution, columns, terms = _solve(stamps, matrix, vector, used, basis, shape, order)
        chi2 = _chi2(matrix, vector, square, solution, columns, terms) / np.maximum(pixels, 1)
        keep = enough & _alike(chi2, used, one_sided=True)
        if (keep == used).all():
            break
        used = keep
    return Fit(kernel, used, float(np.median(chi2[used])))


def fit_on_image(stamps: Stamps, basis: Basis, shape: tuple[int, int]) -> Fit:
    """Fit one kernel on the weighted pixels of tiles and reject single pixels that do not follow.

    Raises
    ------
    NothingToDoError
        If too few pixels have weight.
    """
    weight = stamps.weight.copy()
    used = np.ones(stamps.x.size, np.bool_)
    for _ in range(ROUNDS):
        if np.count_nonzero(weight) < 8 * stamps.model.shape[1]:
            raise NothingToDoError(
                f"Only {np.count_nonzero(weight)} significant pixels are free of masks in both images",
                "subtraction",
                "too few to fit a matching kernel: use a larger piece or a deeper template",
            )
        matrix, vector, _ = _moments(stamps.model, stamps.target, weight)
        kernel, solution, _, _ = _solve(stamps, matrix, vector, used, basis, shape, 0)
        residual = (stamps.target - np.tensordot(stamps.model, solution, (1, 0))) * np.sqrt(stamps.weight)
        lit = weight > 0
        spread = 1.4826 * np.median(np.abs(residual[lit]))
        keep = (stamps.weight > 0) & (np.abs(residual) < CLIP * max(spread, 1e-30))
        if (keep == lit).all():
            break
        weight = np.where(keep, stamps.weight, 0.0)
    return Fit(kernel, used, float(spread**2))


@compiled_fast
def _moments(
    model: NDArray[np.float32], target: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the normal matrix and vector of each stamp, and the weighted square of its target."""
    stamps, n, p = model.shape
    matrix, vector, square = np.zeros((stamps, n, n)), np.zeros((stamps, n)), np.zeros(stamps)
    weighted = np.empty(p, np.float64)
    for s in range(stamps):
        for i in range(p):
            weighted[i] = weight[s, i] * target[s, i]
            square[s] += weighted[i] * target[s, i]
        for a in range(n):
            first = model[s, a]
            total = 0.0
            for i in range(p):
                total += weighted[i] * first[i]
            vector[s, a] = total
        for a in range(n):
            for i in range(p):
                weighted[i] = weight[s, i] * model[s, a, i]
            for b in range(a + 1):
                second = model[s, b]
                total = 0.0
                for i in range(p):
                    total += weighted[i] * second[i]
                matrix[s, a, b] = total
                matrix[s, b, a] = total
    return matrix, vector, square


def _own_sums(
    matrix: NDArray[np.float64], vector: NDArray[np.float64], enough: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the kernel sum that each stamp would have by itself."""
    sums = np.full(len(matrix), np.nan)
    # A ridge keeps one star's own kernel tame; only its sum is looked at.
    diagonal = np.einsum("sii->si", matrix[enough])
    ridged = matrix[enough] + 1e-4 * diagonal[:, :, None] * np.eye(matrix.shape[1])
    sums[enough] = np.linalg.solve(ridged, vector[enough][..., None])[:, 0, 0]
    return sums


def _alike(
    values: NDArray[np.float64], among: NDArray[np.bool_], one_sided: bool = False
) -> NDArray[np.bool_]:
    """Say which values lie within the robust scatter of those ``among`` (at least 5 % of their median)."""
    if not among.any():
        return among
    middle = np.median(values[among])
    spread = max(1.4826 * np.median(np.abs(values[among] - middle)), 0.05 * abs(middle))
    distance = values - middle if one_sided else np.abs(values - middle)
    return np.asarray(np.isfinite(values) & (distance <= CLIP * spread))


def _solve(
    stamps: Stamps,
    matrix: NDArray[np.float64],
    vector: NDArray[np.float64],
    used: NDArray[np.bool_],
    basis: Basis,
    shape: tuple[int, int],
    order: int,
) -> tuple[SpatialKernel, NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Solve for all coefficients; also return them in one row, their (function, term), and all terms."""
    center = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    scale = (shape[1] / 2, shape[0] / 2)
    terms = polynomial(order, (stamps.x - center[0]) / scale[0], (stamps.y - center[1]) / scale[1])
    n, m = matrix.shape[1], terms.shape[1]
    flat = TERMS[min(order, 1)]
    columns = np.array(
        [(0, 0)] + [(k, t) for k in range(1, n - 1) for t in range(m)] + [(n - 1, t) for t in range(flat)]
    )
    f, t = columns.T
    chosen = terms[used]
    left = np.einsum("sab,st,su->atbu", matrix[used], chosen, chosen, optimize=True)
    right = np.einsum("sa,st->at", vector[used], chosen)
    system, goal = left[f[:, None], t[:, None], f[None], t[None]], right[f, t]
    norm = 1.0 / np.sqrt(np.maximum(np.diag(system), 1e-300))
    # A ridge of 1e-9 settles combinations of functions that the stars cannot tell apart.
    system = system * norm[:, None] * norm + 1e-9 * np.eye(norm.size)
    solution = norm * np.linalg.solve(system, goal * norm)
    coefficients = np.zeros((n, m))
    coefficients[f, t] = solution
    x, y = stamps.x[used], stamps.y[used]
    box = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    kernel = SpatialKernel(basis, coefficients[:-1], order, center, scale, coefficients[-1, :flat], box)
    return kernel, solution, columns, terms


def _chi2(
    matrix: NDArray[np.float64],
    vector: NDArray[np.float64],
    square: NDArray[np.float64],
    solution: NDArray[np.float64],
    columns: NDArray[np.int64],
    terms: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return chi^2 of each stamp from its normal matrix, without touching pixels again."""
    full = np.zeros((matrix.shape[1], terms.shape[1]))
    full[columns[:, 0], columns[:, 1]] = solution
    local = terms @ full.T
    return np.asarray(
        np.einsum("sa,sab,sb->s", local, matrix, local, optimize=True)
        - 2 * np.einsum("sa,sa->s", local, vector)
        + square
    )

"""Fit of the PSF model to the stars of an image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.planes import Float32Image, check_planes
from tololo.reduction.kernels.psf import N_TERMS, PixelPsf, kernel_into, polynomial_terms
from tololo.reduction.kernels.psfstars import select_stars
from tololo.reduction.kernels.stamps import MIN_PIXELS, Stamps, move_into, stamp_at, variance_line

MIN_STARS = {1: 10, 2: 30}
"""Stars needed for a PSF that varies as a polynomial of first and of second order."""
MAX_STARS = 150
MOFFAT_ROUNDS, PIXEL_ROUNDS = 3, 5
MODEL_ERROR = 0.01
"""Relative error allowed per star and pixel, so that no single bright star rules the model."""
PRIOR_CORE, PRIOR_WING = 0.10, 0.002
"""How far the pixels may leave the Moffat profile a priori: part of its value, and part of its peak."""
PRIOR_SHAPE = 0.2
"""How far ln FWHM, ellipticity and ln beta vary over half of the image a priori."""
PRIOR_SLOPE = (1.0, 0.4, 0.4, 0.2, 0.2, 0.2)
"""The same for the terms that vary with the position, relative to the constant one."""
SAVITZKY_GOLAY = np.array([-3.0, 12.0, 17.0, 12.0, -3.0]) / 35.0
"""Smooths the pixels' deviations: a star image has no structure finer than a parabola over five pixels."""
REJECT_SIGMA = 4.0
GAUSS_NODES = np.array([-0.5 * math.sqrt(0.6), 0.0, 0.5 * math.sqrt(0.6)])
GAUSS_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18.0


def fit_psf(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    flux: NDArray[np.floating],
    *,
    size: int | None = None,
    max_order: int = 2,
    point_like: NDArray[np.bool_] | None = None,
) -> tuple[PixelPsf, NDArray[np.void]]:
    """Fit a PSF model that varies over the image to its stars.

    Stars are chosen where the sizes of bright, isolated, unsaturated sources pile up. An elliptical Moffat
    profile is fitted to their mean; then changes of its shape and the pixels' deviations from it, all
    polynomials in x and y, are fitted to the stars' residuals, each brought to the pixel grid, with fluxes,
    positions and local backgrounds fitted anew in every round, and stars that do not fit left out. The
    Moffat profile is the prior of that fit: with many stars the data rule, with one faint star the profile
    remains. The order falls with the number of stars (`MIN_STARS`).

    Parameters
    ----------
    image, variance : `numpy.ndarray`, (height, width)
        Background-subtracted image (any unit) and its noise variance (unit²), the stars' photon noise
        included.
    bad : `numpy.ndarray`, (height, width), bool
        Pixels to leave out; saturated ones must be among them.
    x, y, flux : `numpy.ndarray`, (n,)
        Positions (pixels) and rough fluxes of all detected sources, of which stars are chosen.
    size : `int`, optional
        Width of the model in pixels, odd; by default six times the FWHM.
    max_order : `int`
        Highest order of the polynomials, 0 to 2.
    point_like : `numpy.ndarray`, (n,), bool, optional
        Sources known to be stars, for instance from Gaia; where there are any, they alone say what a star's
        size is.

    Returns
    -------
    psf : `PixelPsf`
    stars : structured `numpy.ndarray`, (n,)
        In the order of the input: x, y (pixels, fitted for used stars), flux, snr, fwhm (pixels, of a
        Gaussian with the same adaptive moments), chi2 (per degree of freedom, NaN if not fitted), used, and
        reason for which a source was not used.

    Raises
    ------
    BadInputError
        Shapes differ, or size or order is not allowed.
    NothingToDoError
        No source can serve as a PSF star.
    """
    if max_order not in N_TERMS or (size is not None and (size % 2 == 0 or size < 7)):
        raise BadInputError(f"PSF size {size} (odd, 7 or more) or order {max_order} (0 to 2) is not allowed")
    data, noise, masked = check_planes(image, variance, bad)
    stars, fwhm = select_stars(data, noise, masked, x, y, flux, point_like)
    chosen = np.flatnonzero(stars["used"])
    if not chosen.size:
        reasons, counts = np.unique(stars["reason"], return_counts=True)
        found = ", ".join(f"{n} {reason}" for reason, n in zip(reasons, counts, strict=True)) or "no sources"
        raise NothingToDoError(
            "No source can serve as a PSF star",
            f"sources by reason: {found}",
            "check mask, background and threshold",
        )
    if chosen.size > MAX_STARS:
        faint = chosen[np.argsort(-stars["snr"][chosen])[MAX_STARS:]]
        stars["used"][faint], stars["reason"][faint] = False, "not needed"
        chosen = np.flatnonzero(stars["used"])
    fit = PsfFit(data, noise, masked, stars, chosen, size or max(15, 2 * round(3 * fwhm) + 1), fwhm)
    for _ in range(MOFFAT_ROUNDS):
        fit.fit_moffat()
    for round_ in range(PIXEL_ROUNDS):
        fit.fit_pixels(
            max((k for k in range(max_order + 1) if fit.used.sum() >= MIN_STARS.get(k, 0)), default=0)
        )
        if round_ < PIXEL_ROUNDS - 1:
            fit.reject()
    for name, column in (
        ("x", fit.x),
        ("y", fit.y),
        ("flux", fit.flux),
        ("chi2", fit.chi2),
        ("used", fit.used),
    ):
        stars[name][chosen] = column
    stars["reason"][chosen[~fit.used]] = "does not fit the model"
    return fit.psf, stars


class PsfFit:
    """The chosen stars' stamps, and the model and its parameters as they stand."""

    def __init__(
        self,
        data: Float32Image,
        noise: Float32Image,
        masked: NDArray[np.bool_],
        stars: NDArray[np.void],
        chosen: NDArray[np.int64],
        size: int,
        fwhm: float,
    ) -> None:
        self.x, self.y = stars["x"][chosen].copy(), stars["y"][chosen].copy()
        self.flux, self.chi2 = stars["flux"][chosen].copy(), np.full(chosen.size, np.nan)
        self.used = np.ones(chosen.size, dtype=bool)
        height, width = data.shape
        self.center, self.scale = ((width - 1) / 2, (height - 1) / 2), (width / 2, height / 2)
        self.corner = np.column_stack([np.rint(self.x), np.rint(self.y)]).astype(np.int64) - size // 2
        shape = (chosen.size, size, size)
        self.data, self.noise = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        self.masked = np.ones(shape, dtype=np.bool_)
        for n, (x0, y0) in enumerate(self.corner):
            inside = np.s_[max(0, y0) : min(height, y0 + size), max(0, x0) : min(width, x0 + size)]
            own = np.s_[max(0, -y0) : min(size, height - y0), max(0, -x0) : min(size, width - x0)]
            self.data[n][own], self.noise[n][own], self.masked[n][own] = (
                data[inside],
                noise[inside],
                masked[inside],
            )
            mask_neighbours(self.masked[n], x0, y0, stars, int(chosen[n]), fwhm)
        self.residual, self.weight = np.zeros((2, *shape), np.float32)
        self.profile = moffat_kernel(size, np.array([math.log(fwhm), 0.0, 0.0, math.log(3.0)]))
        self.shape_parameters = np.array([math.log(fwhm), 0.0, 0.0, math.log(3.0)])
        self.coefficients, self.order = self.profile[None].copy(), 0
        self.fit_stars()
        self.fit_stars()

    @property
    def psf(self) -> PixelPsf:
        """The model as it stands."""
        return PixelPsf(self.coefficients, self.order, self.center, self.scale)

    def fit_stars(self) -> None:
        """Fit flux, position and background of each star; keep the residuals on the pixel grid."""
        fit_registered(
            self.data, self.noise, self.masked, self.coefficients.astype(np.float32), self.psf.frame, self.x,
            self.y, self.flux, self.corner, self.residual, self.weight, self.chi2,
        )  # fmt: skip

    def fit_moffat(self) -> None:
        """Fit an elliptical Moffat profile to the weighted mean of the stars."""
        weight = self.weight[self.used].sum(axis=0)
        mean = (self.weight * self.residual)[self.used].sum(axis=0) / np.maximum(
            weight, np.finfo(np.float32).tiny
        )
        target, root = self.profile + mean, np.sqrt(weight)
        size = self.profile.shape[0]

        def misfit(p: NDArray[np.float64]) -> NDArray[np.float64]:
            model = p[4] * moffat_kernel(size, p[:4], p[6], p[7]) + p[5]
            prior = [(p[3] - math.log(3.0)) / 0.3, p[1] / 0.3, p[2] / 0.3]
            return np.concatenate([((target - model) * root).ravel(), prior])

        start = np.concatenate([self.shape_parameters, [1.0, 0.0, 0.0, 0.0]])
        low = [math.log(1.2), -0.6, -0.6, math.log(1.5), 0.3, -1.0, -1.5, -1.5]
        high = [math.log(0.8 * size), 0.6, 0.6, math.log(8.0), 3.0, 1.0, 1.5, 1.5]
        start = np.clip(start, np.add(low, 1e-3), np.subtract(high, 1e-3))
        best = optimize.least_squares(
            misfit, start, bounds=(low, high), x_scale=[0.1, 0.1, 0.1, 0.3, 0.1, 1e-3, 0.1, 0.1]
        )
        self.shape_parameters = best.x[:4]
        self.profile = moffat_kernel(size, self.shape_parameters)
        self.coefficients, self.order = self.profile[None].copy(), 0
        self.fit_stars()

    def fit_pixels(self, order: int) -> None:
        """Fit the Moffat profile's shape, then each pixel, as polynomials of the position."""
        size, n_terms = self.profile.shape[0], N_TERMS[order]
        terms = np.empty((self.x.size, n_terms))
        current = np.empty(self.residual.shape)
        for n in range(self.x.size):
            u, v = (self.x[n] - self.center[0]) / self.scale[0], (self.y[n] - self.center[1]) / self.scale[1]
            polynomial_terms(u, v, terms[n])
            kernel_into(self.coefficients, self.psf.frame, self.x[n], self.y[n], current[n])
        weight = (self.weight * self.used[:, None, None]).reshape(self.x.size, -1).astype(np.float64)
        target = (current - self.profile + self.residual).reshape(self.x.size, -1)
        smooth = self.fit_shape(weight, target, terms)
        width = (PRIOR_CORE * self.profile + PRIOR_WING * self.profile.max()).ravel()
        squares = (terms[:, :, None] * terms[:, None, :]).reshape(self.x.size, -1)
        normal = (weight.T @ squares).reshape(-1, n_terms, n_terms)
        normal[:, range(n_terms), range(n_terms)] += (
            1.0 / (width[:, None] * np.array(PRIOR_SLOPE[:n_terms])) ** 2
        )
        right = (weight * (target - terms @ smooth)).T @ terms
        pixels = np.linalg.solve(normal, right[:, :, None])[:, :, 0].T.reshape(n_terms, size, size)
        for axis in (1, 2):
            pixels = ndimage.correlate1d(pixels, SAVITZKY_GOLAY, axis=axis, mode="nearest")
        self.coefficients, self.order = pixels + smooth.reshape(pixels.shape), order
        self.coefficients[0] += self.profile
        self.fit_stars()

    def fit_shape(
        self, weight: NDArray[np.float64], target: NDArray[np.float64], terms: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Fit the stars' deviations by changes of the profile's shape that vary with the position.

        A change of shape is a few numbers that all pixels determine together: it needs far fewer stars than
        the pixels do one by one. Returns the change of the coefficients, (n_terms, size * size).
        """
        size, n_terms = self.profile.shape[0], terms.shape[1]
        modes = np.empty((4, size * size))
        for m, step in enumerate(0.02 * np.eye(4)):
            up, down = (moffat_kernel(size, self.shape_parameters + s * step) for s in (1, -1))
            modes[m] = ((up - down) / 0.04).ravel()
        overlap = weight @ (modes[:, None] * modes[None]).reshape(16, -1).T
        squares = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
        normal = (overlap.T @ squares).reshape(4, 4, n_terms, n_terms).transpose(0, 2, 1, 3)
        normal = normal.reshape(4 * n_terms, -1) + np.eye(4 * n_terms) / PRIOR_SHAPE**2
        right = (((weight * target) @ modes.T).T @ terms).ravel()
        change = np.linalg.solve(normal, right).reshape(4, n_terms)
        return np.asarray(change.T @ modes)

    def reject(self) -> None:
        """Leave out stars whose chi2 stands out from the others'."""
        usable = np.isfinite(self.chi2)
        if np.count_nonzero(usable & self.used) >= 5:
            middle = np.median(self.chi2[usable & self.used])
            spread = 1.4826 * np.median(np.abs(self.chi2[usable & self.used] - middle))
            usable &= self.chi2 < max(1.5, middle + REJECT_SIGMA * spread)
        if usable.any():
            self.used = usable


def mask_neighbours(
    masked: NDArray[np.bool_], x0: int, y0: int, stars: NDArray[np.void], own: int, fwhm: float
) -> None:
    """Mask other sources in a star's stamp, in circles by their brightness; never the star's own core."""
    size = masked.shape[0]
    dx, dy = stars["x"] - x0, stars["y"] - y0
    near = np.flatnonzero(
        (dx > -2 * fwhm) & (dy > -2 * fwhm) & (dx < size + 2 * fwhm) & (dy < size + 2 * fwhm)
    )
    near = near[near != own]
    if not near.size:
        return
    axis = np.arange(size, dtype=np.float64)
    core = (axis[:, None] - dy[own]) ** 2 + (axis - dx[own]) ** 2 < fwhm**2
    for n in near:
        radius = fwhm * min(2.5, max(0.7, 0.7 + 0.6 * math.log10(max(1.0, stars["snr"][n]) / 5)))
        masked |= ((axis[:, None] - dy[n]) ** 2 + (axis - dx[n]) ** 2 < radius**2) & ~core


def moffat_kernel(
    size: int, shape: NDArray[np.float64], dx: float = 0.0, dy: float = 0.0
) -> NDArray[np.float64]:
    """Return an elliptical Moffat profile integrated over pixels (3 x 3 Gauss-Legendre points), of unit sum.

    ``shape`` is ln FWHM (pixels), two components of the ellipticity, ln beta.
    """
    beta = math.exp(shape[3])
    alpha2 = (0.5 * math.exp(shape[0])) ** 2 / (2 ** (1 / beta) - 1)
    half = size // 2
    axis = (np.arange(-half, half + 1)[:, None] + GAUSS_NODES).ravel()
    x, y = axis[None, :] - dx, axis[:, None] - dy
    e1, e2 = shape[1], shape[2]
    norm = math.sqrt(max(1e-3, 1 - e1 * e1 - e2 * e2))
    r2 = ((1 - e1) * x * x - 2 * e2 * x * y + (1 + e1) * y * y) / norm
    values = ((1 + r2 / alpha2) ** -beta).reshape(size, 3, size, 3)
    kernel = np.einsum("jaib,a,b->ji", values, GAUSS_WEIGHTS, GAUSS_WEIGHTS)
    return np.asarray(kernel / kernel.sum())


@compiled
def fit_registered(
    data: Stamps,
    noise: Stamps,
    masked: NDArray[np.bool_],
    coefficients: Stamps,
    frame: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    corner: NDArray[np.int64],
    residual: Stamps,
    weight: Stamps,
    chi2: NDArray[np.float64],
) -> None:
    """Fit flux, background and position of each star in its stamp, and bring its residual to the pixel grid.

    ``residual`` is per unit flux, zero on bad pixels, moved so that the star sits on the middle pixel;
    ``weight`` is its inverse variance; both zero, and chi2 NaN, where the fit fails.
    """
    size = data.shape[1]
    half = size // 2
    work = np.empty((2, size, size), np.float32)
    stamp, left = np.empty((size, size), np.float32), np.empty((size, size), np.float32)
    normal, right = np.empty((4, 4)), np.empty(4)
    for n in range(x.size):
        x0, y0 = corner[n, 0], corner[n, 1]
        cx, cy = x0 + half, y0 + half
        sky, level, slope, failed = 0.0, 0.0, 0.0, False
        for _ in range(2):
            stamp_at(coefficients, frame, x[n], y[n], x0, y0, work, stamp)
            number, _, level, slope = variance_line(noise[n], masked[n], stamp, 0, 0)
            failed = number < MIN_PIXELS or not level > 0.0
            if failed:
                break
            normal_into(data[n], masked[n], stamp, level, slope, flux[n], normal, right)
            scale = np.sqrt(np.diag(normal)) + 1e-30
            for a in range(4):
                right[a] /= scale[a]
                for b in range(4):
                    normal[a, b] /= scale[a] * scale[b]
            failed = not np.linalg.det(normal) > 1e-9
            if failed:
                break
            solution = np.linalg.solve(normal, right) / scale
            failed = not solution[0] > 0.0
            if failed:
                break
            flux[n], sky = solution[0], solution[1]
            x[n] = min(cx + 1.0, max(cx - 1.0, x[n] + min(0.5, max(-0.5, solution[2] / flux[n]))))
            y[n] = min(cy + 1.0, max(cy - 1.0, y[n] + min(0.5, max(-0.5, solution[3] / flux[n]))))
        if failed:
            residual[n] = np.float32(0.0)
            weight[n] = np.float32(0.0)
            chi2[n] = np.nan
            continue
        stamp_at(coefficients, frame, x[n], y[n], x0, y0, work, stamp)
        chi2[n] = left_into(data[n], masked[n], stamp, level, slope, flux[n], sky, left, weight[n])
        move_into(left, cx - x[n], cy - y[n], residual[n])


@compiled_fast
def normal_into(
    data: NDArray[np.float32],
    masked: NDArray[np.bool_],
    stamp: NDArray[np.float32],
    level: float,
    slope: float,
    flux: float,
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
) -> None:
    """Fill the normal equations of star, background and the star's gradients in x and y."""
    size = data.shape[0]
    zero, one, half = np.float32(0.0), np.float32(1.0), np.float32(0.5)
    a, b, part = np.float32(level), np.float32(slope), np.float32(MODEL_ERROR * flux)
    normal[:] = 0.0
    right[:] = 0.0
    for j in range(1, size - 1):
        here, lower, upper = stamp[j, 1 : size - 1], stamp[j, : size - 2], stamp[j, 2:]
        down, up = stamp[j - 1, 1 : size - 1], stamp[j + 1, 1 : size - 1]
        values, hidden = data[j, 1 : size - 1], masked[j, 1 : size - 1]
        pp, p1, px, py, s1, sx, sy, xx, xy, yy = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
        pd, sd, xd, yd = zero, zero, zero, zero
        for i in range(size - 2):
            p = here[i]
            w = one / (a + b * max(zero, p) + part * p * part * p)
            w = zero if hidden[i] else w
            gx, gy, d = half * (lower[i] - upper[i]), half * (down[i] - up[i]), values[i]
            wp, wx, wy = w * p, w * gx, w * gy
            pp += wp * p
            p1 += wp
            px += wp * gx
            py += wp * gy
            s1 += w
            sx += wx
            sy += wy
            xx += wx * gx
            xy += wx * gy
            yy += wy * gy
            pd += wp * d
            sd += w * d
            xd += wx * d
            yd += wy * d
        normal[0, 0] += pp
        normal[0, 1] += p1
        normal[0, 2] += px
        normal[0, 3] += py
        normal[1, 1] += s1
        normal[1, 2] += sx
        normal[1, 3] += sy
        normal[2, 2] += xx
        normal[2, 3] += xy
        normal[3, 3] += yy
        right[0] += pd
        right[1] += sd
        right[2] += xd
        right[3] += yd
    for k in range(4):
        for m in range(k):
            normal[k, m] = normal[m, k]


@compiled
def left_into(
    data: NDArray[np.float32],
    masked: NDArray[np.bool_],
    stamp: NDArray[np.float32],
    level: float,
    slope: float,
    flux: float,
    sky: float,
    left: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> float:
    """Fill what a fit has left of a star, per unit flux, and its weight; return chi2 per freedom."""
    size = data.shape[0]
    peak, total, number = stamp.max(), 0.0, 0
    for j in range(size):
        for i in range(size):
            left[j, i], weight[j, i] = 0.0, 0.0
            if masked[j, i]:
                continue
            left[j, i] = (data[j, i] - sky) / flux - stamp[j, i]
            spread = (level + slope * max(0.0, stamp[j, i])) / flux**2 + (MODEL_ERROR * stamp[j, i]) ** 2
            total += left[j, i] ** 2 / spread
            number += 1
            weight[j, i] = 1.0 / (spread + (0.1 * MODEL_ERROR * peak) ** 2)
    return total / max(1, number - 4)

"""All stars of a field at once: fitted, their hidden neighbours found, fitted again with these, and measured.

It does what `detect_sources` with deblending and `psf_photometry` do after one another, in one fit: each star
keeps its PSF, its stamp and its weights from round to round, and what is known of it to begin with.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.reduction.kernels.compiled import compiled, compiled_fast
from tololo.reduction.kernels.detection import PSF_MODEL_ERROR, apart_from, find_peaks, matched_filter
from tololo.reduction.kernels.interpolation import HALF_WIDTH, sinc_weights
from tololo.reduction.kernels.photometry import PHOTOMETRY_DTYPE, correct_blends, fwhm_at
from tololo.reduction.kernels.planes import Float32Image, check_planes
from tololo.reduction.kernels.psf import PixelPsf, kernel_into
from tololo.reduction.kernels.starfit import (
    FAILED,
    MAX_MOVE,
    MAX_STEP,
    MIN_SNR_TO_CENTRE,
    NOT_CENTRED,
    measure_star,
    smooth_variance,
)

ROUNDS = 15
FLUX_ROUNDS = 3
"""Rounds in which positions stand still, so that the fluxes are those of the positions."""

SETTLED = 1e-3
"""Pixels, or standard errors of the flux; a star that moves less in a round is left alone."""

THRESHOLD = 5.0

type Stamps = NDArray[np.float32]
"""(n, size, size)."""


def fit_field(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf: PixelPsf,
    found: NDArray[np.void],
) -> tuple[NDArray[np.void], Float32Image]:
    """Fit the PSF to sources and to those that hide beside them.

    Parameters
    ----------
    image, variance, bad
        As for `psf_photometry`.
    psf : `PixelPsf`
        Fluxes are those within its stamp.
    found : structured `numpy.ndarray`, (n,)
        x, y (pixels), flux of the sources that stand out by themselves, as `detect_sources` finds them.

    Returns
    -------
    stars : structured `numpy.ndarray`, (m,)
        As `psf_photometry` returns them, those of ``found`` first.
    residual : `numpy.ndarray`, (height, width), float32
        The image less all of them; 0 on bad pixels that have no number.
    """
    data, noise, masked = check_planes(image, variance, bad)
    field = _Field(data, noise, masked, psf)
    field.add(found["x"], found["y"], found["flux"])
    field.settle()
    width = psf.fwhm(data.shape[1] / 2, data.shape[0] / 2)
    x, y, flux = field.hidden(width)
    if x.size:
        neighbours = cKDTree(np.column_stack([field.x, field.y]))
        near = neighbours.query_ball_point(np.column_stack([x, y]), psf.size / 2)
        field.moved[np.unique(np.concatenate([np.asarray(rows, np.int64) for rows in near]))] = 1.0
        field.add(x, y, flux)
        field.settle()
    return field.measured(), field.residual.astype(np.float32)


class _Field:
    """The stars as they stand, and the image less all of them."""

    def __init__(
        self, data: Float32Image, noise: Float32Image, masked: NDArray[np.bool_], psf: PixelPsf
    ) -> None:
        self.noise, self.masked, self.psf = noise, masked, psf
        self.residual = data.astype(np.float64)
        self.x, self.y, self.flux, self.moved = np.empty((4, 0))
        self.start = np.empty((0, 2))
        self.corner = np.empty((0, 2), np.int64)
        self.flags = np.empty(0, np.int32)
        self.kernels, self.stamps, self.weights = np.empty((3, 0, psf.size, psf.size), np.float32)

    def add(self, x: NDArray[np.floating], y: NDArray[np.floating], flux: NDArray[np.floating]) -> None:
        """Take stars in with a rough flux, and subtract them."""
        number, size = len(x), self.psf.size
        start = np.column_stack([x, y]).astype(np.float64)
        corner = np.floor(start + 0.5).astype(np.int64) - size // 2
        kernels, stamps, weights = np.zeros((3, number, size, size), np.float32)
        flags, rough = np.zeros(number, np.int32), np.array(flux, dtype=np.float64)
        prepare(
            self.residual, self.noise, self.masked, self.psf.coefficients, self.psf.frame, start, corner,
            rough, kernels, stamps, weights, flags,
        )  # fmt: skip
        self.x, self.y = np.append(self.x, start[:, 0]), np.append(self.y, start[:, 1])
        self.flux, self.moved = np.append(self.flux, rough), np.append(self.moved, np.ones(number))
        self.flags, self.start = np.append(self.flags, flags), np.concatenate([self.start, start])
        self.corner = np.concatenate([self.corner, corner])
        self.kernels = np.concatenate([self.kernels, kernels])
        self.stamps = np.concatenate([self.stamps, stamps])
        self.weights = np.concatenate([self.weights, weights])

    def settle(self) -> None:
        """Fit the stars that still move."""
        order = np.argsort(-self.flux, kind="stable").astype(np.int64)
        moving = self.moved >= SETTLED
        for rounds, centre in ((ROUNDS, True), (FLUX_ROUNDS, False)):
            self.moved[moving] = 1.0
            fit_rounds(
                self.residual, self.noise, self.masked, self.start, self.corner, self.kernels, self.stamps,
                self.weights, self.x, self.y, self.flux, self.moved, self.flags, order, rounds, centre,
            )  # fmt: skip
        self.moved[:] = 0.0

    def hidden(self, width: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return x, y and rough flux of what stands out once the stars are subtracted."""
        inflated = self.noise.copy()
        add_model_error(inflated, self.stamps, self.corner, self.flux, PSF_MODEL_ERROR)
        shape = self.noise.shape
        kernel = self.psf.kernel(shape[1] / 2, shape[0] / 2)
        score, flux, _ = matched_filter(self.residual.astype(np.float32), inflated, self.masked, kernel)
        x, y, _ = find_peaks(score, THRESHOLD)
        if self.x.size:
            fresh = apart_from(x, y, self.x, self.y, 0.5 * width)
            x, y = x[fresh], y[fresh]
        return x, y, flux[np.rint(y).astype(int), np.rint(x).astype(int)].astype(np.float64)

    def measured(self) -> NDArray[np.void]:
        """Return the table of the stars."""
        stars = np.zeros(self.x.size, dtype=PHOTOMETRY_DTYPE)
        values = np.full(8, np.nan)
        coefficients, frame = self.psf.coefficients, self.psf.frame
        for n in range(self.x.size):
            x, y, flux = self.x[n], self.y[n], self.flux[n]
            self.flags[n] |= measure_star(
                self.residual, self.noise, self.masked, coefficients, frame, x, y, flux, values
            )
            x_err, y_err, flux_err, chi2, good, extended, extended_err, width = values
            stars[n] = x, y, x_err, y_err, flux, flux_err, chi2, good, extended, extended_err, width, 0
        stars["fwhm"] *= fwhm_at(self.psf, self.noise.shape, self.x, self.y, points=3)
        correct_blends(stars, self.flags, self.noise, self.masked, self.psf, 3)
        failed = (self.flags & FAILED) > 0
        for name in ("flux", "flux_err", "x_err", "y_err", "chi2"):
            stars[name][failed] = np.nan
        stars["flags"] = self.flags
        return stars


@compiled
def prepare(
    residual: NDArray[np.float64],
    noise: Float32Image,
    masked: NDArray[np.bool_],
    coefficients: NDArray[np.float64],
    frame: NDArray[np.float64],
    place: NDArray[np.float64],
    corner: NDArray[np.int64],
    flux: NDArray[np.float64],
    kernels: Stamps,
    stamps: Stamps,
    weights: Stamps,
    flags: NDArray[np.int32],
) -> None:
    """Fill PSF, stamp and weights of new stars, and subtract them; those without good pixels fail."""
    size = kernels.shape[1]
    kernel, work = np.empty((size, size)), np.empty((size, size), np.float32)
    for n in range(flux.size):
        kernel_into(coefficients, frame, place[n, 0], place[n, 1], kernel)
        kernels[n] = kernel
        move_into(
            kernels[n],
            place[n, 0] - corner[n, 0] - size // 2,
            place[n, 1] - corner[n, 1] - size // 2,
            work,
            stamps[n],
        )
        if not weigh_into(noise, masked, stamps[n], corner[n, 0], corner[n, 1], weights[n]):
            flags[n] |= FAILED
            flux[n] = 0.0
        add_light(residual, stamps[n], corner[n, 0], corner[n, 1], -flux[n])


@compiled
def weigh_into(
    noise: Float32Image,
    masked: NDArray[np.bool_],
    stamp: NDArray[np.float32],
    x0: int,
    y0: int,
    weight: NDArray[np.float32],
) -> bool:
    """Fill the inverse of the smoothed variance, 0 on bad pixels; false where no pixel is good."""
    smooth = np.empty(stamp.shape)
    shape = stamp.astype(np.float64)
    good = smooth_variance(noise, masked, shape, x0, y0, smooth)
    number = 0
    for j in range(stamp.shape[0]):
        for i in range(stamp.shape[1]):
            weight[j, i] = 0.0
            if good and smooth[j, i] > 0.0:
                weight[j, i] = 1.0 / smooth[j, i]
                number += 1
    return good and number > 0


@compiled_fast
def move_into(
    image: NDArray[np.float32], dx: float, dy: float, work: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Move an image by (dx, dy) pixels, at most 1, as `shift_into` does, along whole rows."""
    size = image.shape[0]
    wx, wy = np.empty(2 * HALF_WIDTH + 1), np.empty(2 * HALF_WIDTH + 1)
    sinc_weights(-dx, wx)
    sinc_weights(-dy, wy)
    work[:] = 0.0
    out[:] = 0.0
    for k in range(-HALF_WIDTH, HALF_WIDTH + 1):
        w = np.float32(wx[k + HALF_WIDTH])
        low, high = max(0, -k), min(size, size - k)
        for j in range(size):
            target, source = work[j, low:high], image[j, low + k : high + k]
            for i in range(high - low):
                target[i] += w * source[i]
    for k in range(-HALF_WIDTH, HALF_WIDTH + 1):
        w = np.float32(wy[k + HALF_WIDTH])
        for j in range(max(0, -k), min(size, size - k)):
            target, source = out[j], work[j + k]
            for i in range(size):
                target[i] += w * source[i]


@compiled_fast
def add_light(
    residual: NDArray[np.float64], stamp: NDArray[np.float32], x0: int, y0: int, flux: float
) -> None:
    """Add a star's light as far as it falls on the image."""
    size = stamp.shape[0]
    low, high = max(0, -x0), min(size, residual.shape[1] - x0)
    if high <= low:
        return
    for j in range(max(0, -y0), min(size, residual.shape[0] - y0)):
        target, source = residual[y0 + j, x0 + low : x0 + high], stamp[j, low:high]
        for i in range(high - low):
            target[i] += flux * source[i]


@compiled_fast
def sums_into(
    residual: NDArray[np.float64],
    stamp: NDArray[np.float32],
    weight: NDArray[np.float32],
    x0: int,
    y0: int,
    flux: float,
    sums: NDArray[np.float64],
) -> None:
    """Fill weighted sums PP, PX, PY, XX, XY, YY, PD, XD, YD of stamp, its gradients and the star's light."""
    size = stamp.shape[0]
    pp, px, py, xx, xy, yy, pd, xd, yd = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(max(1, -y0), min(size - 1, residual.shape[0] - y0)):
        for i in range(max(1, -x0), min(size - 1, residual.shape[1] - x0)):
            w, p = weight[j, i], stamp[j, i]
            gx = 0.5 * (stamp[j, i - 1] - stamp[j, i + 1])
            gy = 0.5 * (stamp[j - 1, i] - stamp[j + 1, i])
            d = residual[y0 + j, x0 + i] + flux * p
            pp += w * p * p
            px += w * p * gx
            py += w * p * gy
            xx += w * gx * gx
            xy += w * gx * gy
            yy += w * gy * gy
            pd += w * p * d
            xd += w * gx * d
            yd += w * gy * d
    sums[0], sums[1], sums[2], sums[3], sums[4], sums[5] = pp, px, py, xx, xy, yy
    sums[6], sums[7], sums[8] = pd, xd, yd


@compiled
def fit_rounds(
    residual: NDArray[np.float64],
    noise: Float32Image,
    masked: NDArray[np.bool_],
    start: NDArray[np.float64],
    corner: NDArray[np.int64],
    kernels: Stamps,
    stamps: Stamps,
    weights: Stamps,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    moved: NDArray[np.float64],
    flags: NDArray[np.int32],
    order: NDArray[np.int64],
    rounds: int,
    centre: bool,
) -> None:
    """Fit the stars in turn, each with all others subtracted, until they settle or the rounds are used up."""
    size = kernels.shape[1]
    half = size // 2
    height, width = residual.shape
    work, sums = np.empty((size, size), np.float32), np.empty(9)
    for _ in range(rounds):
        moving = 0
        for n in order:
            if flags[n] & FAILED or moved[n] < SETTLED:
                continue
            moving += 1
            sums_into(residual, stamps[n], weights[n], corner[n, 0], corner[n, 1], flux[n], sums)
            pp, px, py, xx, xy, yy, pd, xd, yd = sums
            if pp <= 0.0:
                flags[n] |= FAILED
                add_light(residual, stamps[n], corner[n, 0], corner[n, 1], flux[n])
                flux[n] = 0.0
                continue
            new = pd / pp
            moved[n] = abs(new - flux[n]) * math.sqrt(pp)
            add_light(residual, stamps[n], corner[n, 0], corner[n, 1], flux[n])
            det = (xx - px * px / pp) * (yy - py * py / pp) - (xy - px * py / pp) ** 2
            if centre and det > 0.0 and abs(new) * math.sqrt(pp) > MIN_SNR_TO_CENTRE:
                rx, ry = xd - px * new, yd - py * new
                step_x = ((yy - py * py / pp) * rx - (xy - px * py / pp) * ry) / det / new
                step_y = ((xx - px * px / pp) * ry - (xy - px * py / pp) * rx) / det / new
                dx = min(MAX_STEP, max(-MAX_STEP, step_x))
                dy = min(MAX_STEP, max(-MAX_STEP, step_y))
                x[n] += dx
                y[n] += dy
                moved[n] = max(moved[n], abs(dx), abs(dy))
                away = math.hypot(x[n] - start[n, 0], y[n] - start[n, 1]) > MAX_MOVE
                if away or x[n] < -0.5 or y[n] < -0.5 or x[n] > width - 0.5 or y[n] > height - 0.5:
                    x[n], y[n] = start[n, 0], start[n, 1]
                    flags[n] |= NOT_CENTRED
                if abs(x[n] - corner[n, 0] - half) > 0.75 or abs(y[n] - corner[n, 1] - half) > 0.75:
                    corner[n, 0], corner[n, 1] = math.floor(x[n] + 0.5) - half, math.floor(y[n] + 0.5) - half
                    move_into(
                        kernels[n], x[n] - corner[n, 0] - half, y[n] - corner[n, 1] - half, work, stamps[n]
                    )
                    weigh_into(noise, masked, stamps[n], corner[n, 0], corner[n, 1], weights[n])
                else:
                    move_into(
                        kernels[n], x[n] - corner[n, 0] - half, y[n] - corner[n, 1] - half, work, stamps[n]
                    )
            flux[n] = new
            add_light(residual, stamps[n], corner[n, 0], corner[n, 1], -new)
        if moving == 0:
            break


@compiled
def add_model_error(
    variance: Float32Image,
    stamps: Stamps,
    corner: NDArray[np.int64],
    flux: NDArray[np.float64],
    model_error: float,
) -> None:
    """Add the square of a part of each star's light to the variance."""
    height, width = variance.shape
    size = stamps.shape[1]
    for n in range(flux.size):
        x0, y0 = corner[n]
        for j in range(max(0, -y0), min(size, height - y0)):
            for i in range(max(0, -x0), min(size, width - x0)):
                variance[y0 + j, x0 + i] += (model_error * flux[n] * stamps[n, j, i]) ** 2

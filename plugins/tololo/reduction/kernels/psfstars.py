"""Choice of the stars that a PSF is fitted to."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError
from tololo.reduction.kernels.compiled import compiled
from tololo.reduction.kernels.planes import Float32Image
from tololo.reduction.kernels.psf import SIGMA_TO_FWHM, adaptive_moments

MIN_SNR = 20.0
ENOUGH_STARS = 15
"""With this many stars of a higher signal to noise (`GOOD_SNR`) the fainter ones are not needed."""
GOOD_SNR = 50.0
MIN_FWHM = 1.5
SHAPE_HALF_WIDTH = 16
LOCUS_WIDTH = 0.04
"""Width in ln(FWHM) of the window in which sources of one size are counted."""
SIZE_TOLERANCE = (0.05, 0.12)
ELLIPTICITY_TOLERANCE = 0.15
NEIGHBOUR_FLUX = 0.1
NEIGHBOUR_DISTANCE = 2.0
"""A source with this part of a star's flux, closer than this many FWHM, spoils the star."""

STAR_DTYPE = np.dtype(
    [*((n, "f8") for n in ("x", "y", "flux", "snr", "fwhm", "chi2")), ("used", "?"), ("reason", "U24")]
)


@compiled
def measure_shapes(
    image: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    half: int,
    shapes: NDArray[np.float64],
) -> None:
    """Fill x, y, fwhm, e1, e2, signal to noise; NaN shapes where the moments do not converge."""
    height, width = image.shape
    size = 2 * half + 1
    stamp, good, out = np.zeros((size, size)), np.zeros((size, size), dtype=np.bool_), np.empty(5)
    for n in range(x.size):
        ix, iy = math.floor(x[n] + 0.5), math.floor(y[n] + 0.5)
        for j in range(size):
            for i in range(size):
                yy, xx = iy + j - half, ix + i - half
                inside = yy >= 0 and xx >= 0 and yy < height and xx < width
                good[j, i] = inside and not masked[yy, xx]
                stamp[j, i] = image[yy, xx] if good[j, i] else 0.0
        converged = adaptive_moments(stamp, good, out)
        if not converged or math.hypot(ix + out[0] - x[n], iy + out[1] - y[n]) > 3.0:
            shapes[n, :5] = np.nan
            out[0], out[1], out[2], out[3], out[4] = x[n] - ix, y[n] - iy, 4.0, 4.0, 0.0
        else:
            total = out[2] + out[3]
            shapes[n, 0], shapes[n, 1] = ix + out[0], iy + out[1]
            shapes[n, 2] = SIGMA_TO_FWHM * (out[2] * out[3] - out[4] ** 2) ** 0.25
            shapes[n, 3], shapes[n, 4] = (out[2] - out[3]) / total, 2 * out[4] / total
        det = out[2] * out[3] - out[4] ** 2
        signal, squares, spread = 0.0, 0.0, 0.0
        for j in range(size):
            for i in range(size):
                if good[j, i]:
                    dx, dy = i - half - out[0], j - half - out[1]
                    rho = (out[3] * dx * dx - 2 * out[4] * dx * dy + out[2] * dy * dy) / det
                    if rho > 25.0:
                        continue
                    g = math.exp(-0.5 * rho)
                    signal += g * stamp[j, i]
                    squares += g * g
                    spread += g * g * noise[iy + j - half, ix + i - half]
        shapes[n, 5] = signal / math.sqrt(spread) if spread > 0 else 0.0


@compiled
def count_bad(
    masked: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: float,
    out: NDArray[np.int64],
) -> None:
    """Count the bad pixels within a radius of each source; -1 if the circle reaches over the image's edge."""
    height, width = masked.shape
    reach = math.ceil(radius)
    for n in range(x.size):
        out[n] = 0
        for j in range(int(y[n]) - reach, int(y[n]) + reach + 2):
            for i in range(int(x[n]) - reach, int(x[n]) + reach + 2):
                if math.hypot(i - x[n], j - y[n]) > radius:
                    continue
                if i < 0 or j < 0 or i >= width or j >= height:
                    out[n] = -1
                elif out[n] >= 0 and masked[j, i]:
                    out[n] += 1


def select_stars(
    image: Float32Image,
    noise: Float32Image,
    masked: NDArray[np.bool_],
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    flux: NDArray[np.floating],
    point_like: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.void], float]:
    """Choose PSF stars among detected sources; parameters as for `psffit.fit_psf`.

    Returns
    -------
    stars : structured `numpy.ndarray`, (n,)
        `STAR_DTYPE`; ``used`` says which are chosen, ``reason`` why the others are not.
    fwhm : `float`
        Of the stars' locus, in pixels, for a Gaussian of the same adaptive moments (NaN if there are no
        stars).
    """
    stars = np.zeros(np.size(x), dtype=STAR_DTYPE)
    if not np.shape(x) == np.shape(y) == np.shape(flux) == (stars.size,):
        raise BadInputError(
            f"Positions and fluxes have different lengths: {np.shape(x)}, {np.shape(y)}, {np.shape(flux)}"
        )
    stars["x"], stars["y"], stars["flux"], stars["chi2"] = x, y, flux, np.nan
    shapes = np.full((stars.size, 6), np.nan)
    measure_shapes(image, noise, masked, stars["x"].copy(), stars["y"].copy(), SHAPE_HALF_WIDTH, shapes)
    stars["fwhm"], stars["snr"] = shapes[:, 2], shapes[:, 5]

    def refuse(where: NDArray[np.bool_], reason: str) -> None:
        stars["reason"][where & (stars["reason"] == "")] = reason

    refuse(~np.isfinite(stars["fwhm"]), "no shape")
    refuse(stars["snr"] < MIN_SNR, "faint")
    refuse(stars["fwhm"] < MIN_FWHM, "not point-like")
    candidates = stars["reason"] == ""
    if not candidates.any():
        return stars, math.nan
    known = candidates & point_like if point_like is not None else np.zeros_like(candidates)
    guess = stellar_size(stars["fwhm"][known if known.any() else candidates])
    bad_pixels = np.zeros(stars.size, dtype=np.int64)
    count_bad(masked, stars["x"].copy(), stars["y"].copy(), 1.2 * guess, bad_pixels)
    refuse(bad_pixels < 0, "edge")
    refuse(bad_pixels > 0, "bad pixels")
    refuse(has_neighbour(stars, NEIGHBOUR_DISTANCE * guess), "neighbour")
    candidates = stars["reason"] == ""
    known &= candidates
    if not candidates.any():
        return stars, math.nan
    pool = known if known.any() else candidates
    locus = stellar_size(stars["fwhm"][pool])
    refuse(~on_locus(stars, shapes, candidates, known, locus), "not point-like")
    chosen = stars["reason"] == ""
    if np.count_nonzero(chosen & (stars["snr"] > GOOD_SNR)) >= ENOUGH_STARS:
        refuse(stars["snr"] <= GOOD_SNR, "faint")
        chosen = stars["reason"] == ""
    stars["used"] = chosen
    return stars, float(np.median(stars["fwhm"][chosen])) if chosen.any() else math.nan


def stellar_size(fwhm: NDArray[np.float64]) -> float:
    """Return the FWHM at which sources pile up; of equal piles the smaller size."""
    size = np.log(fwhm)
    density = np.exp(-0.5 * ((size[:, None] - size[None, :]) / LOCUS_WIDTH) ** 2).sum(axis=1)
    best = int(np.argmax(density / fwhm))
    near = np.abs(size - size[best]) < 2 * LOCUS_WIDTH
    return float(np.exp(np.median(size[near])))


def has_neighbour(stars: NDArray[np.void], radius: float) -> NDArray[np.bool_]:
    """Say which sources have one of at least a tenth of their flux within a radius."""
    spoiled = np.zeros(stars.size, dtype=bool)
    tree = cKDTree(np.column_stack([stars["x"], stars["y"]]))
    for a, b in tree.query_pairs(radius):
        spoiled[a] |= stars["flux"][b] > NEIGHBOUR_FLUX * stars["flux"][a]
        spoiled[b] |= stars["flux"][a] > NEIGHBOUR_FLUX * stars["flux"][b]
    return spoiled


def on_locus(
    stars: NDArray[np.void],
    shapes: NDArray[np.float64],
    candidates: NDArray[np.bool_],
    known: NDArray[np.bool_],
    locus: float,
) -> NDArray[np.bool_]:
    """Say which sources have a star's size and shape; with 10 stars the size may be a plane over x and y."""
    size = np.log(stars["fwhm"] / locus)
    slack = 1.5 / np.maximum(stars["snr"], 1.0)
    ellipticity = shapes[:, 3:5]
    basis = np.column_stack([np.ones(stars.size), stars["x"], stars["y"]])
    basis[:, 1:] = (basis[:, 1:] - basis[:, 1:].mean(axis=0)) / np.maximum(np.ptp(basis[:, 1:], axis=0), 1.0)
    deviation, tolerance = size, SIZE_TOLERANCE[1]
    member = candidates & (np.abs(deviation) < tolerance + slack)
    for _ in range(3):
        if np.count_nonzero(member) >= 10:
            solution, *_ = np.linalg.lstsq(basis[member], size[member], rcond=None)
            deviation = size - basis @ solution
        elif not known.any():
            deviation = size - np.median(size[member]) if member.any() else size
        spread = 1.4826 * np.median(np.abs(deviation[member])) if np.count_nonzero(member) >= 5 else np.inf
        tolerance = float(np.clip(3 * spread, *SIZE_TOLERANCE))
        middle = np.median(ellipticity[member], axis=0) if member.any() else np.zeros(2)
        round_ = np.hypot(*(ellipticity - middle).T) < ELLIPTICITY_TOLERANCE + slack
        member = candidates & round_ & (np.abs(deviation) < tolerance + slack)
    return np.asarray(member)

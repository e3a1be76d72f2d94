"""Zero point, colour terms, registration and depth of an image, from reference stars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.kernels.psf import PixelPsf

PRIOR_SCATTER = 0.04
PRIOR_WEIGHT = 2.0
"""A few stars cannot tell their own scatter: it is averaged with 0.04 mag, counted as two more stars.

The Legacy Surveys find 0.02 to 0.04 mag on DECam exposures with Pan-STARRS (`ccdphrms`); Gaia's colours are
coarser."""
CLIP = 4.5
GAIA_COLOUR_RANGE = (-0.6, 4.1)
# Polynomials in BP - RP, constant term first, to be added to G. Source: R. Zhou (2020), in the Legacy
# Surveys' legacypipe (BSD-3), py/legacypipe/gaiacat.py, function gaia_to_decam.
GAIA_TO_DECAM: dict[str, tuple[float, ...]] = {
    "g": (
        -0.1178631039, 0.3650113495, 0.5608615360, -0.2850687702, -1.0243473939, 1.4378375491, 0.0679401731,
        -1.1713172509, 0.9107811975, -0.3374324004, 0.0683946390, -0.0073089582, 0.0003230170,
    ),
    "r": (
        0.1139078673, -0.2868955307, 0.0013196434, 0.1029151074, 0.1196710702, -0.3729031390, 0.1859874242,
        0.1370162451, -0.1808580848, 0.0803219195, -0.0180218196, 0.0020584707, -0.0000953486,
    ),
    "i": (
        0.3396481660, -0.6491867119, -0.3330769819, 0.4381097294, 0.5752125977, -1.4746570523, 1.2979140762,
        -0.6371018151, 0.1948940062, -0.0382055596, 0.0046907449, -0.0003296841, 0.0000101480,
    ),
    "z": (
        0.4811198057, -0.9990015041, 0.1403990019, 0.2150988888, -0.2917655866, 0.1326831887, -0.0259205004,
        0.0018548776,
    ),
}  # fmt: skip


def gaia_to_decam(
    g: ArrayLike, bp: ArrayLike, rp: ArrayLike, band: str, *, missing_colour: float | None = None
) -> NDArray[np.float64]:
    """Predict DECam AB magnitudes of stars from Gaia DR2 photometry.

    Polynomials in BP - RP by R. Zhou (2020) as the Legacy Surveys use them (legacypipe, gaiacat.py), valid
    for -0.6 <= BP - RP <= 4.1 and for stars little reddened.

    Parameters
    ----------
    g, bp, rp : array_like, (n,)
        Gaia magnitudes (Vega), NaN or 0 where there is none.
    band : `str`
        DECam band: g, r, i or z.
    missing_colour : `float`, optional
        BP - RP taken for stars without BP or RP. The Legacy Surveys take 1.4 for their model of the sky; for
        a calibration that is a guess, wrong by up to 1 mag in g, so by default these stars get NaN.

    Returns
    -------
    magnitude : `numpy.ndarray`, (n,), float64
        NaN for stars without G, without colour (see above), or outside the range of colours, where the Legacy
        Surveys would take the colour of the range's end.

    Raises
    ------
    BadInputError
        There is no published relation for this band (u, Y, VR and the narrow bands).
    """
    if band not in GAIA_TO_DECAM:
        raise BadInputError(
            f"No relation between Gaia and DECam magnitudes is published for band {band}",
            remedy=f"take a reference catalogue that has it; Gaia gives {', '.join(GAIA_TO_DECAM)}",
        )
    magnitudes = [np.atleast_1d(np.array(m, dtype=np.float64)) for m in (g, bp, rp)]
    for m in magnitudes:
        m[m == 0] = np.nan
    colour = magnitudes[1] - magnitudes[2]
    if missing_colour is not None:
        colour[np.isnan(colour)] = missing_colour
    low, high = GAIA_COLOUR_RANGE
    colour[~((colour >= low) & (colour <= high))] = np.nan
    return np.asarray(magnitudes[0] + np.polynomial.polynomial.polyval(colour, np.array(GAIA_TO_DECAM[band])))


def gaia_to_decam_error(
    g_error: ArrayLike, bp: ArrayLike, bp_error: ArrayLike, rp: ArrayLike, rp_error: ArrayLike, band: str
) -> NDArray[np.float64]:
    """Return the error (mag) that Gaia's errors make in `gaia_to_decam`, without the relation's own scatter.

    Parameters as there, with the errors in mag. In a faint star BP - RP rules.
    """
    gaia_to_decam(0.0, 0.0, 0.0, band)
    slope = np.polynomial.polynomial.polyder(np.array(GAIA_TO_DECAM[band]))
    colour = np.clip(np.asarray(bp, dtype=np.float64) - np.asarray(rp, dtype=np.float64), *GAIA_COLOUR_RANGE)
    colour_error = np.hypot(bp_error, rp_error)
    return np.asarray(np.hypot(g_error, np.polynomial.polynomial.polyval(colour, slope) * colour_error))


@dataclass(frozen=True)
class ZeroPoint:
    """Magnitude that gives one count: calibrated = instrumental + value.

    ``value`` and its standard ``error`` in mag; ``scatter``, the stars' scatter in mag beyond their stated
    errors (averaged with a prior where stars are few); numbers of stars used and rejected.
    """

    value: float
    error: float
    scatter: float
    n_used: int
    n_rejected: int


def zero_point(
    instrumental_mag: ArrayLike, error: ArrayLike, reference_mag: ArrayLike, reference_error: ArrayLike
) -> ZeroPoint:
    """Measure a zero point from stars of known magnitude, be they many or one.

    A weighted mean of the differences. Their scatter beyond the stated errors is found from the stars and a
    prior (`PRIOR_SCATTER`), so that one star gives an error of at least 0.04 mag and two that happen to
    agree are not believed too much. Outliers beyond 4.5 sigma of the median are left out one by one while
    more than two stars remain and fewer than half have gone.

    Parameters
    ----------
    instrumental_mag, error : array_like, (n,)
        -2.5 log10 of the flux (in the unit that shall get the zero point) and its error in mag.
    reference_mag, reference_error : array_like, (n,)
        Catalogue magnitudes in the band, and their errors. Stars with a NaN in any of the four are left out
        and not counted.

    Returns
    -------
    zero_point : `ZeroPoint`

    Raises
    ------
    BadInputError
        The lengths differ.
    NothingToDoError
        No star is left.
    """
    columns = [
        np.atleast_1d(np.asarray(c, dtype=np.float64))
        for c in (instrumental_mag, error, reference_mag, reference_error)
    ]
    if len({c.shape for c in columns}) != 1:
        raise BadInputError(f"Columns for a zero point have different lengths: {[c.size for c in columns]}")
    usable = np.isfinite(np.array(columns)).all(axis=0)
    if not usable.any():
        raise NothingToDoError(
            "No star with both an instrumental and a reference magnitude",
            f"{usable.size} stars given",
            "check the reference catalogue's coverage, magnitudes and colours",
        )
    difference = (columns[2] - columns[0])[usable]
    variance = (columns[1] ** 2 + columns[3] ** 2)[usable]
    keep = np.ones(difference.size, dtype=bool)
    while True:
        scatter = intrinsic_scatter(difference[keep], variance[keep])
        total = variance + scatter**2
        n = int(keep.sum())
        # Judged by the scatter of the others: a far outlier must not hide behind the scatter it makes itself.
        middle = np.median(difference[keep])
        deviation = np.where(keep, np.abs(difference - middle), 0.0)
        worst = int(np.argmax(deviation / np.sqrt(variance + PRIOR_SCATTER**2)))
        others = keep.copy()
        others[worst] = False
        if n <= 2 or n - 1 < difference.size / 2:
            break
        limit = CLIP * math.sqrt(
            variance[worst] + intrinsic_scatter(difference[others], variance[others]) ** 2
        )
        if abs(difference[worst] - np.median(difference[others])) <= limit:
            break
        keep = others
    weight = 1.0 / total[keep]
    value = float((weight * difference[keep]).sum() / weight.sum())
    return ZeroPoint(value, math.sqrt(1.0 / weight.sum()), scatter, n, int((~keep).sum()))


def intrinsic_scatter(difference: NDArray[np.float64], variance: NDArray[np.float64]) -> float:
    """Return the scatter (mag) that differences show beyond their variances, averaged with the prior."""
    n = difference.size
    squares = 0.0
    if n > 1:
        weight = 1.0 / (variance + PRIOR_SCATTER**2)
        mean = (weight * difference).sum() / weight.sum()
        # Each star's own noise is taken off in the mean only: weights that depend on it would be biased.
        squares = max(
            0.0, float((weight * ((difference - mean) ** 2 * n / (n - 1) - variance)).sum() / weight.sum())
        )
    return math.sqrt((PRIOR_WEIGHT * PRIOR_SCATTER**2 + (n - 1) * squares) / (PRIOR_WEIGHT + n - 1))


@dataclass(frozen=True)
class Matches:
    """Pairs of detected and reference positions, and their offset (detected less reference, pixels).

    ``index`` and ``reference`` number the rows of the two lists; ``dx``, ``dy`` are medians; ``scatter`` is
    the robust standard deviation per axis about them; ``rms`` the root mean square distance of the pairs per
    axis, offset included.
    """

    index: NDArray[np.int64]
    reference: NDArray[np.int64]
    dx: float
    dy: float
    scatter: float
    rms: float


def match_offsets(x: ArrayLike, y: ArrayLike, ref_x: ArrayLike, ref_y: ArrayLike, radius: float) -> Matches:
    """Match positions to reference positions that are shifted by up to a radius.

    The shift is where the differences of all pairs within the radius crowd most; then each position is
    matched to its nearest reference, and it to it, within a third of the radius (at least 1 pixel) of that
    shift.

    Parameters
    ----------
    x, y, ref_x, ref_y : array_like, (n,) and (m,)
        Positions in pixels; those that are not finite are left out.
    radius : `float`
        Largest shift, in pixels.

    Returns
    -------
    matches : `Matches`

    Raises
    ------
    NothingToDoError
        There are no pairs.
    """
    own = np.column_stack([np.ravel(x), np.ravel(y)]).astype(np.float64)
    other = np.column_stack([np.ravel(ref_x), np.ravel(ref_y)]).astype(np.float64)
    own_rows, other_rows = (np.flatnonzero(np.isfinite(p).all(axis=1)) for p in (own, other))
    own, other = own[own_rows], other[other_rows]
    nothing = NothingToDoError(
        f"No detected source lies within {radius:g} pixels of a reference star",
        f"{len(own)} sources, {len(other)} reference stars",
        "check the WCS, the reference catalogue's coverage and the radius",
    )
    if not len(own) or not len(other):
        raise nothing
    pairs = cKDTree(own).sparse_distance_matrix(cKDTree(other), radius, output_type="coo_matrix")
    if not pairs.nnz:
        raise nothing
    differences = own[pairs.row] - other[pairs.col]
    near = max(1.0, radius / 3)
    tree = cKDTree(differences)
    crowd = np.array([len(c) for c in tree.query_ball_point(differences, near)])
    # Of equally crowded shifts the smallest: with a few stars in a field a chance pair must not win.
    best = np.lexsort((np.hypot(*differences.T), -crowd))[0]
    shift = np.median(differences[tree.query_ball_point(differences[best], near)], axis=0)
    distance, column = cKDTree(other).query(own - shift, distance_upper_bound=near)
    _, row = cKDTree(own - shift).query(other)
    found = np.flatnonzero(np.isfinite(distance))
    found = found[row[column[found]] == found]
    if not found.size:
        raise nothing
    matched = own[found] - other[column[found]]
    dx, dy = np.median(matched, axis=0)
    scatter = 1.4826 * float(np.median(np.abs(matched - [dx, dy])))
    rms = math.sqrt(float((matched**2).mean()))
    return Matches(own_rows[found], other_rows[column[found]], float(dx), float(dy), scatter, rms)


@dataclass(frozen=True)
class Registration:
    """Linear map, in pixels, from reference positions to detected ones.

    (x, y) = ref + shift + matrix (ref - center).
    ``matrix`` is zero for a plain shift. ``shift_error`` holds the standard errors in x and y at the centre,
    ``rms`` the residuals' root mean square per axis.
    """

    shift: tuple[float, float]
    matrix: NDArray[np.float64]
    center: tuple[float, float]
    shift_error: tuple[float, float]
    rms: float
    n_used: int
    n_rejected: int

    def apply(self, ref_x: ArrayLike, ref_y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the positions in the image of reference positions (pixels)."""
        ref = np.column_stack([np.ravel(ref_x), np.ravel(ref_y)]).astype(np.float64)
        moved = ref + self.shift + (ref - self.center) @ self.matrix.T
        return moved[:, 0], moved[:, 1]


def fit_registration(
    x: ArrayLike,
    y: ArrayLike,
    ref_x: ArrayLike,
    ref_y: ArrayLike,
    error: ArrayLike | float = 0.05,
    *,
    min_affine: int = 12,
) -> Registration:
    """Fit the shift, or with enough stars the affine map, from matched reference positions to detected ones.

    Parameters
    ----------
    x, y, ref_x, ref_y : array_like, (n,)
        Matched positions in pixels.
    error : array_like, (n,), or `float`
        Standard error of a pair's difference per axis, in pixels.
    min_affine : `int`
        With fewer stars only a shift is fitted.

    Returns
    -------
    registration : `Registration`
        Its errors are scaled up where the residuals exceed the stated errors.

    Raises
    ------
    NothingToDoError
        No pair is given.
    """
    ref = np.column_stack([np.ravel(ref_x), np.ravel(ref_y)]).astype(np.float64)
    difference = np.column_stack([np.ravel(x), np.ravel(y)]) - ref
    if not len(ref):
        raise NothingToDoError("No matched stars to register the image with")
    sigma = np.broadcast_to(np.asarray(error, dtype=np.float64), len(ref))
    center = ref.mean(axis=0)
    keep = np.ones(len(ref), dtype=bool)
    for _ in range(5):
        affine = np.count_nonzero(keep) >= min_affine
        basis = np.column_stack([np.ones(len(ref)), ref - center]) if affine else np.ones((len(ref), 1))
        weighted = basis[keep] / sigma[keep, None]
        solution, *_ = np.linalg.lstsq(weighted, difference[keep] / sigma[keep, None], rcond=None)
        residual = difference - basis @ solution
        normalised = np.abs(residual).max(axis=1) / sigma
        spread = max(1.0, 1.4826 * float(np.median(np.abs(residual[keep]) / sigma[keep, None])))
        new = normalised <= 4.0 * spread
        if len(ref) < 4 or np.array_equal(new, keep) or np.count_nonzero(new) <= len(ref) / 2:
            break
        keep = new
    n, n_terms = int(keep.sum()), basis.shape[1]
    chi2 = ((residual[keep] / sigma[keep, None]) ** 2).sum(axis=0) / max(1, n - n_terms)
    covariance = np.linalg.inv(weighted.T @ weighted)
    sx, sy = np.sqrt(covariance[0, 0] * np.maximum(1.0, chi2))
    return Registration(
        shift=(float(solution[0, 0]), float(solution[0, 1])),
        matrix=solution[1:].T.copy() if affine else np.zeros((2, 2)),
        center=(float(center[0]), float(center[1])),
        shift_error=(float(sx), float(sy)),
        rms=math.sqrt(float((residual[keep] ** 2).mean())),
        n_used=n,
        n_rejected=len(ref) - n,
    )


def limiting_magnitude(
    variance: NDArray[np.floating], psf: PixelPsf, zeropoint: float, snr: float = 5.0
) -> float:
    """Return the magnitude of a point source with a given signal to noise.

    Parameters
    ----------
    variance : `numpy.ndarray`, (height, width)
        Noise variance; its median over finite positive pixels is the sky's.
    psf : `PixelPsf`
        Taken at the middle of the image.
    zeropoint : `float`
        AB magnitude of one count.
    snr : `float`
        Signal to noise of the PSF flux.

    Returns
    -------
    magnitude : `float`

    Raises
    ------
    BadInputError
        No pixel has a finite positive variance.
    """
    good = variance[np.isfinite(variance) & (variance > 0)]
    if not good.size:
        raise BadInputError("No pixel has a finite positive variance, so the image has no depth")
    kernel = psf.kernel((variance.shape[1] - 1) / 2, (variance.shape[0] - 1) / 2)
    sigma = math.sqrt(float(np.median(good)) / float((kernel**2).sum()))
    return zeropoint - 2.5 * math.log10(snr * sigma)

"""Recognition of reference stars among detections, and the polynomial that brings one onto the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from tololo.facility.errors import NothingToDoError

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

BRIGHTEST = 500
"""So many of the brightest of each list are enough to recognise the field."""

BIN = 3.0
"""Pixels; side of the cells in which offsets are counted, three by three together."""

ROTATIONS = np.radians(np.concatenate([[0.0], np.ravel([(s, -s) for s in np.arange(0.1, 1.01, 0.1)])]))
"""Angles tried, the small ones first: of equal crowds the first one wins."""

STEPS = (9.0, 5.0, 3.0)
"""Pixels; radii within which pairs are taken while the linear map converges."""

FIT_RADIUS = 1.5
"""Pixels; radius of the final pairs (at least: five standard errors of a faint star may be more)."""

MIN_PAIRS = 4
MIN_STARS = {2: 24, 3: 48}
"""Stars needed for a distortion of second and of third order."""

MIN_CELLS = {2: 7, 3: 8}
"""Of nine equal cells of the image, how many must hold a star: a polynomial runs wild where it has none."""

FLOOR = {1: 0.1, 2: 0.03, 3: 0.01}
"""Pixels, by order; no position is trusted better than this: the air is not quiet, and a polynomial of low
order leaves something."""

CLIP = 4.0
ROBUST_ROUNDS, CLIP_ROUNDS = 8, 4


@dataclass(frozen=True)
class PixelMap:
    """Map from pixels of the reference stars, by a nominal WCS, to pixels of the image.

    p = q + sum over i + j <= order of c_ij u^i v^j, with (u, v) = (q - center) / scale.

    Attributes
    ----------
    coefficients : `numpy.ndarray`, (n_terms, 2)
        Pixels, of x and y, for the terms 1, u, v, u², uv, v², ...
    order : `int`
    center : `tuple` [`float`, `float`]
    scale : `float`
    """

    coefficients: Floats
    order: int
    center: tuple[float, float]
    scale: float

    def __call__(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Return where the image has what lies at nominal pixels (x, y)."""
        q = np.column_stack([np.ravel(x), np.ravel(y)]).astype(np.float64)
        p = q + self.terms(q) @ self.coefficients
        return p[:, 0], p[:, 1]

    def inverse(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Return the nominal pixels of pixels (x, y) of the image (to 1e-9 pixel)."""
        p = np.column_stack([np.ravel(x), np.ravel(y)]).astype(np.float64)
        q = p.copy()
        # The correction changes by some hundredths per pixel at most, so each round gains two digits.
        for _ in range(30):
            step = p - q - self.terms(q) @ self.coefficients
            q += step
            if not step.size or np.abs(step).max() < 1e-9:
                break
        return q[:, 0], q[:, 1]

    def terms(self, q: Floats) -> Floats:
        """Return the polynomial's terms at nominal pixels, (n, n_terms)."""
        u, v = ((q - self.center) / self.scale).T
        return np.column_stack(
            [u ** (total - j) * v**j for total in range(self.order + 1) for j in range(total + 1)]
        )

    @property
    def rotation(self) -> float:
        """Angle of the linear part, degrees."""
        a, b = self.coefficients[1:3] / self.scale
        return math.degrees(math.atan2(a[1] - b[0], 2 + a[0] + b[1]))

    @property
    def magnification(self) -> float:
        """Scale of the image relative to the nominal one, less 1."""
        a, b = self.coefficients[1:3] / self.scale
        return math.sqrt(abs((1 + a[0]) * (1 + b[1]) - a[1] * b[0])) - 1


@dataclass(frozen=True)
class AstrometricFit:
    """The final map and the pairs that it rests on.

    Attributes
    ----------
    map : `PixelMap`
    own, reference : `numpy.ndarray`, (n,), int64
        Rows of the pairs.
    residual : `numpy.ndarray`, (n, 2)
        Detected less mapped position, pixels.
    used : `numpy.ndarray`, (n,), bool
        Pairs that were not clipped.
    rms : `float`
        Root mean square residual of the used pairs per axis, pixels.
    """

    map: PixelMap
    own: Integers
    reference: Integers
    residual: Floats
    used: NDArray[np.bool_]
    rms: float


def align(
    x: ArrayLike, y: ArrayLike, ref_x: ArrayLike, ref_y: ArrayLike, shape: tuple[int, int], radius: float
) -> PixelMap:
    """Find shift, rotation and scale of an image whose WCS is off by many pixels.

    For each of some small rotations the offsets of all pairs of bright stars are counted in cells: true pairs
    share one offset, chance pairs have any. From the fullest cell on, pairs within shrinking radii give a
    linear map.

    Parameters
    ----------
    x, y : array_like, (n,)
        Detected positions in pixels, bright ones first.
    ref_x, ref_y : array_like, (m,)
        Reference stars in pixels of the nominal WCS, bright ones first.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the image.
    radius : `float`
        Largest shift, in pixels.

    Returns
    -------
    map : `PixelMap`
        Of first order.

    Raises
    ------
    NothingToDoError
        No offset stands out from chance.
    """
    own, ref = (np.column_stack([np.ravel(a), np.ravel(b)])[:BRIGHTEST] for a, b in ((x, y), (ref_x, ref_y)))
    center = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    reach = radius + float(np.abs(ROTATIONS).max()) * math.hypot(*shape) / 2
    nothing = NothingToDoError(
        f"The reference stars cannot be recognised within {radius:g} pixels of where they should be",
        f"{len(own)} detections, {len(ref)} reference stars",
        "check pointing, WCS and reference catalogue",
    )
    if not len(own) or not len(ref):
        raise nothing
    pairs = cKDTree(own).sparse_distance_matrix(cKDTree(ref), reach, output_type="coo_matrix")
    crowds = [_crowd(own[pairs.row], ref[pairs.col], center, angle, radius) for angle in ROTATIONS]
    best = max(range(len(crowds)), key=lambda k: (crowds[k][0], -k))
    number, shift, chance = crowds[best]
    if number < MIN_PAIRS or number < chance + 5 * math.sqrt(chance) + 3:
        raise nothing
    turn = _turn(ROTATIONS[best]) - np.eye(2)
    scale = max(shape) / 2
    found = PixelMap(np.vstack([shift, scale * turn.T]), 1, (float(center[0]), float(center[1])), scale)
    for near in STEPS:
        index, other = match(own, np.column_stack(found(*ref.T)), near)
        if len(index) < MIN_PAIRS:
            raise nothing
        found, _ = _fit(found, 1, own[index], ref[other], np.ones(len(index)))
    return found


def _turn(angle: float) -> Floats:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _crowd(
    own: Floats, ref: Floats, center: Floats, angle: float, radius: float
) -> tuple[float, Floats, float]:
    """Return number and median offset of the pairs in the fullest cells, and the number by chance."""
    offset = own - center - (ref - center) @ _turn(angle).T
    offset = offset[np.abs(offset).max(axis=1) < radius]
    edges = np.linspace(-radius, radius, 2 * math.ceil(radius / BIN) + 1)
    counts, _, _ = np.histogram2d(offset[:, 0], offset[:, 1], bins=(edges, edges))
    smooth = uniform_filter(counts, 3, mode="constant") * 9
    i, j = (int(index) for index in np.unravel_index(int(np.argmax(smooth)), counts.shape))
    low = edges[np.maximum([i - 1, j - 1], 0)]
    high = edges[np.minimum([i + 2, j + 2], len(counts))]
    inside = ((offset >= low) & (offset <= high)).all(axis=1)
    shift = np.median(offset[inside], axis=0) if inside.any() else np.zeros(2)
    return float(smooth[i, j]), shift, 9 * len(offset) / counts.size


def match(own: Floats, predicted: Floats, radius: float) -> tuple[Integers, Integers]:
    """Return rows of the pairs that are each other's nearest within a radius (pixels)."""
    if not len(own) or not len(predicted):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distance, column = cKDTree(predicted).query(own, distance_upper_bound=radius)
    _, row = cKDTree(own).query(predicted)
    found = np.flatnonzero(np.isfinite(distance))
    found = found[row[column[found]] == found]
    return found.astype(np.int64), column[found].astype(np.int64)


def fit_distortion(
    x: ArrayLike,
    y: ArrayLike,
    error: ArrayLike,
    ref_x: ArrayLike,
    ref_y: ArrayLike,
    ref_error: ArrayLike,
    start: PixelMap,
    shape: tuple[int, int],
    highest: int = 3,
) -> AstrometricFit:
    """Fit the map from reference pixels to detected ones, as a polynomial of up to third order.

    Parameters
    ----------
    x, y, error : array_like, (n,)
        Detections, and their standard errors per axis; pixels.
    ref_x, ref_y, ref_error : array_like, (m,)
        Reference stars by the nominal WCS, and the errors of their places; pixels.
    start : `PixelMap`
        As `align` returns.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the image.
    highest : `int`
        Highest order; number and spread of the stars may allow less (`MIN_STARS`, `MIN_CELLS`).

    Returns
    -------
    fit : `AstrometricFit`

    Raises
    ------
    NothingToDoError
        Fewer than four pairs.
    """
    own, ref = (
        np.column_stack([np.ravel(a), np.ravel(b)]).astype(float) for a, b in ((x, y), (ref_x, ref_y))
    )
    own_error, other_error = np.ravel(error).astype(float), np.ravel(ref_error).astype(float)
    found = start
    for near, order in ((2 * FIT_RADIUS, 1), (2 * FIT_RADIUS, 2), (FIT_RADIUS, 3), (FIT_RADIUS, 3)):
        index, other = match(own, np.column_stack(found(*ref.T)), near)
        if len(index) < MIN_PAIRS:
            raise NothingToDoError(
                f"Only {len(index)} detections lie within {near:g} pixels of a reference star",
                f"{len(own)} detections, {len(ref)} reference stars",
                "check the reference catalogue",
            )
        allowed = min(order, highest, allowed_order(own[index], shape))
        sigma = np.sqrt(own_error[index] ** 2 + other_error[other] ** 2 + FLOOR[allowed] ** 2)
        found, used = _fit(found, allowed, own[index], ref[other], sigma)
    index, other = match(own, np.column_stack(found(*ref.T)), FIT_RADIUS)
    residual = own[index] - np.column_stack(found(*ref[other].T))
    sigma = np.sqrt(own_error[index] ** 2 + other_error[other] ** 2 + FLOOR[found.order] ** 2)
    used = _clipped(residual, sigma, np.ones(len(index), bool))
    rms = math.sqrt(float((residual[used] ** 2).mean())) if used.any() else math.inf
    return AstrometricFit(found, index, other, residual, used, rms)


def allowed_order(points: Floats, shape: tuple[int, int]) -> int:
    """Return the order of a distortion that number and spread of stars allow: 1 to 3."""
    cells = np.clip((3 * points / [shape[1], shape[0]]).astype(int), 0, 2)
    filled = len(np.unique(cells[:, 0] * 3 + cells[:, 1]))
    orders = (order for order in (3, 2) if len(points) >= MIN_STARS[order] and filled >= MIN_CELLS[order])
    return next(orders, 1)


def _fit(
    like: PixelMap, order: int, own: Floats, ref: Floats, sigma: Floats
) -> tuple[PixelMap, NDArray[np.bool_]]:
    """Fit a map of some order to pairs: first with far pairs weighted down, then without them."""
    blank = PixelMap(np.zeros(((order + 1) * (order + 2) // 2, 2)), order, like.center, like.scale)
    terms, target = blank.terms(ref), own - ref
    used = np.ones(len(own), bool)
    trust = np.ones(len(own))
    for round_ in range(ROBUST_ROUNDS + CLIP_ROUNDS):
        weight = np.sqrt(trust) / sigma
        solution, *_ = np.linalg.lstsq(terms * weight[:, None], target * weight[:, None], rcond=None)
        residual = target - terms @ solution
        if round_ < ROBUST_ROUNDS:
            # Stars whose proper motion is not known go astray together: clipping alone would keep them all.
            pull = np.hypot(*residual.T) / sigma
            trust = 1 / (1 + (pull / (2 * max(1.0, float(np.median(pull))))) ** 2)
        else:
            used = _clipped(residual, sigma, used)
            trust = used.astype(float)
    return PixelMap(solution, order, like.center, like.scale), used


def _clipped(residual: Floats, sigma: Floats, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say which residuals follow the errors, scaled up to the robust scatter of those that did before."""
    pull = np.abs(residual) / sigma[:, None]
    spread = max(1.0, 1.4826 * float(np.median(pull[among]))) if among.any() else 1.0
    kept = pull.max(axis=1, initial=0.0) <= CLIP * spread
    return kept if np.count_nonzero(kept) > len(kept) / 2 else among

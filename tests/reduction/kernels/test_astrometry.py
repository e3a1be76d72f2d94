"""The reference stars are recognised and the distortion is found, on lists of positions with known truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tololo.facility.errors import NothingToDoError
from tololo.reduction.kernels.astrometry import PixelMap, align, allowed_order, fit_distortion, match

SHAPE = (4096, 2048)
RADIUS = 75.0


@dataclass
class Lists:
    """Detections and reference stars, bright ones first, and the row of each star among the detections."""

    own: NDArray[np.float64]
    ref: NDArray[np.float64]
    row: NDArray[np.int64]


def truth(shift: tuple[float, float], degrees: float, scale: float = 0.0, bend: float = 0.0) -> PixelMap:
    """Shift, turn, magnify and bend by up to some pixels in the corners."""
    half = max(SHAPE) / 2
    turn = math.radians(degrees)
    linear = (1 + scale) * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    coefficients = np.zeros((10, 2))
    coefficients[0] = shift
    coefficients[1:3] = half * (linear - np.eye(2)).T
    coefficients[3:] = bend * np.array(
        [[1, -0.5], [0.3, 0.8], [-0.6, 0.2], [0.7, 0.4], [-0.5, 1.0], [0.9, -0.3], [0.2, 0.6]]
    )
    return PixelMap(coefficients, 3, ((SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2), half)


def lists(
    true: PixelMap,
    number: int = 600,
    others: int = 900,
    missing: float = 0.1,
    noise: float = 0.02,
    seed: int = 1,
) -> Lists:
    """Stars of which a part is not detected, among detections that the catalogue does not have."""
    rng = np.random.default_rng(seed)
    ref = rng.uniform([-100, -100], [SHAPE[1] + 100, SHAPE[0] + 100], (number, 2))
    own = np.column_stack(true(*ref.T)) + rng.normal(0, noise, ref.shape)
    inside = ((own > 0) & (own < [SHAPE[1], SHAPE[0]])).all(axis=1)
    kept = np.flatnonzero(inside & (rng.uniform(size=number) > missing))
    fakes = rng.uniform([0, 0], [SHAPE[1], SHAPE[0]], (others, 2))
    # Faint galaxies and the like are mixed in among the stars.
    order = np.argsort(np.concatenate([kept * 2.0, rng.uniform(0, 3 * number, others)]), kind="stable")
    row = np.full(number, -1)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    row[kept] = place[: len(kept)]
    return Lists(np.concatenate([own[kept], fakes])[order], ref, row)


@pytest.mark.parametrize(
    ("shift", "degrees", "scale"),
    [
        ((0.0, 0.0), 0.0, 0.0),
        ((38.0, -25.0), 0.05, 5e-4),
        ((-60.0, 40.0), -0.4, -1e-3),
        ((10.0, 70.0), 0.95, 0.0),
    ],
)
def test_the_field_is_recognised(shift: tuple[float, float], degrees: float, scale: float) -> None:
    true = truth(shift, degrees, scale, bend=1.0)
    field = lists(true)
    found = align(*field.own.T, *field.ref.T, SHAPE, RADIUS)
    inside = field.row >= 0
    difference = np.column_stack(found(*field.ref[inside].T)) - np.column_stack(true(*field.ref[inside].T))
    assert np.abs(difference).max() < 3.0
    assert found.rotation == pytest.approx(degrees, abs=0.05)
    assert found.magnification == pytest.approx(scale, abs=5e-4)


def test_eight_stars_are_enough_and_chance_is_not() -> None:
    few = lists(truth((20.0, 30.0), 0.02), number=12, others=40, missing=0.0, seed=3)
    assert align(*few.own.T, *few.ref.T, SHAPE, RADIUS).coefficients[0] == pytest.approx([20, 30], abs=0.3)
    rng = np.random.default_rng(5)
    for number in (0, 3, 20, 100, 500):
        own, ref = rng.uniform([0, 0], [SHAPE[1], SHAPE[0]], (2, number, 2))
        with pytest.raises(NothingToDoError, match="cannot be recognised"):
            align(*own.T, *ref.T, SHAPE, RADIUS)


@pytest.mark.parametrize("bend", [0.3, 4.0])
def test_the_distortion_is_found_to_some_thousandths_of_a_pixel(bend: float) -> None:
    true = truth((25.0, -31.0), 0.07, 3e-4, bend)
    field = lists(true, noise=0.05)
    fit = fit_distortion(
        *field.own.T, np.full(len(field.own), 0.05), *field.ref.T, np.zeros(len(field.ref)),
        align(*field.own.T, *field.ref.T, SHAPE, RADIUS), SHAPE,
    )  # fmt: skip
    assert fit.map.order == 3
    y, x = np.mgrid[0 : SHAPE[0] - 1 : 20j, 0 : SHAPE[1] - 1 : 20j]
    nominal = true.inverse(x, y)
    error = np.hypot(*(np.array(fit.map(*nominal)) - [x.ravel(), y.ravel()]))
    assert math.sqrt((error**2).mean()) < 0.015
    assert error.max() < 0.05
    # Every star that was detected is matched, and with itself.
    known = np.flatnonzero(field.row >= 0)
    assert len(fit.own) >= 0.99 * len(known)
    assert np.mean(field.row[fit.reference] == fit.own) > 0.98
    assert fit.rms == pytest.approx(0.05, rel=0.15)


def test_stars_that_moved_do_not_pull_the_fit() -> None:
    true = truth((5.0, 5.0), 0.01, 0.0, 1.0)
    field = lists(true, noise=0.02)
    field.ref[::6] += 0.8
    fit = fit_distortion(
        *field.own.T, np.full(len(field.own), 0.02), *field.ref.T, np.zeros(len(field.ref)),
        align(*field.own.T, *field.ref.T, SHAPE, RADIUS), SHAPE,
    )  # fmt: skip
    honest = np.ones(len(field.ref), bool)
    honest[::6] = False
    some = field.ref[honest & (field.row >= 0)]
    error = np.hypot(*(np.array(fit.map(*some.T)) - np.array(true(*some.T))))
    assert error.max() < 0.05
    assert np.count_nonzero(~fit.used) > 0.1 * len(fit.used)


def test_number_and_spread_of_the_stars_set_the_order() -> None:
    rng = np.random.default_rng(2)
    everywhere = rng.uniform([0, 0], [SHAPE[1], SHAPE[0]], (200, 2))
    assert allowed_order(everywhere, SHAPE) == 3
    assert allowed_order(everywhere[:35], SHAPE) == 2
    assert allowed_order(everywhere[:12], SHAPE) == 1
    assert allowed_order(everywhere * [0.5, 1.0], SHAPE) == 1


def test_a_map_and_its_inverse() -> None:
    true = truth((25.0, -31.0), 0.5, 1e-3, 3.0)
    x, y = np.random.default_rng(1).uniform(0, 2000, (2, 50))
    np.testing.assert_allclose(true.inverse(*true(x, y)), (x, y), atol=1e-7)
    assert [len(values) for values in true.inverse([], [])] == [0, 0]


def test_pairs_are_each_others_nearest() -> None:
    own = np.array([[0.0, 0.0], [0.4, 0.0], [50.0, 50.0]])
    own_rows, rows = match(own, np.array([[0.5, 0.0], [90.0, 90.0]]), 2.0)
    assert (own_rows.tolist(), rows.tolist()) == ([1], [0])
    assert len(match(own, np.empty((0, 2)), 2.0)[0]) == 0

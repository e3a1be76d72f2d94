from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import read_raw
from tololo.reduction.isr import correct
from tololo.reduction.kernels.streaks import find_streaks
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth
from tololo.simulation.raw_view import add_trail

SHAPE, SKY = (900, 768), 900.0
STREAK = BIT["STREAK"]


def field(seed: int, stars: int = 300) -> NDArray[np.float32]:
    """A sky with a gradient and stars of all fluxes, their wings those of a Moffat profile."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = SKY * (1 + 0.03 * x / SHAPE[1] - 0.02 * y / SHAPE[0])
    for _ in range(stars):
        cx, cy, flux = rng.uniform(0, SHAPE[1]), rng.uniform(0, SHAPE[0]), 800 * rng.pareto(0.8)
        around = np.s_[max(0, int(cy) - 60) : int(cy) + 60, max(0, int(cx) - 60) : int(cx) + 60]
        square = (x[around] - cx) ** 2 + (y[around] - cy) ** 2
        light[around] += min(flux, 3e6) * 2 / (np.pi * 9.0) * (1 + square / 9.0) ** -3.0
    return light.astype(np.float32)


def exposed(light: NDArray[np.float32], seed: int) -> tuple[NDArray[np.float32], ...]:
    """Image, variance, mask: what is brighter than 150 000 e- is saturated."""
    rng = np.random.default_rng(seed)
    variance = light + np.float32(50)
    image = (light + rng.normal(0, np.sqrt(variance))).astype(np.float32)
    return image, variance, np.where(light > 150_000, BIT["SATURATED"], 0).astype(np.int32)


def trail(angle: float, through: tuple[float, float], sigma: float, peak: float) -> NDArray[np.float32]:
    out = np.zeros(SHAPE, np.float32)
    a, b = math.sin(math.radians(angle)), -math.cos(math.radians(angle))
    add_trail(out, a, b, -(a * through[0] + b * through[1]), sigma, peak)
    return out


@pytest.mark.parametrize("angle", [0.0, 0.3, 33.0, 90.0, 121.0])
@pytest.mark.parametrize(("sigma", "height"), [(1.6, 1.2), (2.2, 6.0), (4.0, 40.0)])
def test_a_trail_is_masked_as_far_as_it_can_be_seen(angle: float, sigma: float, height: float) -> None:
    """From one that no single pixel shows to one of forty times the noise."""
    noise = math.sqrt(SKY + 50)
    light = field(3) + trail(angle, (380.0, 430.0), sigma, height * noise)
    image, variance, bits = exposed(light, 4)
    (streak,) = find_streaks(image, variance, bits)
    mask = (bits & STREAK) != 0
    true = trail(angle, (380.0, 430.0), sigma, height * noise)
    assert mask[true > min(3, 0.9 * height) * noise].mean() > 0.99
    assert (mask & (true < 1e-3 * noise)).sum() < 0.02 * mask.sum() + 8 * 900
    assert mask.mean() < 0.05
    assert streak.peak == pytest.approx(height * noise, abs=0.3 * height * noise + 5)


def test_a_trail_that_ends_on_the_ccd_is_masked_as_far_as_it_goes() -> None:
    noise = math.sqrt(SKY + 50)
    true = trail(60.0, (380.0, 430.0), 2.0, 8 * noise)
    true[600:] = 0
    image, variance, bits = exposed(field(5) + true, 6)
    assert len(find_streaks(image, variance, bits)) == 1
    mask = (bits & STREAK) != 0
    assert mask[true > 3 * noise].mean() > 0.99
    assert not mask[720:].any()


def test_two_trails_that_cross_are_two() -> None:
    noise = math.sqrt(SKY + 50)
    trails = [trail(20.0, (380.0, 430.0), 2.0, 5 * noise), trail(110.0, (300.0, 400.0), 2.0, 20 * noise)]
    image, variance, bits = exposed(field(7) + trails[0] + trails[1], 8)
    assert len(find_streaks(image, variance, bits)) == 2
    mask = (bits & STREAK) != 0
    for true in trails:
        assert mask[true > 3 * noise].mean() > 0.99


def disturbed(kind: str) -> NDArray[np.float32]:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    light = field(9, 4000 if kind == "crowded" else 300)
    match kind:
        case "step between amplifiers":
            light[:, SHAPE[1] // 2 :] += 25
        case "larger step":
            light[:, SHAPE[1] // 2 :] += 300
        case "glow along a border":
            light += 200 * np.exp(-x / 10)
        case "galaxy seen edge-on":
            light += 800 * np.exp(-np.hypot((x - 400) / 80, (y - 300 - 0.3 * x) / 25))
        case "halo":
            light += 400 / (1 + np.hypot(x - 350, y - 500) / 60) ** 3
        case "row of stars":
            for k in range(6):
                light += 5000 * np.exp(-((x - 100 - 110 * k) ** 2 + (y - 100 - 130 * k) ** 2) / 8)
    return light


@pytest.mark.parametrize(
    "kind",
    [
        "stars",
        "crowded",
        "step between amplifiers",
        "larger step",
        "glow along a border",
        "galaxy seen edge-on",
        "halo",
        "row of stars",
    ],
)
def test_what_is_no_trail_is_not_masked(kind: str) -> None:
    light = disturbed(kind)
    for seed in range(3):
        image, variance, bits = exposed(light, seed)
        assert find_streaks(image, variance, bits) == []
        assert not (bits & STREAK).any()


def test_images_that_show_nothing_have_no_streaks() -> None:
    flat = np.full(SHAPE, 100, np.float32)
    assert find_streaks(flat, flat, np.zeros(SHAPE, np.int32)) == []
    assert find_streaks(flat, flat, np.full(SHAPE, BIT["BAD"], np.int32)) == []
    small = np.random.default_rng(1).normal(100, 10, (128, 128)).astype(np.float32)
    assert find_streaks(small, np.full((128, 128), 100, np.float32), np.zeros((128, 128), np.int32)) == []


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> RawTruth:
    plan = RawPlan(
        nights=(
            RawNight(20190305, zeros=0, flats=0, objects=2, bands=("r",)),
            RawNight(20190306, zeros=0, flats=0, objects=2, bands=("z",)),
        ),
        detectors=(28,),
        shape=(1024, 1024),
        stars_per_deg2=60000.0,
        transients=0,
        trails=0.5,
    )
    return simulate_raw_nights(tmp_path_factory.mktemp("streaks") / "nights", plan, seed=11)


def test_satellites_of_a_simulated_night_and_nothing_else(truth: RawTruth) -> None:
    """Saturated stars bleed along columns, cosmic rays leave tracks; only satellites leave streaks."""
    frames = truth.frames(28)
    crossed = bled = 0
    for row, exposure in zip(truth.views, truth.exposures, strict=True):
        raw = read_raw(truth.images / str(exposure["image"]), 28)
        flat = frames.flats[str(exposure["band"])]
        planes = correct(raw, bias=frames.bias, flat=flat, defects=frames.defects).planes
        bled += len(truth.events(int(row["visit"]), 28).bled)
        other = planes.bits != 0
        found = find_streaks(planes.image, planes.variance, planes.bits)
        true = np.zeros(raw.shape, np.float32)
        if np.isfinite(row["trail_a"]):
            add_trail(true, *(float(row[f"trail_{name}"]) for name in ("a", "b", "c", "sigma", "peak")))
        assert len(found) == int(true.any())
        crossed += len(found)
        mask = (planes.bits & STREAK) != 0
        seen = (true > 3 * np.sqrt(np.median(planes.variance))) & ~other
        assert mask[seen].all()
        assert (mask & (true == 0)).sum() <= 0.1 * mask.sum()
    assert 0 < crossed < len(truth.views)
    assert bled > 20

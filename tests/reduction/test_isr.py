from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawAmplifier, RawDetector, read_pixels, read_raw
from tololo.reduction.isr import Corrected, Crosstalk, Neighbour, Share, correct
from tololo.reduction.kernels.cosmic_rays import find_cosmic_rays
from tololo.reduction.kernels.isr import measure_overscan
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan

HEIGHT, WIDTH = 600, 256
"""Of an amplifier."""
OVERSCAN, PRESCAN, POSTSCAN = 50, 6, 50
GAIN = {"A": 4.1, "B": 3.6}
READ_NOISE = {"A": 6.5, "B": 8.0}
SATURATION = 43000.0
NO_CROSSTALK = Crosstalk()
CROSSTALK = Crosstalk(a_from_b=8e-4, b_from_a=-5e-4)
REAL = Path(os.environ.get("TOLOLO_REAL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


@dataclass
class Truth:
    raw: RawDetector
    bias: NDArray[np.float32]
    flat: NDArray[np.float32]
    sky: NDArray[np.float64]
    """Electrons per pixel before the flat took its part."""


def amplifiers(south: bool) -> tuple[RawAmplifier, RawAmplifier]:
    """Sections as on the camera: the southern half has A on the right and the postscan below."""
    y = slice(POSTSCAN, POSTSCAN + HEIGHT) if south else slice(0, HEIGHT)
    edge = PRESCAN + OVERSCAN
    left = (slice(edge, edge + WIDTH), slice(PRESCAN, edge), slice(0, WIDTH))
    right_start = edge + WIDTH
    right = (
        slice(right_start, right_start + WIDTH),
        slice(right_start + WIDTH, right_start + WIDTH + OVERSCAN),
        slice(WIDTH, 2 * WIDTH),
    )

    def amplifier(name: str) -> RawAmplifier:
        data, overscan, target = right if (name == "A") == south else left
        return RawAmplifier(
            name,
            (y, data),
            (y, overscan),
            (slice(0, HEIGHT), target),
            GAIN[name],
            READ_NOISE[name],
            SATURATION,
        )

    return amplifier("A"), amplifier("B")


def drift(name: str) -> NDArray[np.float64]:
    """Overscan level of each row: a slope, a slow wave, and for B a jump as the camera's backplanes make."""
    y = np.arange(HEIGHT)
    level = 1800 + 6.0 * y / HEIGHT + 2.0 * np.sin(y / 60)
    return level + 12.0 * (y > 0.51 * HEIGHT) if name == "B" else level


def simulate(
    sky: NDArray[np.float64] | float,
    seed: int = 1,
    *,
    south: bool = True,
    crosstalk: Crosstalk = NO_CROSSTALK,
) -> Truth:
    """Expose, read out and digitise."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, 2 * WIDTH)
    x = np.arange(shape[1])
    flat = (1 + 0.1 * np.cos(x / 80) + rng.normal(0, 0.01, shape)).astype(np.float32)
    bias = (3 * np.exp(-x / 30) + rng.normal(0, 0.3, shape)).astype(np.float32)
    light = np.broadcast_to(np.asarray(sky, dtype=float), shape)
    electrons = rng.poisson(light * flat).astype(float)
    pixels = np.full((HEIGHT + POSTSCAN, 2 * (WIDTH + OVERSCAN + PRESCAN)), 1800.0)
    parts = amplifiers(south)
    signal = {a.name: electrons[a.target] / a.gain for a in parts}
    for own, other, share in (
        (*parts, crosstalk.a_from_b),
        (*parts[::-1], crosstalk.b_from_a),
    ):
        level = drift(own.name)[:, None]
        noise = READ_NOISE[own.name] / own.gain
        adu = signal[own.name] + share * signal[other.name][:, ::-1] + bias[own.target]
        pixels[own.data] = adu + level + rng.normal(0, noise, adu.shape)
        pixels[own.overscan] = level + rng.normal(0, noise, (HEIGHT, OVERSCAN))
    digitised = np.clip(np.rint(pixels), 0, 65535).astype(np.uint16)
    raw = RawDetector(941420, 25, "S1", digitised, parts, fits.Header())
    return Truth(raw, bias, flat, np.array(light))


def pulls(truth: Truth, corrected: Corrected, name: str) -> NDArray[np.float64]:
    (target,) = [a.target for a in truth.raw.amplifiers if a.name == name]
    planes = corrected.planes
    good = planes.bits[target] == 0
    distance = planes.image[target].astype(float) - truth.sky[target]
    return np.asarray((distance / np.sqrt(planes.variance[target]))[good])


@pytest.mark.parametrize("south", [True, False])
@pytest.mark.parametrize("sky", [0.0, 60.0, 1000.0, 20000.0])
def test_the_level_is_unbiased_and_the_variance_is_that_of_the_noise(sky: float, south: bool) -> None:
    truth = simulate(sky, south=south)
    found = correct(truth.raw, bias=truth.bias, flat=truth.flat)
    assert not found.planes.bits.any()
    for name in "AB":
        pull = pulls(truth, found, name)
        assert pull.size == HEIGHT * WIDTH
        # Weighting by a pixel's own variance would pull the mean: compare the plain one.
        (target,) = [a.target for a in truth.raw.amplifiers if a.name == name]
        distance = found.planes.image[target].astype(float) - truth.sky[target]
        error = distance.std() / np.sqrt(distance.size)
        # The overscan's own noise is common to a row and does not average with the pixels of it.
        common = READ_NOISE[name] / np.sqrt(0.8 * OVERSCAN * HEIGHT)
        assert abs(distance.mean()) < 4 * np.hypot(error, common)
        assert 0.98 < np.sqrt((distance**2).mean() / found.planes.variance[target].mean()) < 1.02
        if sky >= 60:
            assert 0.98 < pull.std() < 1.02
        assert (
            abs(found.overscan[name].read_noise / np.hypot(READ_NOISE[name], GAIN[name] / 12**0.5) - 1) < 0.02
        )


def test_the_drift_of_the_rows_is_followed_and_no_noise_comes_with_it() -> None:
    truth = simulate(0.0)
    found = correct(truth.raw, bias=truth.bias)
    for amplifier in truth.raw.amplifiers:
        name = amplifier.name
        rows = found.planes.image[amplifier.target].mean(axis=1)
        alone = np.sqrt(READ_NOISE[name] ** 2 + GAIN[name] ** 2 / 12)
        # Of the noise that a row's own 40 overscan pixels bring, a third of the variance is left.
        assert rows.std() < alone * np.sqrt(1 / WIDTH + 0.36 / 40)
        # The jump is neither smeared nor missed.
        jump = int(0.51 * HEIGHT) + 1
        assert np.abs(rows[jump - 5 : jump + 5]).max() < 5 * alone * np.sqrt(1 / WIDTH + 1 / 40)
        stats = found.overscan[name]
        assert abs(stats.level - np.median(drift(name))) < 0.3
        slope = np.polyfit(np.arange(HEIGHT), drift(name), 1)[0] * (HEIGHT - 1)
        assert abs(stats.slope - slope) < 0.3
        assert stats.smoothing > 5
        assert not stats.problem


def test_no_step_is_left_between_the_amplifiers() -> None:
    truth = simulate(5000.0)
    found = correct(truth.raw, bias=truth.bias, flat=truth.flat)
    image = found.planes.image
    step = image[:, WIDTH - 40 : WIDTH].mean() - image[:, WIDTH : WIDTH + 40].mean()
    assert abs(step) < 4 * np.sqrt(2 * 5000 / (40 * HEIGHT))
    raw = (
        truth.raw.pixels[truth.raw.amplifiers[0].data].mean()
        - truth.raw.pixels[truth.raw.amplifiers[1].data].mean()
    )
    assert abs(raw) > 100


@pytest.mark.parametrize("south", [True, False])
def test_crosstalk_is_taken_out_at_the_mirrored_place(south: bool) -> None:
    sky = np.full((HEIGHT, 2 * WIDTH), 400.0)
    sky[100:140, 30:70] = 120_000
    sky[400:440, 2 * WIDTH - 130 : 2 * WIDTH - 90] = 120_000
    truth = simulate(sky, south=south, crosstalk=CROSSTALK)
    ghosts = ((slice(100, 140), slice(2 * WIDTH - 70, 2 * WIDTH - 30)), (slice(400, 440), slice(90, 130)))
    without = correct(truth.raw, bias=truth.bias, flat=truth.flat).planes.image
    planes = correct(truth.raw, bias=truth.bias, flat=truth.flat, crosstalk=CROSSTALK).planes
    error = np.sqrt(planes.variance[ghosts[0]].mean() / 1600)
    for ghost in ghosts:
        assert abs(without[ghost].mean() - 400) > 30 * error
        assert abs(planes.image[ghost].mean() - 400) < 5 * error


def bright_spots(seed: int) -> NDArray[np.float64]:
    """A sky with ten spots from faint to nearly full, far from the edges and the line between amplifiers."""
    rng = np.random.default_rng(seed)
    sky = np.full((HEIGHT, 2 * WIDTH), 300.0)
    for number, level in enumerate(np.linspace(5_000, 160_000, 10)):
        y, x = 20 + 56 * number, int(rng.integers(20, 200)) + (number % 2) * WIDTH
        sky[y : y + 24, x : x + 24] = level
    return sky


def dithered(pixels: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Whole counts that are right on average."""
    return np.floor(pixels + np.random.default_rng(7).random(pixels.shape)).astype(np.uint16)


def test_crosstalk_that_bends_beyond_an_onset_is_taken_out() -> None:
    share = Share(4e-4, 20_000.0, 9e-4, -2e-8, 1e-12)
    truth = simulate(bright_spots(1))
    a, b = truth.raw.amplifiers
    pixels = truth.raw.pixels.astype(float)
    signal = truth.raw.pixels[b.data][:, ::-1] - drift("B")[:, None]
    excess = np.maximum(signal - 20_000, 0)
    pixels[a.data] += 4e-4 * np.minimum(signal, 20_000) + 9e-4 * excess - 2e-8 * excess**2 + 1e-12 * excess**3
    with_it = replace(truth.raw, pixels=dithered(pixels))
    want = correct(truth.raw, bias=truth.bias, flat=truth.flat).planes
    bent = correct(with_it, bias=truth.bias, flat=truth.flat, crosstalk=Crosstalk(share)).planes
    straight = correct(with_it, bias=truth.bias, flat=truth.flat, crosstalk=Crosstalk(4e-4)).planes
    spot = np.zeros(truth.raw.shape, bool)
    spot[a.target] = signal > 30_000
    assert spot.sum() > 500
    rounded = GAIN["A"] / 12**0.5 / np.sqrt(spot.sum())
    assert abs(float((bent.image - want.image)[spot].mean())) < 5 * rounded
    assert float((straight.image - want.image)[spot].mean()) > 20
    np.testing.assert_allclose(bent.variance[spot].mean(), want.variance[spot].mean(), rtol=2e-3)


@pytest.mark.parametrize("south", [True, False])
@pytest.mark.parametrize(("victim", "source"), [("A", "A"), ("A", "B"), ("B", "B"), ("B", "A")])
def test_crosstalk_from_another_ccd_is_taken_out(victim: str, source: str, south: bool) -> None:
    truth, other = simulate(300.0, south=south), simulate(bright_spots(2), 2, south=south)
    there = replace(other.raw, detector=26)
    own = {a.name: a for a in truth.raw.amplifiers}
    signal = other.raw.pixels[own[source].data] - drift(source)[:, None]
    if victim != source:
        signal = signal[:, ::-1]
    pixels = truth.raw.pixels.astype(float)
    pixels[own[victim].data] += 2e-4 * signal
    with_it = replace(truth.raw, pixels=dithered(pixels))
    crosstalk = Crosstalk(neighbours=(Neighbour(victim, 26, source, Share(2e-4)),))
    options = {"bias": truth.bias, "flat": truth.flat}
    want = correct(truth.raw, **options).planes  # type: ignore[arg-type]
    without = correct(with_it, crosstalk=crosstalk, **options)  # type: ignore[arg-type]
    found = correct(with_it, crosstalk=crosstalk, neighbours={26: there}, **options)  # type: ignore[arg-type]
    spot = np.zeros(truth.raw.shape, bool)
    spot[own[victim].target] = signal > 10_000
    assert spot.sum() > 500
    assert without.ghosts == {}
    assert float((without.planes.image - want.image)[spot].mean()) > 10
    assert abs(float((found.planes.image - want.image)[spot].mean())) < 0.3
    # What is fainter than a tenth of the read noise stays: the sky's is nobody's.
    assert spot.sum() <= found.ghosts[26] < 0.05 * spot.size
    np.testing.assert_allclose(found.planes.variance[spot].mean(), want.variance[spot].mean(), rtol=1e-3)
    assert found.planes.variance.min() > 0
    with pytest.raises(BadInputError, match="not read at that time"):
        correct(with_it, crosstalk=crosstalk, neighbours={26: replace(there, exposure=1)})


def test_a_neighbour_without_overscan_gives_nothing() -> None:
    truth, other = simulate(300.0), simulate(bright_spots(2), 2)
    there = replace(spoilt(other, 65535, "A"), detector=26)
    pairs = (Neighbour("A", 26, "A", Share(2e-4)), Neighbour("B", 26, "A", Share(2e-4)))
    found = correct(truth.raw, crosstalk=Crosstalk(neighbours=pairs), neighbours={26: there})
    assert found.ghosts == {26: 0}
    np.testing.assert_array_equal(found.planes.image, correct(truth.raw).planes.image)


def test_masks_hold_all_that_is_saturated_defective_or_without_a_flat() -> None:
    sky = np.full((HEIGHT, 2 * WIDTH), 800.0)
    sky[200:204, 100:104] = 400_000
    # Its charge bleeds along the column: full near the star, less and less beyond.
    sky[120:280, 101] = 400_000
    fading = 60_000 * np.exp(-np.arange(30) / 6)
    sky[280:310, 101] += fading
    sky[90:120, 101] += fading[::-1]
    truth = simulate(sky)
    defects = np.zeros(sky.shape, dtype=bool)
    defects[:, 300], defects[50, 20] = True, True
    flat, bias = truth.flat.copy(), truth.bias.copy()
    flat[10, 10], flat[11, 10], flat[12, 10], flat[13, 10] = np.nan, 0.0, -1.0, np.inf
    bias[10, 12] = np.nan
    found = correct(truth.raw, bias=bias, flat=flat, defects=defects)
    planes = found.planes
    expected = defects.copy()
    expected[10:14, 10] = True
    expected[10, 12] = True
    np.testing.assert_array_equal((planes.bits & BIT["BAD"]) != 0, expected)
    assembled = np.zeros(sky.shape)
    for amplifier in truth.raw.amplifiers:
        assembled[amplifier.target] = truth.raw.pixels[amplifier.data]
    full = assembled >= SATURATION
    masked = (planes.bits & BIT["SATURATED"]) != 0
    assert full.sum() > 150
    assert masked[full].all()
    # One pixel around, and the fading trail as far as it stands out.
    assert masked[199:205, 99:105].all()
    trail = (sky[:, 101] - 800) > 5 * np.sqrt(900)
    assert masked[trail, 101].all()
    assert masked.sum() < 1.5 * (3 * trail.sum() + 36)
    assert np.isfinite(planes.image).all()
    assert (planes.variance > 0).all()
    assert np.isfinite(planes.variance).all()


def test_the_uncertainty_of_the_bias_is_added() -> None:
    truth = simulate(100.0)
    uncertainty = np.full(truth.bias.shape, 0.5, np.float32)
    uncertainty[5, 6] = np.nan
    plain = correct(truth.raw, bias=truth.bias, flat=truth.flat).planes
    more = correct(truth.raw, bias=truth.bias, bias_variance=uncertainty, flat=truth.flat).planes
    assert more.bits[5, 6] == BIT["BAD"]
    good = more.bits == 0
    for amplifier in truth.raw.amplifiers:
        part = np.zeros(good.shape, dtype=bool)
        part[amplifier.target] = True
        added = (more.variance - plain.variance)[part & good]
        np.testing.assert_allclose(added, 0.5 * amplifier.gain**2 / truth.flat[part & good] ** 2, rtol=1e-3)


def test_planes_can_be_used_again() -> None:
    first, second = simulate(90_000.0, 1), simulate(500.0, 2)
    planes = correct(first.raw, flat=first.flat).planes
    fresh = correct(second.raw, flat=second.flat).planes
    again = correct(second.raw, flat=second.flat, out=planes).planes
    assert again is planes
    for name in ("image", "variance", "bits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fresh, name))
    with pytest.raises(BadInputError, match="planes to overwrite"):
        correct(second.raw, out=Planes(planes.image[1:], planes.variance[1:], planes.bits[1:]))


def spoilt(truth: Truth, value: int, names: str) -> RawDetector:
    pixels = truth.raw.pixels.copy()
    for amplifier in truth.raw.amplifiers:
        if amplifier.name in names:
            pixels[amplifier.overscan] = value
    return replace(truth.raw, pixels=pixels)


@pytest.mark.parametrize(("value", "word"), [(65535, "saturated"), (0, "constant"), (1800, "constant")])
def test_an_amplifier_without_an_overscan_is_masked_and_named(value: int, word: str) -> None:
    truth = simulate(500.0)
    found = correct(spoilt(truth, value, "A"), bias=truth.bias, flat=truth.flat)
    assert word in found.overscan["A"].problem
    a, b = truth.raw.amplifiers
    assert ((found.planes.bits[a.target] & BIT["BAD"]) != 0).all()
    assert not found.planes.bits[b.target].any()
    assert abs(found.planes.image[b.target].mean() - 500) < 1
    with pytest.raises(BadInputError, match=f"amplifier A.*{word}.*amplifier B.*{word}"):
        correct(spoilt(truth, value, "AB"))


def test_a_bright_tail_in_some_rows_of_the_overscan_does_no_harm() -> None:
    truth = simulate(500.0)
    pixels = truth.raw.pixels.copy()
    for amplifier in truth.raw.amplifiers:
        y, x = amplifier.overscan
        pixels[y.start + 100 : y.start + 110, x.start : x.start + 8] += 2000
        pixels[y.start + 300, x] += 500
        pixels[y.start + 400, x.start : x.stop : 2] += 900
    found = correct(replace(truth.raw, pixels=pixels), bias=truth.bias, flat=truth.flat)
    for amplifier in truth.raw.amplifiers:
        rows = found.planes.image[amplifier.target].mean(axis=1) - 500
        touched = np.zeros(HEIGHT, dtype=bool)
        touched[300] = True  # a row whose whole overscan is off cannot be told from a row that is off
        noise = np.sqrt(
            (500 + READ_NOISE[amplifier.name] ** 2) / WIDTH + READ_NOISE[amplifier.name] ** 2 / 40
        )
        assert np.abs(rows[~touched]).max() < 5 * noise


def test_calibrations_of_another_shape_are_refused() -> None:
    truth = simulate(500.0)
    for name in ("bias", "bias_variance", "flat"):
        with pytest.raises(BadInputError, match=r"shape.*exposure 941420, detector 25"):
            correct(truth.raw, **{name: truth.flat[:, :-1]})  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="defects"):
        correct(truth.raw, defects=np.zeros((3, 3), dtype=bool))


def level_of(truth: Truth) -> float:
    return float(correct(truth.raw, bias=truth.bias, flat=truth.flat).planes.image.mean())


def test_a_forked_child_can_do_it_too() -> None:
    truth = simulate(500.0)
    here = level_of(truth)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(level_of, (truth,)).get(timeout=120) == here


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data or TOLOLO_REAL_DATA")
def test_the_read_noise_of_the_real_camera() -> None:
    path = REAL / "decam_raw" / "cutout_c4d_200306_000415_ori.fits.fz"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    ratios = []
    for detector in (1, 5, 25, 28, 35, 44, 62):
        pixels, header = read_pixels(path, detector)
        # The cutouts are columns 0 to 79 of the left amplifier's light, and 80 to 99 of its overscan.
        name = "B" if str(header["DETPOS"]).startswith("S") else "A"
        gain, noise, saturation = (
            float(str(header[f"{card}{name}"])) for card in ("GAIN", "RDNOISE", "SATURAT")
        )
        levels = measure_overscan(pixels[:, 80:100], saturation)
        assert not levels.problem
        ratios.append(levels.noise * gain / noise)
    assert 0.8 < np.median(ratios) < 1.25


@pytest.mark.parametrize("detector", [1, 35])
def test_what_the_simulated_camera_did_is_undone(detector: int, tmp_path: Path) -> None:
    night = RawNight(20190305, zeros=0, flats=0, objects=1)
    plan = RawPlan((night,), (detector,), (512, 512), cosmic_rays=300.0, stars_per_deg2=60_000.0, trails=0.0)
    truth = simulate_raw_nights(tmp_path / "night", plan, 3)
    (path,) = (tmp_path / "night" / "exposures").rglob("*ori*.fz")
    raw, visit = read_raw(path, detector), int(truth.exposures["visit"][0])
    frames, events = truth.frames(detector), truth.events(visit, detector)
    known = {str(row["amplifier"]): row for row in truth.amplifiers}
    crosstalk = Crosstalk(float(known["A"]["crosstalk"]), float(known["B"]["crosstalk"]))
    found = correct(
        raw, bias=frames.bias, flat=frames.flats["r"], defects=frames.defects, crosstalk=crosstalk
    )
    planes, sky = found.planes, float(truth.exposures["sky"][0])
    assert len(events.saturated) > 0
    for pixels in (events.saturated, events.bled):
        assert ((planes.bits[tuple(pixels.T)] & BIT["SATURATED"]) != 0).all()
    assert ((planes.bits & BIT["SATURATED"]) != 0).sum() < 8 * (len(events.saturated) + len(events.bled))
    np.testing.assert_array_equal((planes.bits & BIT["BAD"]) != 0, frames.defects)
    for amplifier, levels in zip(raw.amplifiers, events.levels, strict=True):
        stats, row = found.overscan[amplifier.name], known[amplifier.name]
        assert abs(stats.level - np.median(levels[amplifier.data[0]])) < 0.2
        noise = np.hypot(row["read_noise"] / row["gain"], 12**-0.5) * amplifier.gain
        assert abs(stats.read_noise / noise - 1) < 0.02
        assert abs(np.median(planes.image[amplifier.target]) / sky - 1) < 0.1
    middle = planes.image.shape[1] // 2
    left, right = planes.image[:, middle - 30 : middle], planes.image[:, middle : middle + 30]
    # Faint stars differ from side to side; the gains differ by 8 %.
    assert abs(np.median(left) - np.median(right)) < 0.005 * sky
    charge = np.zeros(raw.shape)
    charge[tuple(events.cosmic_rays.T)] = events.charge
    usable = np.zeros(raw.shape, dtype=bool)
    usable[1:-1, 1:-1] = True
    usable &= ~planes.bad & (charge > np.maximum(300, 5 * np.sqrt(np.maximum(planes.variance - charge, 0))))
    find_cosmic_rays(planes.image, planes.variance, planes.bits, truth.psf(visit, detector).fwhm[0])
    mask = (planes.bits & BIT["COSMIC_RAY"]) != 0
    assert usable.sum() > 200
    # Tracks through the core of a star or along a bad column can be missed.
    assert mask[usable].mean() > 0.98
    assert (mask & (charge == 0)).sum() < 80

"""Simulated raws hold what their truth says, measured from the files alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astro_metadata_translator import ObservationInfo
from astro_metadata_translator.translators import DecamTranslator
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from real_data import REAL, needs
from tololo.facility.nights import night_of_mjd_utc
from tololo.reduction.formats.raw import RawDetector, read_raw
from tololo.simulation.detector import Defects
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_camera import Chip, make_chip
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_readout import fill_wells, read_out
from tololo.simulation.raw_truth import RawTruth
from tololo.simulation.truth import Truth, positions_at

PLAN = RawPlan(
    nights=(
        RawNight(20190305, zeros=3, flats=2, objects=1, seeing=1.0),
        RawNight(20190402, zeros=0, flats=0, objects=1, transients=True, seeing=1.2),
    ),
    detectors=(31, 35),
    shape=(640, 512),
    stars_per_deg2=40000,
    galaxies=10,
    transients=6,
    bad_columns=2,
    bad_pixels=20,
    trails=1.0,
)
SEED = 5


@dataclass(frozen=True)
class Nights:
    truth: RawTruth

    def raw(self, image: str, detector: int) -> RawDetector:
        return read_raw(self.truth.images / image, detector)

    def calibrations(self, obstype: str) -> list[Table.Row]:
        return [row for row in self.truth.calibrations if row["obstype"] == obstype]

    def amplifier(self, detector: int, name: str) -> Table.Row:
        table = self.truth.amplifiers
        return table[(table["detector"] == detector) & (table["amplifier"] == name)][0]

    def electrons(self, image: str, detector: int) -> NDArray[np.float64]:
        """Overscan, bias, the header's gain and the flat field taken off."""
        raw, frames = self.raw(image, detector), self.truth.frames(detector)
        signal = assembled(raw) - frames.bias
        for amplifier in raw.amplifiers:
            signal[amplifier.target] *= amplifier.gain
        return signal / frames.flats["r"]


def assembled(raw: RawDetector) -> NDArray[np.float64]:
    """Counts above the overscan of each row."""
    out = np.zeros(raw.shape)
    for amplifier in raw.amplifiers:
        level = raw.pixels[amplifier.overscan].mean(axis=1, dtype=float, keepdims=True)
        out[amplifier.target] = raw.pixels[amplifier.data] - level
    return out


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    return Nights(simulate_raw_nights(tmp_path_factory.mktemp("raw") / "nights", PLAN, SEED))


def test_overscan_shows_level_and_read_noise(nights: Nights) -> None:
    zero = nights.calibrations("zero")[0]
    for detector in PLAN.detectors:
        raw = nights.raw(zero["image"], detector)
        levels = nights.truth.events(zero["visit"], detector).levels
        for number, amplifier in enumerate(raw.amplifiers):
            overscan = raw.pixels[amplifier.overscan].astype(float)
            true = nights.amplifier(detector, amplifier.name)
            rows = levels[number][amplifier.data[0]]
            noise = true["read_noise"] / true["gain"]
            assert np.std(overscan - rows[:, None]) == pytest.approx(np.hypot(noise, 12**-0.5), rel=0.015)
            assert abs(np.mean(overscan - rows[:, None])) < 0.05
            assert np.ptp(rows) > 2  # the level drifts
            assert true["read_noise"] != true["header_read_noise"]


def test_biases_have_the_structure_of_the_truth(nights: Nights) -> None:
    for detector in PLAN.detectors:
        bias = nights.truth.frames(detector).bias
        planes = []
        for zero in nights.calibrations("zero"):
            plane = assembled(nights.raw(zero["image"], detector)) - bias
            y, x = nights.truth.events(zero["visit"], detector).cosmic_rays.T
            plane[y, x] = np.nan
            planes.append(plane)
        mean = np.nanmean(planes, axis=0)
        noise = np.mean(
            [
                row["read_noise"] / row["gain"]
                for row in nights.truth.amplifiers
                if row["detector"] == detector
            ]
        )
        assert np.std(mean) == pytest.approx(noise * np.sqrt((1 + 1 / 50) / 3), rel=0.03)
        assert np.abs(np.nanmean(mean, axis=0)).max() < 6 * noise / np.sqrt(3 * 640)
        assert bias.std() > 0.3


def test_two_flats_give_the_gain(nights: Nights) -> None:
    first, second = nights.calibrations("dome flat")
    for detector in PLAN.detectors:
        frames = nights.truth.frames(detector)
        raws = [nights.raw(row["image"], detector) for row in (first, second)]
        a, b = (assembled(raw) - frames.bias for raw in raws)
        bad = frames.defects.copy()
        for row in (first, second):
            y, x = nights.truth.events(row["visit"], detector).cosmic_rays.T
            bad[y, x] = True
        for amplifier in raws[0].amplifiers:
            true = nights.amplifier(detector, amplifier.name)
            good = ~bad[amplifier.target]
            one, two = a[amplifier.target][good], b[amplifier.target][good]
            difference = one - two * one.sum() / two.sum()
            mean = one.mean()
            noise = (true["read_noise"] / true["gain"]) ** 2
            ratio = one.sum() / two.sum()
            variance = np.var(difference) - noise * (1 + ratio**2)
            assert mean * (1 + ratio) / variance == pytest.approx(true["gain"], rel=0.015)


def test_flats_have_the_response_of_the_truth(nights: Nights) -> None:
    levels = []
    for detector in PLAN.detectors:
        frames = nights.truth.frames(detector)
        for row in nights.calibrations("dome flat"):
            flattened = nights.electrons(row["image"], detector)
            good = ~frames.defects
            y, x = nights.truth.events(row["visit"], detector).cosmic_rays.T
            good[y, x] = False
            levels.append(flattened[good].mean() / row["level"])
            noise = np.sqrt(row["level"] / frames.flats["r"].mean())
            assert np.std(flattened[good]) == pytest.approx(noise, rel=0.02)
            for amplifier in nights.raw(row["image"], detector).amplifiers:
                inside = good[amplifier.target]
                assert flattened[amplifier.target][inside].mean() == pytest.approx(row["level"], rel=2e-3)
    assert levels == pytest.approx([1.0] * 4, abs=1e-3)
    means = [nights.truth.frames(detector).flats["r"].mean() for detector in PLAN.detectors]
    assert np.mean(means) == pytest.approx(1, abs=1e-3)
    assert abs(means[0] - means[1]) > 1e-3


def test_defects_and_cosmic_rays_are_all_listed(nights: Nights) -> None:
    hits = 0
    limit = 6 * max(row["read_noise"] / row["gain"] for row in nights.truth.amplifiers)
    for detector in PLAN.detectors:
        frames = nights.truth.frames(detector)
        for zero in nights.calibrations("zero"):
            raw = nights.raw(zero["image"], detector)
            events = nights.truth.events(zero["visit"], detector)
            charge = np.zeros(raw.shape)
            charge[tuple(events.cosmic_rays.T)] = events.charge
            for amplifier in raw.amplifiers:
                charge[amplifier.target] /= nights.amplifier(detector, amplifier.name)["gain"]
            signal = assembled(raw) - frames.bias - charge
            assert np.abs(signal[~frames.defects]).max() < limit
            hits += np.count_nonzero(charge > limit)
        assert frames.defects.any(axis=0).sum() >= 2
        flat = nights.calibrations("dome flat")[0]
        flattened = nights.electrons(flat["image"], detector) / flat["level"]
        assert (np.abs(flattened[frames.defects] - 1) > 0.3).all()
    assert hits > 30


def test_stars_stand_and_shine_as_the_truth_says(nights: Nights) -> None:
    ratios, pulls, offsets = [], [], []
    for exposure in nights.truth.exposures:
        for detector in PLAN.detectors:
            image = nights.electrons(exposure["image"], detector)
            events = nights.truth.events(exposure["visit"], detector)
            bad = nights.truth.frames(detector).defects.copy()
            for pixels in (events.cosmic_rays, events.saturated, events.bled):
                bad[tuple(pixels.T)] = True
            sky = _sky(make_chip(PLAN, SEED, detector), exposure)
            bad |= _trail(nights.truth, exposure["visit"], detector, bad.shape) < 12
            for star in _isolated(nights.truth, exposure["visit"], detector, bad):
                flux, x, y = _measure(image - sky, star["x"], star["y"], 10)
                scale, _, _ = nights.truth.psf(exposure["visit"], detector).at(
                    star["x"], star["y"], bad.shape
                )
                enclosed = 1 - (1 + (10 / float(scale)) ** 2) ** -2
                ratios.append(flux / enclosed / star["electrons"])
                noise = np.sqrt(flux + np.pi * 10**2 * (exposure["sky"] + 11**2))
                pulls.append((flux - enclosed * star["electrons"]) / noise)
                offsets.append((x - star["x"], y - star["y"]))
    assert len(ratios) > 15
    assert np.median(ratios) == pytest.approx(1, abs=0.006)
    assert np.std(pulls) == pytest.approx(1, abs=0.35)
    assert np.abs(np.median(offsets, axis=0)).max() < 0.01


def test_electrons_follow_from_magnitudes_and_zero_point(nights: Nights) -> None:
    truth = nights.truth
    row = truth.exposures[1]
    sources = truth.sources(row["visit"], 35)
    stars = truth.stars[np.searchsorted(truth.stars["id"], sources["id"])]
    color = PLAN.color_term * (stars["bp"] - stars["rp"] - 1.2)
    magnitude = row["zero_point"] - 2.5 * np.log10(sources["electrons"]) - color
    assert np.abs(magnitude - (31.4 - 2.5 * np.log10(stars["flux_r"]))).max() < 1e-6
    x, y = truth.wcs(row["visit"], 35).all_world2pix(*positions_at(stars, row["mjd_utc"]), 0)
    assert np.hypot(x - sources["x"], y - sources["y"]).max() < 1e-4
    # What DECam counts: the Legacy Surveys have 26.82 for 1 s at airmass 1 in r.
    clear = row["zero_point"] - 2.5 * np.log10(row["exptime"] * row["transparency"])
    assert clear == pytest.approx(26.82 - 0.09 * (row["airmass"] - 1), abs=1e-6)


def test_transients_are_in_the_images_and_the_other_truth_reads_them(nights: Nights) -> None:
    rows = Truth.read(nights.truth.folder).transients
    row = nights.truth.exposures[1]
    assert set(rows["visit"]) == {row["visit"]}
    assert len(rows) == 12
    found = []
    for transient in rows:
        image = nights.electrons(row["image"], transient["detector"])
        psf = nights.truth.psf(row["visit"], transient["detector"])
        scale, _, _ = psf.at(transient["x"], transient["y"], image.shape)
        sky = _sky(make_chip(PLAN, SEED, transient["detector"]), row)
        flux, _, _ = _measure(image - sky, transient["x"], transient["y"], 6, recentre=False)
        true = transient["flux"] / 10 ** (0.4 * (31.4 - row["zero_point"]))
        if transient["galaxy"] < 0:
            found.append(flux / true / (1 - (1 + (6 / float(scale)) ** 2) ** -2))
    assert np.median(found) == pytest.approx(1, abs=0.1)


def test_satellite_leaves_the_trail_of_the_truth(nights: Nights) -> None:
    crossed = 0
    for view in nights.truth.views:
        if not np.isfinite(view["trail_peak"]):
            continue
        image_name = nights.truth.exposures["image"][nights.truth.exposures["visit"] == view["visit"]][0]
        image = nights.electrons(image_name, view["detector"])
        distance = _trail(nights.truth, view["visit"], view["detector"], image.shape)
        on, beside = distance < 0.3, (distance > 15) & (distance < 25)
        if on.sum() > 50:
            crossed += 1
            peak = np.median(image[on]) - np.median(image[beside])
            assert peak == pytest.approx(view["trail_peak"], rel=0.05)
    assert crossed >= 2


def test_crosstalk_mirrors_the_other_amplifier() -> None:
    for number in PLAN.detectors:
        chip = make_chip(PLAN, SEED, number)
        a, b = chip.amplifiers
        electrons = np.zeros(chip.shape, np.float32)
        electrons[100:200, 20:60] = 120_000  # in the left half
        quiet = np.zeros(chip.shape, np.float32)
        levels = np.full((2, chip.raw_shape[0]), 2000, np.float32)
        none = Defects(np.zeros(chip.shape, bool), np.ones(chip.shape, np.float32))
        raw = read_out(electrons, chip, quiet, none, levels, np.random.default_rng(1)).astype(float)
        source, victim = (a, b) if a.target[1].start == 0 else (b, a)
        got = raw[victim.data] - 2000
        width = chip.shape[1] // 2
        mirrored = got[100:200, width - 60 : width - 20]
        assert mirrored.mean() == pytest.approx(victim.crosstalk * 120_000 / source.gain, rel=0.02)
        away = np.ones(got.shape, bool)
        away[100:200, width - 60 : width - 20] = False
        assert abs(got[away].mean()) < 0.05
        assert a.crosstalk != b.crosstalk


def test_full_wells_spill_along_their_columns() -> None:
    chip = make_chip(PLAN, SEED, 35)
    well = chip.amplifiers[0].full_well
    electrons = np.full(chip.shape, 1000, np.float32)
    electrons[300, 40] = 5.5 * well
    before = electrons.sum(dtype=float)
    full, bled = fill_wells(electrons, chip)
    assert full.tolist() == [[300, 40]]
    assert set(bled[:, 1].tolist()) == {40}
    assert 3 <= len(bled) <= 7
    assert electrons.max() <= np.float32(well)
    assert electrons.sum(dtype=float) == pytest.approx(before, rel=1e-6)
    assert well / chip.amplifiers[0].gain > chip.amplifiers[0].header_saturation


def test_headers_translate_like_a_real_raw(nights: Nights) -> None:
    kinds = {
        "zero": ("zero", "solid plate 0.0 0.0"),
        "dome flat": ("dome flat", "r DECam SDSS c0002 6415.0 1480.0"),
    }
    for row in nights.truth.calibrations:
        info = next(_infos(nights.truth.images / row["image"]))
        assert info.exposure_id == row["visit"]
        assert info.observing_day == row["night"] == row["planned"] == 20190305
        assert (info.observation_type, info.physical_filter) == kinds[row["obstype"]]
        assert info.datetime_begin.utc.mjd == pytest.approx(row["mjd_utc"], abs=1e-7)
    for row in nights.truth.exposures:
        path = nights.truth.images / row["image"]
        infos = list(_infos(path))
        assert [info.detector_num for info in infos] == [31, 35]
        info = infos[0]
        assert (info.observation_type, info.object) == ("science", PLAN.object_name)
        assert info.observing_day == row["night"] == night_of_mjd_utc(row["mjd_utc"])
        assert info.tracking_radec.ra.deg == pytest.approx(row["header_ra"], abs=1e-4)
        assert info.tracking_radec.dec.deg == pytest.approx(row["header_dec"], abs=1e-4)
        assert info.boresight_airmass == pytest.approx(row["airmass"], abs=0.01)
        assert 1 / np.sin(info.altaz_begin.alt.rad) == pytest.approx(info.boresight_airmass, abs=0.01)
        sidereal = info.datetime_begin.sidereal_time("mean", info.location.lon).deg
        with fits.open(path) as hdus:
            hours, minutes, seconds = (float(part) for part in hdus[0].header["HA"].lstrip("-").split(":"))
            angle = (hours + minutes / 60 + seconds / 3600) * 15
            sign = -1 if hdus[0].header["HA"].startswith("-") else 1
        assert (sidereal - row["header_ra"] - sign * angle + 180) % 360 - 180 == pytest.approx(0, abs=0.01)


@needs(REAL / "decam_raw")
def test_metadata_agree_in_kind_with_the_real_raw(nights: Nights) -> None:
    real = next(_infos(REAL / "decam_raw" / "cutout_c4d_200306_000415_ori.fits.fz"))
    ours = next(_infos(nights.truth.images / nights.truth.exposures["image"][0]))
    for name in real.all_properties:
        one, other = getattr(real, name), getattr(ours, name)
        assert type(one) is type(other), name
    with (
        fits.open(REAL / "decam_raw" / "cutout_c4d_200306_000415_ori.fits.fz") as theirs,
        fits.open(nights.truth.images / nights.truth.exposures["image"][0]) as mine,
    ):
        lacking = set(theirs[1].header) - set(mine[1].header)
        assert {name.rstrip("0123456789") for name in lacking} <= {"SLOT", "CHECKVER", "CHECKSUM", "DATASUM"}
        assert mine[1].data.dtype == np.uint16
        assert mine[1].header["BZERO"] == 32768
        assert mine[1].compression_type == "RICE_1"


@pytest.mark.long
def test_a_whole_ccd_has_the_size_of_a_real_one(tmp_path: Path) -> None:
    plan = RawPlan(
        nights=(RawNight(20190305, zeros=1, flats=0, objects=0),),
        detectors=(61,),
        galaxies=0,
        stars_per_deg2=10,
    )
    truth = simulate_raw_nights(tmp_path / "a", plan)
    raw = read_raw(truth.images / truth.calibrations["image"][0], 61)
    assert raw.pixels.shape == (4146, 2160)
    assert raw.shape == (4096, 2048)
    assert len(truth.exposures) == 0


def _infos(path: Path) -> Iterator[ObservationInfo]:
    for header in DecamTranslator.determine_translatable_headers(str(path)):
        yield ObservationInfo(header, translator_class=DecamTranslator, pedantic=True)


def _sky(chip: Chip, exposure: Table.Row) -> NDArray[np.float64]:
    """Electrons of the sky in each pixel."""
    ny, nx = chip.shape
    u, v = chip.focal_plane(np.arange(nx, dtype=float), np.arange(ny, dtype=float)[:, None])
    return np.asarray(exposure["sky"] * (1 + exposure["sky_x"] * u + exposure["sky_y"] * v))


def _trail(truth: RawTruth, visit: int, detector: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Distance from the satellite's trail, infinite where there is none."""
    views = truth.views
    view = views[(views["visit"] == visit) & (views["detector"] == detector)][0]
    if not np.isfinite(view["trail_peak"]):
        return np.full(shape, np.inf)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.abs(view["trail_a"] * x + view["trail_b"] * y + view["trail_c"])


def _isolated(truth: RawTruth, visit: int, detector: int, bad: NDArray[np.bool_]) -> Table:
    """Stars of 20,000 to 300,000 e- without bad pixels or neighbours brighter than half a per cent."""
    sources = truth.sources(visit, detector)
    wcs = truth.wcs(visit, detector)
    galaxies = np.stack(wcs.all_world2pix(truth.galaxies["ra"], truth.galaxies["dec"], 0), 1)
    rows = truth.transients[truth.transients["visit"] == visit]
    rows = rows[rows["detector"] == detector]
    others = np.concatenate(
        [np.stack([sources["x"], sources["y"]], 1), np.stack([rows["x"], rows["y"]], 1), galaxies]
    )
    zero_point = truth.exposures["zero_point"][truth.exposures["visit"] == visit][0]
    scale = 10 ** (-0.4 * (31.4 - zero_point))
    flux = np.concatenate([sources["electrons"], rows["flux"] * scale, truth.galaxies["flux_r"] * scale])
    tree = cKDTree(others)
    ny, nx = bad.shape
    kept = []
    for row, source in enumerate(sources):
        x, y = source["x"], source["y"]
        if not (35 < x < nx - 35 and 35 < y < ny - 35 and 2e4 < source["electrons"] < 3e5):
            continue
        near = [other for other in tree.query_ball_point(others[row], 24) if other != row]
        inside = bad[round(y) - 12 : round(y) + 13, round(x) - 12 : round(x) + 13].any()
        if not inside and flux[near].sum() < 0.005 * source["electrons"]:
            kept.append(row)
    return sources[kept]


def _measure(
    image: NDArray[np.float64], x: float, y: float, radius: float, *, recentre: bool = True
) -> tuple[float, float, float]:
    """Flux in a circle, and the centroid found with a Gaussian window."""
    x0, y0 = max(round(x) - 30, 0), max(round(y) - 30, 0)
    cut = image[y0 : y0 + 61, x0 : x0 + 61]
    yy, xx = np.mgrid[y0 : y0 + cut.shape[0], x0 : x0 + cut.shape[1]]
    distance = np.hypot(xx - x, yy - y)
    share = np.clip(radius + 0.5 - distance, 0, 1)
    cx, cy = x, y
    for _ in range(20 if recentre else 0):
        weight = cut * np.exp(-((xx - cx) ** 2 + (yy - cy) ** 2) / (2 * 2.0**2)) * (distance < 10)
        cx, cy = (c + 2 * (((axis - c) * weight).sum() / weight.sum()) for c, axis in ((cx, xx), (cy, yy)))
    return float((cut * share).sum()), float(cx), float(cy)

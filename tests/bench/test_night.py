"""The night bench tells good from bad, its steps are those of the task, and its file has the agreed form."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from tololo.reduction.references import References
from tololo.simulation.sky import Psf

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (400, 300)
PSF = Psf(fwhm=(4.0, 0.05, -0.05, 0.01), g1=(0.02, 0.01, 0.0), g2=(-0.01, 0.0, 0.02))


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        yield


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    return importlib.import_module("night_quality")


@pytest.fixture(scope="module")
def stars(quality: ModuleType) -> Any:
    """Stars 40 pixels apart: half of them of signal to noise 6, half of 150."""
    y, x = (axis.ravel() for axis in np.mgrid[20:400:40, 20:300:40].astype(float))
    rough = quality.Stars.on(x, y, np.ones(len(x)), PSF, 30.0, SHAPE)
    noise2 = rough.electrons**2 / rough.snr**2 - rough.electrons
    snr = np.where(np.arange(len(x)) % 2, 150.0, 6.0)
    electrons = snr**2 / 2 + snr * np.sqrt(snr**2 / 4 + noise2)
    return quality.Stars.on(x, y, electrons, PSF, 30.0, SHAPE)


def test_signal_to_noise_is_that_of_the_best_fit(quality: ModuleType, stars: Any) -> None:
    assert np.sort(stars.snr)[[0, -1]] == pytest.approx([6.0, 150.0], rel=1e-6)
    x, y, flux = 150.0, 200.0, 5000.0
    stamp = quality.true_stamp(PSF, x, y, SHAPE, 61)
    (found,) = quality.Stars.on(np.array([x]), np.array([y]), np.array([flux]), PSF, 30.0, SHAPE).snr
    assert found == pytest.approx(flux / math.sqrt(flux + 30.0**2 / (stamp**2).sum()), rel=0.02)


def test_stars_that_are_missed_and_sources_that_are_none(quality: ModuleType, stars: Any) -> None:
    galaxy = np.array([100.0]), np.array([100.0]), np.array([8.0])
    faint = stars.snr < 100
    kept = ~faint | (np.cumsum(faint) % 4 > 0)  # three of four faint ones
    x, y = (
        np.append(axis[kept] + 0.3, [more, 103.0, 1e3]) for axis, more in ((stars.x, 85.0), (stars.y, 85.0))
    )
    found = quality.detection(x, y, stars, galaxy, SHAPE)
    assert found["completeness"]["5-7"] == pytest.approx(0.75, abs=0.05)
    assert found["completeness"][">20"] == 1.0
    assert found["completeness"]["10-20"] is None
    assert found["spurious"] == 2  # the one on the galaxy is none
    nothing = quality.detection(np.empty(0), np.empty(0), stars, galaxy, SHAPE)
    assert (nothing["completeness"]["5-7"], nothing["spurious"]) == (0.0, 0)


def test_a_faint_star_in_the_light_of_another_need_not_be_found(quality: ModuleType) -> None:
    pair = quality.Stars(
        np.array([50.0, 52.0, 90.0]), np.full(3, 50.0), np.array([9.0, 4.0, 4.0]), np.full(3, 6.0)
    )
    assert pair.distinct().tolist() == [True, False, True]
    assert pair.lonely().tolist() == [False, False, True]


def test_scatter_and_zero_point(quality: ModuleType, stars: Any) -> None:
    true = 30.0 - 2.5 * np.log10(stars.electrons)
    off = np.where(np.arange(len(true)) % 4 > 1, 0.02, 0.04)
    usable = np.ones(len(true), bool)
    found = quality.photometry(stars.x, stars.y, true + off, stars, true, usable)
    assert found["bright_stars"] == np.count_nonzero(stars.snr > 100)
    assert found["zero_point_error_mag"] == pytest.approx(0.03, abs=0.011)
    assert found["bright_scatter_mag"] == pytest.approx(1.4826 * 0.01, abs=0.015)
    assert quality.photometry(stars.x, stars.y, true, stars, true, ~usable)["bright_scatter_mag"] is None


def test_places_by_a_shifted_wcs(quality: ModuleType, stars: Any) -> None:
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -30.0, "CRPIX1": 150.0}
    cards |= {"CRPIX2": 200.0, "CDELT1": -1 / 3600, "CDELT2": 1 / 3600}
    true, shifted = WCS(fits.Header(cards)), WCS(fits.Header(cards | {"CRPIX1": 150.03, "CRPIX2": 200.03}))
    usable = np.ones(len(stars.x), bool)
    found = quality.places(stars.x, stars.y, shifted, true, stars, usable, SHAPE)
    assert found["bright_rms_mas"] == pytest.approx(30.0, abs=0.1)
    assert found["wcs_rms_mas"] == pytest.approx(30.0, abs=0.1)
    assert found["wcs_max_mas"] == pytest.approx(30.0 * math.sqrt(2), abs=0.2)


def test_psf_models_right_and_wrong(quality: ModuleType) -> None:
    def right(x: float, y: float) -> Any:
        return 3.0 * quality.true_stamp(PSF, x, y, SHAPE)

    def constant(x: float, y: float) -> Any:
        return quality.true_stamp(PSF, 150.0, 200.0, SHAPE)

    assert quality.psf_residuals(right, PSF, SHAPE)["max_residual_of_peak"] == 0.0
    wrong = quality.psf_residuals(constant, PSF, SHAPE)
    assert wrong["max_residual_of_peak"] == max(wrong["max_residual_by_position"].values()) > 0.05
    assert wrong["flux_error"] > 0.02


def test_cosmic_rays_found_missed_and_invented(quality: ModuleType) -> None:
    charge = np.zeros((50, 50), np.float32)
    charge[10, 10:20], charge[30, 10:20] = 1000.0, 160.0
    mask = charge > 500
    mask[11, 15] = mask[40, 40] = True
    found = quality.cosmic_rays(mask, charge, 30.0, np.ones((50, 50), bool))
    assert found == {
        "pixels": 20,
        "recall_5_sigma": 0.5,
        "recall_300_e": 1.0,
        "false_pixels": 2,
        "false_pixels_beside_tracks": 1,
    }
    assert quality.cosmic_rays(mask, charge, 30.0, charge == 0)["recall_5_sigma"] is None


def test_pulls_of_blank_apertures(quality: ModuleType, stars: Any) -> None:
    random = np.random.default_rng(3)
    image = random.normal(0, 5.0, SHAPE).astype(np.float32)
    image[15:26, 15:26] += 1e4  # a star of the list
    bad = np.zeros(SHAPE, bool)
    for factor in (1.0, 4.0):
        variance = np.full(SHAPE, 25.0 * factor, np.float32)
        found = quality.blank_pulls(image, variance, bad, stars.x, stars.y)
        assert found["apertures"] > 500
        assert found["pull_scatter"] == pytest.approx(1 / math.sqrt(factor), rel=0.1)


def test_the_model_of_psfex_is_read_as_it_is_meant(quality: ModuleType, tmp_path: Path) -> None:
    scores = importlib.import_module("night_scores")
    step, size = 1.15, 35
    axis = (np.arange(size) - size // 2) * step
    moffat = (1 + (axis[:, None] ** 2 + axis**2) / 3.9**2) ** -3.0
    data = np.zeros((1, 6, size, size), np.float32)
    data[0, 0], data[0, 1], data[0, 3] = moffat, 0.5 * moffat, -0.25 * moffat
    hdu = fits.BinTableHDU.from_columns(
        [fits.Column("PSF_MASK", f"{data[0].size}E", array=data, dim=f"({size},{size},6)")]
    )
    hdu.header.update(
        {"POLZERO1": 150.0, "POLZERO2": 200.0, "POLSCAL1": 300.0, "POLSCAL2": 400.0, "PSF_SAMP": step}
    )
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "image.psf")
    model = scores.PsfexModel.read(tmp_path / "image.psf")
    middle = model(149.0, 199.0)
    pixels = np.arange(quality.STAMP) - quality.STAMP // 2
    true = (1 + (pixels[:, None] ** 2 + pixels**2) / 3.9**2) ** -3.0
    assert np.abs(middle - true).max() < 2e-3
    assert model(299.0, 199.0)[10, 10] == pytest.approx(1.25, abs=1e-3)  # half a unit along x
    assert model(149.0, 399.0)[10, 10] == pytest.approx(0.875, abs=1e-3)


def test_every_watched_function_is_there() -> None:
    ours = importlib.import_module("night_ours")
    for name in ours.FUNCTIONS:
        found = ours.resolve(name)
        assert found, name
        assert all(callable(getattr(owner, function)) for owner, function in found), name
    background = {function for _, function in ours.resolve("tololo.reduction.kernels.background:*")}
    assert "estimate_background" in background
    assert "check_planes" not in background  # it comes from elsewhere


def test_the_stopwatch_counts_each_second_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = importlib.import_module("night_ours")
    (tmp_path / "toy_steps.py").write_text(
        "def inner():\n    return 1\n\ndef outer(word):\n    return inner() + len(word)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    stopwatch = ours.Stopwatch()
    stopwatch.watch("toy_steps:inner", "inner")
    stopwatch.watch("toy_steps:outer", lambda word: f"outer {word}")
    toy = sys.modules["toy_steps"]
    assert toy.outer("abc") == 4
    assert set(stopwatch.seconds) == {"outer abc"}  # what is within is not told twice
    assert toy.inner() == 1
    assert set(stopwatch.seconds) == {"outer abc", "inner"}
    assert all(cpu >= 0 and wall > 0 for cpu, wall in stopwatch.seconds.values())
    with pytest.raises(AttributeError):
        stopwatch.watch("toy_steps:gone", "gone")


class Side:
    """Stands for a side that has already been measured."""

    def __init__(self, spent: dict[str, tuple[float, float]]) -> None:
        self.spent = spent

    def command(self, name: str) -> str:
        return f"{name} --its-options"


class Mine(Side):
    def run(self) -> dict[str, tuple[float, float]]:
        return self.spent


class Theirs(Side):
    def run(self) -> Iterator[tuple[str, float, float]]:
        yield from ((name, *spent) for name, spent in self.spent.items())


@pytest.mark.parametrize("missing", ["", "scamp"])
def test_rows_ratios_and_the_file(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    night, measure = importlib.import_module("night"), importlib.import_module("measure")
    peers = importlib.import_module("night_peers")
    mine = Mine({night.WHOLE: (2.0, 2.0), "PSF": (0.5, 0.5), night.STARS: (0.5, 0.6), "read raw": (0.2, 0.2)})
    theirs = Theirs({name: (1.0, 1.5) for name in (*peers.CHAIN, peers.MATCHED) if name != missing})
    rows = night.compare(mine, theirs, 3)
    assert all(len(row.runs_cpu_s) == 3 for row in rows)
    ratios = measure.ratios(rows)
    assert ratios["PSF"] == {"psfex": 2.0}
    assert ratios[night.STARS] == {"source-extractor": 2.0, peers.MATCHED: 2.0}
    assert ratios.get(night.WHOLE) == (None if missing else {night.THEIRS: 4.0})
    bounds = {"PSF": {"limit": "memory", "limit_s": 0.1, "times_limit": 5.0}}
    quality = night.quality_of({"PSF": {"max": 0.1}}, {"psfex": {"PSF": {"max": 0.2}}}, bounds)
    assert quality == {"PSF": {"ours": {"max": 0.1} | bounds["PSF"], "psfex": {"max": 0.2}}}
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "yardstick", lambda: (0.1, "simulated"))
    measure.write("night", measure.machine(), rows, ratios, quality)
    result = json.loads((tmp_path / "bench" / "night.json").read_text())
    assert set(result) == {"name", "machine", "yardstick_funpack_s", "rows", "ratios", "quality"}
    for row in result["rows"]:
        assert set(row) == {
            "step", "side", "command", "runs_cpu_s", "runs_wall_s", "median_cpu_s", "median_wall_s"
        }  # fmt: skip
    sides = {row["side"] for row in result["rows"]}
    assert "scamp --its-options" in {row["command"] for row in result["rows"]} or missing
    assert ("scamp" in sides, night.THEIRS in sides) == (not missing, not missing)


def test_a_peer_that_fails_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = importlib.import_module("night_peers")

    class Failing(peers.Peers):  # type: ignore[misc]
        def __init__(self) -> None:
            self.folder, self.left_out = tmp_path, {}
            self._programs = dict.fromkeys(peers.PROGRAMS, "/bin/true") | {"psfex": "/bin/false"}
            self._pixels = type("Pixels", (), {"ask": lambda self: {"ISR": (1.0, 1.0)}})()

        def command(self, name: str) -> str:
            return name

    side = Failing()
    for _ in range(2):
        assert [name for name, _, _ in side.run()] == [
            "funpack", "ccdproc", "source-extractor", "scamp", "fpack", peers.MATCHED
        ]  # fmt: skip
    assert list(side.left_out) == ["psfex"]
    assert "psfex has ended with 1" in side.left_out["psfex"]


def test_bounds_come_from_bandwidth_and_funpack() -> None:
    limits, ours = importlib.import_module("night_limits"), importlib.import_module("night_ours")
    bounds = limits.limits(20e9, 0.1)
    assert bounds[ours.READ_RAW][1] == pytest.approx(0.1)
    assert bounds[ours.COSMIC_RAYS][1] == pytest.approx(8 * 2048 * 4096 / 20e9)
    assert ours.READ_RAW not in limits.limits(20e9, None)
    found = limits.distances(bounds, {ours.READ_RAW: 0.15})
    assert found == {ours.READ_RAW: {"limit": "RICE decoding of the raw", "limit_s": 0.1, "times_limit": 1.5}}


def test_reference_stars_as_scamp_gets_them(tmp_path: Path) -> None:
    peers = importlib.import_module("night_peers")
    two = np.array([1.0, 2.0])
    references = References(
        np.array([7, 8]),
        two,
        two,
        two,
        two,
        np.array([18.0, np.nan]),
        two / 100,
        np.array([18.5, 15.0]),
        two,
        two,
        two,
    )
    cards = fits.Header({"CRVAL1": 1.0})
    peers.write_ldac(tmp_path / "references.ldac", references, 2019.2, cards)
    with fits.open(tmp_path / "references.ldac") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["LDAC_IMHEAD", "LDAC_OBJECTS"]
        table = Table(hdus[2].data)
        assert "CRVAL1" in str(hdus[1].data[0][0])
    assert list(table["MAG"]) == [18.0, 15.0]  # what has no magnitude in the band has Gaia's
    assert list(table["OBSDATE"]) == [2019.2, 2019.2]
    kernel = peers.gaussian(4.0)
    assert kernel.sum() == pytest.approx(1.0)
    assert kernel[4, 6] == pytest.approx(kernel[4, 4] / 2)


def test_a_warm_process_answers_or_says_why_it_cannot(tmp_path: Path) -> None:
    warm = importlib.import_module("night_warm")
    code = """
import sys
for number, line in enumerate(sys.stdin):
    print('{"n": %d}' % number, flush=True)
    assert number < 1, "worn out"
"""
    process = warm.WarmProcess([sys.executable, "-c", code], tmp_path / "log", {})
    assert [process.ask()["n"], process.ask()["n"]] == [0, 1]
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1:.*worn out"):
        process.ask()
    process.close()

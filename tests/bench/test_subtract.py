"""The bench of image subtraction tells a good difference from a bad one, and its pair is what it says."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (700, 640)


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        yield


@pytest.fixture(scope="module")
def pair(path: None) -> Iterator[Any]:
    module = importlib.import_module("subtract_pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHAPE", SHAPE)
        yield module.simulate(2, stars=160, galaxies=30, transients=30)


@pytest.fixture(scope="module")
def scores(path: None) -> ModuleType:
    return importlib.import_module("subtract_scores")


def test_the_pair_is_of_one_scale_and_survives_its_file(pair: Any, tmp_path: Path) -> None:
    assert pair.science.shape == SHAPE
    bright = pair.stars[(pair.stars[:, 2] > 2e4) & (pair.stars[:, 2] < 2e5)]
    x, y = np.rint(bright[:, :2]).astype(int).T
    inside = (x > 20) & (y > 20) & (x < SHAPE[1] - 21) & (y < SHAPE[0] - 21)

    def flux(plane: Any, a: int, b: int) -> float:
        around = plane[b - 20 : b + 21, a - 20 : a + 21]
        return float((around[10:31, 10:31] - np.median(around)).sum())

    assert inside.any()
    for a, b, true in zip(x[inside], y[inside], bright[inside, 2], strict=True):
        # Wings beyond the aperture are left out, more of them where the seeing is worse.
        assert flux(pair.science, a, b) / true == pytest.approx(0.9, abs=0.07)
        assert 0.9 * flux(pair.template, a, b) / true == pytest.approx(0.95, abs=0.07)
    pair.save(tmp_path / "pair.npz")
    again = type(pair).load(tmp_path / "pair.npz")
    for name, value in vars(pair).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def scored(scores: ModuleType, spoil: float = 1.0, missing: bool = False) -> dict[str, Any]:
    """Score pure noise with transients of known signal to noise in it, and three detections that are none."""
    rng = np.random.default_rng(4)
    image = rng.normal(size=SHAPE) * spoil
    y, x = np.mgrid[-9:10, -9:10]
    psf = np.exp(-(x**2 + y**2) / 8.0)
    psf /= psf.sum()
    places = np.array([(i, j) for i in range(60, 600, 60) for j in range(60, 660, 60)])
    snr = np.where(np.arange(len(places)) % 2, 20.0, 9.5)
    flux = snr / np.sqrt((psf**2).sum())
    truth = np.column_stack([places, flux, snr]).astype(float)
    for k, (a, b) in enumerate(places[3:] if missing else places[:]):
        image[b - 9 : b + 10, a - 9 : a + 10] += flux[k + 3 * missing] * psf
    known = truth if missing else truth[3:]
    one = np.ones(SHAPE, np.float32)
    return scores.score(image.astype(np.float32), one, np.zeros(SHAPE, bool), psf, np.zeros((1, 3)), known)


def test_what_is_not_there_and_what_is_missed_are_counted(scores: ModuleType) -> None:
    good = scored(scores)
    assert good["false_positives"] == 3  # the first three are not in its truth
    assert good["completeness"]["8-12"] == 1.0
    assert good["completeness"][">12"] == 1.0
    assert good["noise_over_expected"] == pytest.approx(1.0, abs=0.02)
    assert good["score_scatter"] == pytest.approx(1.0, abs=0.05)
    missed = scored(scores, missing=True)
    assert missed["false_positives"] == 0
    assert missed["completeness"]["8-12"] < 1.0


def test_wrong_noise_shows(scores: ModuleType) -> None:
    assert scored(scores, spoil=1.3)["noise_over_expected"] == pytest.approx(1.3, abs=0.03)


def test_without_a_binary_hotpants_is_left_out_by_name(pair: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from .modules import bench_module

    with bench_module("subtract") as bench:
        monkeypatch.delenv("HOTPANTS", raising=False)
        assert bench.hotpants(tmp_path, pair) == (None, "left out: HOTPANTS= names no binary")
        monkeypatch.setenv("HOTPANTS", str(tmp_path / "none"))
        peer, said = bench.hotpants(tmp_path, pair)
        assert peer is None
        assert "is no program" in said


def test_a_named_binary_gets_the_pair_and_its_difference_is_scored(
    pair: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """A program that subtracts without matching stands in where hotpants would run."""
    program = tmp_path / "subtract"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\nfrom astropy.io import fits\n"
        "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "read = lambda name: fits.getdata(given[name])\n"
        "fits.writeto(given['-outim'], read('-inim') - 0.9 * read('-tmplim'))\n"
        "fits.writeto(given['-oni'], (read('-ini') ** 2 + 0.81 * read('-tni') ** 2) ** 0.5)\n"
    )
    program.chmod(0o755)
    from .modules import bench_module

    with bench_module("subtract") as bench:
        monkeypatch.setenv("HOTPANTS", str(program))
        peer, said = bench.hotpants(tmp_path, pair)
        assert said == str(program)
        command, cpu, wall = peer.run()
        assert command.startswith("hotpants -tu")
        assert cpu > 0
        assert wall > 0
        worth = peer.worth()
        assert worth["noise_over_expected"] > 0.9
        assert worth["false_positives"] > 20
        assert json.dumps(worth)

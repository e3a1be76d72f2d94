from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tololo.facility.calibrations import reasons_against
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawDetector
from tololo.reduction.master import Master
from tololo.reduction.master_bias import combine_bias

from .master_raws import HEIGHT, SHAPE, WIDTH, Ccd

ODD_PIXELS = ((40, 40), (300, 250))


@pytest.fixture(scope="module")
def ccd() -> Ccd:
    return Ccd(hot_column=slice(256, HEIGHT), hot_pixels=ODD_PIXELS)


@pytest.fixture(scope="module")
def master(ccd: Ccd) -> Master:
    return combine_bias(ccd.loads(1, 9))


def rows_of(master: Master) -> list[dict[str, Any]]:
    return [dict(zip(master.metrics.colnames, row, strict=True)) for row in master.metrics]


def test_it_is_the_truth_within_its_own_noise(ccd: Ccd, master: Master) -> None:
    good = master.planes.bits == 0
    assert good.mean() > 0.99
    pull = ((master.planes.image - ccd.bias) / np.sqrt(master.planes.variance))[good]
    assert 0.95 < pull.std() < 1.05
    assert abs(pull.mean()) < 0.05
    for amplifier in range(2):
        area = np.s_[:, amplifier * WIDTH : (amplifier + 1) * WIDTH]
        assert 0.95 < pull_of(ccd, master, area) < 1.05


def pull_of(ccd: Ccd, master: Master, area: tuple[slice, ...]) -> float:
    planes = master.planes
    pull = (planes.image - ccd.bias)[area] / np.sqrt(planes.variance[area])
    return float(pull[planes.bits[area] == 0].std())


def test_cosmic_rays_are_clipped_and_said(ccd: Ccd, master: Master) -> None:
    clipped = (master.planes.bits & BIT["CLIPPED"]) != 0
    # Nine exposures with four rays of three pixels each; no more than a few by chance beside them.
    assert 9 * 4 * 3 * 0.9 < clipped.sum() < 9 * 4 * 3 + 300
    left = np.abs(master.planes.image - ccd.bias)[clipped & ((master.planes.bits & BIT["BAD"]) == 0)]
    assert left.max() < 8


def test_metrics_are_the_truth(ccd: Ccd, master: Master) -> None:
    for row in rows_of(master):
        name = str(row["amplifier"])
        noise = np.hypot(ccd.read_noise[name] / ccd.gain[name], 12**-0.5) * ccd.header_gain[name]
        assert row["read_noise"] == pytest.approx(noise, rel=0.02)
        assert row["read_noise_overscan"] == pytest.approx(noise, rel=0.03)
        assert 0.95 < row["variance_ratio"] < 1.05
        assert (row["n_inputs"], row["n_used"], row["inputs"]) == (9, 9, "1,2,3,4,5,6,7,8,9")
        assert row["column_rms"] > 1
        assert row["row_rms"] < 0.3
        assert reasons_against("bias", [row]) == []
    assert [row["hot_columns"] for row in rows_of(master)] == [1, 0]


def test_hot_columns_and_pixels_are_defects_and_nothing_else(ccd: Ccd, master: Master) -> None:
    bad = (master.planes.bits & BIT["BAD"]) != 0
    expected = np.zeros(SHAPE, bool)
    expected[256:, 100] = True
    for pixel in ODD_PIXELS:
        expected[pixel] = True
    assert bad[expected].all()
    assert (bad & ~expected).sum() < 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"offset": 4.0}, "level of amplifier A +3.9"),
        ({"noise": 1.6}, "noise of amplifier A 1.5"),
        ({"kind": "dark"}, "it is a 'dark'"),
        ({"light": np.linspace(0, 40, HEIGHT)[:, None] * np.ones(2 * WIDTH), "kind": "zero"}, "level of"),
        ({"light": 8.0 * (np.mgrid[:HEIGHT, : 2 * WIDTH][0] % 128 < 32), "kind": "zero"}, "shape of"),
        ({"dead": "B"}, "amplifier B"),
    ],
)
def test_an_odd_exposure_is_left_out_and_named(ccd: Ccd, options: dict[str, Any], says: str) -> None:
    odd = (99, partial(ccd.expose, 99, **options))
    master = combine_bias([*ccd.loads(1, 5), odd])
    assert list(master.refused) == [99]
    assert says in master.refused[99]
    row = rows_of(master)[0]
    assert (row["n_inputs"], row["n_used"]) == (6, 5)
    assert str(row["refused"]).startswith("99: ")
    assert 0.95 < pull_of(ccd, master, np.s_[:, :]) < 1.05


def test_known_defects_are_bad_and_an_amplifier_of_them_is_dead(ccd: Ccd) -> None:
    known = np.zeros((4096, 2048), bool)
    known[10:20, 30:40] = True
    known[:, WIDTH:] = True
    master = combine_bias(ccd.loads(1, 5), known)
    bad = (master.planes.bits & BIT["BAD"]) != 0
    assert bad[10:20, 30:40].all()
    assert bad[:, WIDTH:].all()
    assert 0.95 < pull_of(ccd, master, np.s_[:, :WIDTH]) < 1.05
    a, b = rows_of(master)
    assert (a["problem"], b["problem"]) == ("", "all of its pixels are known to be bad")
    assert reasons_against("bias", [a, b]) == []
    known[:] = True
    with pytest.raises(NothingToDoError, match=r"No amplifier can be used \(amplifier A: all of its pixels"):
        combine_bias(ccd.loads(1, 5), known)


def broken() -> RawDetector:
    raise BadInputError("The pixels cannot be read: it is cut short", "file.fits.fz", "fetch it again")


def test_a_file_that_cannot_be_read_is_left_out_and_named(ccd: Ccd) -> None:
    master = combine_bias([(7, broken), *ccd.loads(10, 3)])
    assert master.refused == {7: "The pixels cannot be read: it is cut short"}
    assert master.metrics["inputs"][0] == "10,11,12"


def test_too_few_are_refused_with_all_reasons(ccd: Ccd) -> None:
    with pytest.raises(
        NothingToDoError, match=r"2 of 3 exposures.*7: The pixels cannot be read.*detector 25"
    ):
        combine_bias([(7, broken), *ccd.loads(10, 2)])
    with pytest.raises(NothingToDoError, match="No exposure can be used"):
        combine_bias([(7, broken)])
    with pytest.raises(NothingToDoError, match="No exposure can be used"):
        combine_bias([])


def test_a_dead_amplifier_is_masked_and_the_other_is_used(ccd: Ccd) -> None:
    master = combine_bias(ccd.loads(1, 4, dead="B"))
    assert ((master.planes.bits[:, WIDTH:] & BIT["BAD"]) != 0).all()
    assert np.isfinite(master.planes.image).all()
    assert 0.95 < pull_of(ccd, master, np.s_[:, :WIDTH]) < 1.05
    a, b = rows_of(master)
    assert (a["problem"], a["n_used"]) == ("", 4)
    assert b["problem"]
    assert reasons_against("bias", [a, b]) == []
    assert "no amplifier is usable" in reasons_against("bias", [b])[0]

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from astropy.table import Table, vstack

from tololo.facility.calibrations import reasons_against
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.flat_levels import load_flats, measure_levels, scale_flats
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawDetector
from tololo.reduction.isr import Crosstalk
from tololo.reduction.master import Master
from tololo.reduction.master_bias import combine_bias
from tololo.reduction.master_flat import combine_flat
from tololo.reduction.master_frames import Frames, Load

from .master_raws import HEIGHT, SHAPE, WIDTH, Ccd

LIGHT = 20000.0
DARK = ((100, 100), (101, 100), (400, 300))
CCDS = {
    25: Ccd(25, 1.1, dark_pixels=DARK),
    26: Ccd(26, 0.8),
    27: Ccd(27, 1.0, {"A": 3.6, "B": 4.2}, {"A": 3.7, "B": 4.0}),
}
NO_VARIANCE = np.zeros(SHAPE, np.float32)


def loaded(ccd: Ccd, loads: list[tuple[int, Load]]) -> Frames:
    """The flats without a perfect bias."""
    return load_flats(loads, ccd.bias.astype(np.float32), np.zeros(SHAPE, bool), Crosstalk())


def flats(n: int = 6, *more: tuple[int, float, dict[str, Any]]) -> dict[int, list[tuple[int, Load]]]:
    """N flats of each CCD, and further ones of some light."""
    return {
        number: [
            *ccd.loads(1, n, LIGHT),
            *((e, partial(ccd.expose, e, light, **options)) for e, light, options in more),
        ]
        for number, ccd in CCDS.items()
    }


def scales_of(loads: dict[int, list[tuple[int, Load]]]) -> Table:
    return scale_flats(vstack([measure_levels(loaded(CCDS[number], own)) for number, own in loads.items()]))


def left_out(scales: Table) -> dict[tuple[int, int], str]:
    return {(row["exposure"], row["detector"]): row["reason"] for row in scales if not row["used"]}


@pytest.fixture(scope="module")
def scales() -> Table:
    return scales_of(flats())


@pytest.fixture(scope="module")
def masters(scales: Table) -> dict[int, Master]:
    return {
        number: combine_flat(loaded(CCDS[number], own), scales, NO_VARIANCE)
        for number, own in flats().items()
    }


def truths() -> dict[int, Any]:
    """What the flats have to be: the mean over all pixels is 1."""
    mean = np.mean([ccd.truth.mean() for ccd in CCDS.values()])
    return {number: ccd.truth / mean for number, ccd in CCDS.items()}


def test_flats_are_the_truth_within_their_own_noise(masters: dict[int, Master]) -> None:
    for number, truth in truths().items():
        planes = masters[number].planes
        good = planes.bits == 0
        assert good.mean() > 0.99
        pull = ((planes.image - truth) / np.sqrt(planes.variance))[good]
        assert 0.95 < pull.std() < 1.05
        # The level of a detector is known from all its pixels: to a few parts in a hundred thousand.
        assert np.mean(planes.image[good] / truth[good]) == pytest.approx(1, abs=3e-4)


def test_the_mean_over_the_focal_plane_is_one(masters: dict[int, Master], scales: Table) -> None:
    means = [master.planes.image[master.planes.bits == 0].mean() for master in masters.values()]
    assert np.mean(means) == pytest.approx(1, abs=2e-3)
    assert means[0] / means[1] == pytest.approx(CCDS[25].truth.mean() / CCDS[26].truth.mean(), rel=1e-3)
    assert left_out(scales) == {}


def test_gains_come_from_photon_transfer(masters: dict[int, Master]) -> None:
    for number, master in masters.items():
        for row in rows_of(master):
            name = row["amplifier"]
            ccd = CCDS[number]
            assert row["gain"] == pytest.approx(ccd.gain[name], rel=0.02)
            assert row["gain_ratio"] == pytest.approx(ccd.gain[name] / ccd.header_gain[name], rel=0.02)
            assert 0.95 < row["variance_ratio"] < 1.05
            assert row["counts"] == pytest.approx(
                LIGHT * 1.06 * ccd.response * ccd.truth.mean() / ccd.response, rel=0.03
            )
            assert row["gradient"] == pytest.approx(0.067, abs=0.02)
            assert (row["n_inputs"], row["n_used"], row["inputs"]) == (6, 6, "1,2,3,4,5,6")
            assert row["n_detectors"] == 3
            assert np.isnan(row["linearity"])
            assert reasons_against("flat", [row]) == []


def rows_of(master: Master) -> list[dict[str, Any]]:
    return [dict(zip(master.metrics.colnames, row, strict=True)) for row in master.metrics]


def test_dark_pixels_are_defects_and_nothing_else(masters: dict[int, Master]) -> None:
    bad = (masters[25].planes.bits & BIT["BAD"]) != 0
    assert sorted(map(tuple, np.argwhere(bad).tolist())) == sorted(DARK)
    assert not ((masters[26].planes.bits & BIT["BAD"]) != 0).any()


@pytest.mark.parametrize(
    ("light", "options", "says"),
    [
        (500.0, {}, "below 5000"),
        (200_000.0, {}, "% of the pixels are saturated"),
        (LIGHT, {"kind": "object"}, "it is a 'object', not a dome flat"),
        (LIGHT * np.linspace(0.9, 1.1, HEIGHT)[:, None] * np.ones(2 * WIDTH), {}, "shape of amplifier"),
        (LIGHT * (1 + 0.1 * (np.mgrid[:HEIGHT, : 2 * WIDTH][1] > WIDTH)), {}, "off that of the others"),
    ],
)
def test_an_odd_flat_is_left_out_and_named(light: Any, options: dict[str, Any], says: str) -> None:
    loads = flats(5, (99, light, options))
    scales = scales_of(loads)
    master = combine_flat(loaded(CCDS[26], loads[26]), scales, NO_VARIANCE)
    assert list(master.refused) == [99]
    assert says in master.refused[99]
    assert (master.metrics["n_used"][0], master.metrics["n_inputs"][0]) == (5, 6)
    planes, truth = master.planes, truths()[26]
    good = planes.bits == 0
    assert 0.95 < ((planes.image - truth) / np.sqrt(planes.variance))[good].std() < 1.05


def test_what_is_odd_on_most_detectors_is_left_out_on_all() -> None:
    loads = flats(4)
    for number in (25, 26):
        loads[number].append((99, partial(CCDS[number].expose, 99, 300.0)))
    loads[27].append((99, partial(CCDS[27].expose, 99, LIGHT)))
    found = left_out(scales_of(loads))
    assert sorted(found) == [(99, 25), (99, 26), (99, 27)]
    assert "left out on 2 of 3 detectors: its level is" in found[99, 27]


def test_what_is_odd_on_one_detector_is_left_out_there() -> None:
    loads = flats(5)
    loads[26][2] = (3, partial(CCDS[26].expose, 3, LIGHT * 0.7))
    found = left_out(scales_of(loads))
    assert list(found) == [(3, 26)]
    assert "% off that of the others" in found[3, 26]


def test_a_detector_that_lacks_exposures_keeps_its_level() -> None:
    """The brightness of each exposure is known from the other detectors."""
    loads = flats(6)
    loads[26] = loads[26][3:]
    scales = scales_of(loads)
    master = combine_flat(loaded(CCDS[26], loads[26]), scales, NO_VARIANCE)
    good = master.planes.bits == 0
    assert np.mean(master.planes.image[good] / truths()[26][good]) == pytest.approx(1, abs=1e-3)


def test_what_came_after_the_scales_is_named(scales: Table) -> None:
    with pytest.raises(NothingToDoError, match=r"0 of 4 exposures.*1: flat_scales were made without it"):
        combine_flat(
            loaded(CCDS[25], CCDS[25].loads(1, 4, LIGHT)), scales[scales["detector"] != 25], NO_VARIANCE
        )


def test_a_dead_amplifier_is_masked_and_does_not_count() -> None:
    ccd = CCDS[25]
    own = ccd.loads(1, 4, LIGHT, dead="A")
    master = combine_flat(loaded(ccd, own), scale_flats(measure_levels(loaded(ccd, own))), NO_VARIANCE)
    planes = master.planes
    assert ((planes.bits[:, :WIDTH] & BIT["BAD"]) != 0).all()
    assert np.isfinite(planes.image).all()
    good = planes.bits == 0
    assert planes.image[good].mean() == pytest.approx(1, abs=2e-3)
    a, b = rows_of(master)
    assert a["problem"]
    assert np.isnan(a["gain"])
    assert b["gain"] == pytest.approx(ccd.gain["B"], rel=0.02)
    assert reasons_against("flat", [a, b]) == []


def test_the_noise_of_the_bias_is_in_the_variance() -> None:
    """A bias of few inputs spoils a faint flat; its variance says so."""
    ccd = CCDS[25]
    bias = combine_bias(ccd.loads(100, 3))
    own = ccd.loads(1, 8, 1500.0)
    found = load_flats(own, bias.planes.image, (bias.planes.bits & BIT["BAD"]) != 0, Crosstalk())
    scales = scale_flats(measure_levels(found), min_counts=1000.0)
    again = load_flats(own, bias.planes.image, (bias.planes.bits & BIT["BAD"]) != 0, Crosstalk())
    planes = combine_flat(again, scales, bias.planes.variance).planes
    truth = ccd.truth / ccd.truth.mean()
    good = planes.bits == 0
    assert 0.95 < ((planes.image - truth) / np.sqrt(planes.variance))[good].std() < 1.05


def test_exposure_times_show_what_is_not_linear() -> None:
    ccd = CCDS[26]

    def timed(exposure: int, seconds: float, light: float) -> RawDetector:
        raw = ccd.expose(exposure, light)
        raw.header["EXPTIME"] = seconds
        return raw

    for curve, expected in ((0.0, 0.0), (0.02, 0.02)):
        own: list[tuple[int, Load]] = [
            (k, partial(timed, k, 5.0 * (k + 1), 10000.0 * (k + 1) * (1 - curve * k / 2))) for k in range(3)
        ]
        found = loaded(ccd, own)
        master = combine_flat(found, scale_flats(measure_levels(found)), NO_VARIANCE)
        assert master.metrics["linearity"][0] == pytest.approx(expected, abs=0.003)


def broken() -> RawDetector:
    raise BadInputError("The pixels cannot be read: it is cut short", "file.fits.fz", "fetch it again")


def test_too_few_are_refused_with_all_reasons() -> None:
    ccd = CCDS[25]
    own = [*ccd.loads(1, 2, LIGHT), (7, broken), (8, partial(ccd.expose, 8, 100.0))]
    scales = scale_flats(measure_levels(loaded(ccd, own)))
    assert left_out(scales)[7, 25].startswith("The pixels cannot be read")
    with pytest.raises(NothingToDoError, match=r"2 of 4 exposures.*7: The pixels.*8: its level is"):
        combine_flat(loaded(ccd, own), scales, NO_VARIANCE)
    dark = [(k, partial(ccd.expose, k, 100.0)) for k in range(3)]
    with pytest.raises(NothingToDoError, match=r"No flat can be used.*0: its level is"):
        scale_flats(measure_levels(loaded(ccd, dark)))

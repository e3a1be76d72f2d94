"""What CCDs get of one another is in the raws as the truth says, and nothing else has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from tololo.facility.curated_crosstalk import FILE, read_crosstalk
from tololo.reduction.formats.raw import RawDetector, read_raw
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

PLAN = RawPlan(
    nights=(RawNight(20190305, zeros=1, flats=1, objects=1, seeing=1.0),),
    detectors=(28, 29, 31, 32),
    shape=(400, 512),
    stars_per_deg2=40000,
    galaxies=0,
    transients=0,
    trails=0.0,
    neighbour_crosstalk=2e-3,
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[RawTruth, RawTruth]:
    """The same camera with and without crosstalk between CCDs."""
    folder = tmp_path_factory.mktemp("crosstalk")
    without = replace(PLAN, neighbour_crosstalk=0.0)
    return simulate_raw_nights(folder / "with", PLAN, 4), simulate_raw_nights(folder / "without", without, 4)


def raw(truth: RawTruth, detector: int, table: str = "exposures") -> RawDetector:
    return read_raw(truth.images / str(getattr(truth, table)["image"][-1]), detector)


def signal(found: RawDetector, name: str) -> NDArray[np.float64]:
    (amplifier,) = [a for a in found.amplifiers if a.name == name]
    level = found.pixels[amplifier.overscan].mean(axis=1, dtype=float, keepdims=True)
    return np.asarray(found.pixels[amplifier.data] - level)


def test_the_difference_is_what_the_truth_says(both: tuple[RawTruth, RawTruth]) -> None:
    leaky, tight = both
    between = [row for row in leaky.crosstalk if row["victim"][:2] != row["source"][:2]]
    assert {(row["victim"], row["source"]) for row in between} == {
        (f"{victim}{own}", f"{source}{other}")
        for victim, source in ((28, 29), (29, 28))
        for own, other in ("AA", "BB", "AB")
    }
    assert len(leaky.crosstalk) - len(between) == len(tight.crosstalk) == 8
    for victim in (28, 29):
        before, after = raw(tight, victim), raw(leaky, victim)
        assert before.header.tostring() == after.header.tostring()
        np.testing.assert_array_equal(
            before.pixels[before.amplifiers[0].overscan], after.pixels[after.amplifiers[0].overscan]
        )
        for amplifier in before.amplifiers:
            expected = np.zeros((400, 256))
            for row in between:
                if row["victim"] == f"{victim}{amplifier.name}":
                    source = signal(raw(tight, int(row["source"][:2])), row["source"][2])
                    expected += row["share"] * (
                        source if row["source"][2] == amplifier.name else source[:, ::-1]
                    )
            difference = after.pixels[amplifier.data].astype(float) - before.pixels[amplifier.data]
            assert np.abs(difference - expected).max() < 1.1
            slope = np.sum(difference * expected) / np.sum(expected**2)
            assert slope == pytest.approx(1, abs=0.01)
            assert np.mean(difference - expected) == pytest.approx(0, abs=0.01)


def test_other_ccds_and_calibrations_are_the_same(both: tuple[RawTruth, RawTruth]) -> None:
    for detector, table in ((31, "exposures"), (32, "exposures"), (28, "calibrations"), (29, "calibrations")):
        np.testing.assert_array_equal(
            raw(both[0], detector, table).pixels, raw(both[1], detector, table).pixels
        )


def test_what_is_known_of_it_can_be_registered(both: tuple[RawTruth, RawTruth]) -> None:
    truth = both[0]
    (version,) = read_crosstalk(truth.curated / FILE)
    found = {(c.victim, c.source): c.linear for c in version.couplings}
    assert found == {(row["victim"], row["source"]): row["share"] for row in truth.crosstalk}
    assert len(RawTruth.read(truth.folder).crosstalk) == len(truth.crosstalk)
    path = Path(truth.images / str(truth.exposures["image"][0]))
    with fits.open(path) as hdus:
        assert [hdu.header["CCDNUM"] for hdu in hdus[1:]] == list(PLAN.detectors)

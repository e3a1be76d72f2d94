"""From simulated InstCal files to differences: every figure against the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from .chain import Simulation, robust_scatter

KEYS = [(840001 + n, detector) for n in range(5) for detector in (28, 35)]


@pytest.mark.parametrize("key", KEYS)
def test_a_detector_is_calibrated_as_the_truth_has_it(simulation: Simulation, key: tuple[int, int]) -> None:
    detector, truth = simulation.chain.detector(*key), simulation.exposure(key[0])
    assert detector.summary["zero_point"] == pytest.approx(truth["zero_point"], abs=0.02)
    # With some ninety stars the error of the mean is far below that of one, 0.03 mag.
    assert detector.summary["zero_point_error"] < 0.008
    assert (
        abs(detector.summary["zero_point"] - truth["zero_point"]) < 4 * detector.summary["zero_point_error"]
    )
    assert math.hypot(detector.summary["shift_x"], detector.summary["shift_y"]) < 0.05
    assert detector.summary["fwhm_half_maximum"] == pytest.approx(truth["fwhm"], rel=0.03)


@pytest.mark.parametrize("key", KEYS[::3])
def test_the_image_holds_the_stars_fluxes_in_nanojansky(simulation: Simulation, key: tuple[int, int]) -> None:
    detector, truth = simulation.chain.detector(*key), simulation.truth
    stars = detector.stars
    known = stars[(stars["refId"] > 0) & (stars["snr"] > 50) & ~stars["flags"]]
    true = {int(row["id"]): float(row["flux_r"]) for row in truth.stars}
    ratio = np.array([row["psfFlux"] / true[int(row["refId"]) - 3_000_000_000_000_000_000] for row in known])
    assert len(ratio) > 50
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


def test_differences_leave_the_noise_that_is_expected(simulation: Simulation) -> None:
    for subtracted in simulation.differences:
        metadata = subtracted.image.metadata
        assert 0.95 < metadata["NOISE RATIO"] < 1.05
        assert 0.95 < robust_scatter(subtracted.pull) < 1.05
        assert metadata["FLUX RATIO"] == pytest.approx(1.0, abs=0.02)
        assert np.isnan(subtracted.pull).mean() < 0.03
        assert np.nanmean(np.abs(subtracted.pull) > 6) < 2e-4 + 1e-5 * len(subtracted.accepted) * 30


def _matches(simulation: Simulation) -> list[tuple[float, float, float, float, float]]:
    """Return distance, true S/N, true flux, flux and error of the source nearest to each transient."""
    rows = []
    for subtracted in simulation.differences:
        found = subtracted.accepted
        for planted in simulation.planted(subtracted.science.key):
            distance = np.hypot(found["x"] - planted["x"], found["y"] - planted["y"])
            n = int(np.argmin(distance))
            flux, error = found["psfFlux"][n], found["psfFluxErr"][n]
            rows.append((float(distance[n]), planted["snr"], planted["flux"], float(flux), float(error)))
    return rows


def test_planted_transients_are_recovered(simulation: Simulation) -> None:
    distance = np.array([row[0] for row in _matches(simulation) if row[1] > 10])
    assert len(distance) > 60
    assert np.mean(distance < 0.5) >= 0.95


def test_fluxes_of_transients_are_unbiased(simulation: Simulation) -> None:
    rows = [row for row in _matches(simulation) if row[0] < 1]
    _, _, true, flux, error = (np.array(column) for column in zip(*rows, strict=True))
    ratio, pull = flux / true, (flux - true) / error
    weight = (true / error) ** 2
    assert abs(np.median(ratio) - 1) < 0.02
    assert abs(np.mean(ratio) - 1) < 0.02
    assert abs(np.average(ratio, weights=weight) - 1) < 0.02
    assert robust_scatter(pull) < 1.4
    assert np.std(pull) < 1.4


def test_there_is_at_most_one_false_positive_in_a_difference(simulation: Simulation) -> None:
    for subtracted in simulation.differences:
        assert _false_positives(simulation, subtracted.science.key, subtracted.accepted).sum() <= 1


def _false_positives(simulation: Simulation, key: tuple[int, int], found: object) -> NDArray[np.bool_]:
    planted = simulation.planted(key)
    distance = np.hypot(
        np.asarray(found["x"])[:, None] - np.asarray(planted["x"]),
        np.asarray(found["y"])[:, None] - np.asarray(planted["y"]),
    )
    return np.asarray(distance.min(axis=1) > 2)


def test_sky_positions_are_those_of_the_truth(simulation: Simulation) -> None:
    for subtracted in simulation.differences:
        found = subtracted.accepted
        for planted in simulation.planted(subtracted.science.key):
            if planted["snr"] < 20:
                continue
            east = (found["ra"] - planted["ra"]) * math.cos(math.radians(planted["dec"]))
            distance = 3600 * np.hypot(east, found["dec"] - planted["dec"])
            assert distance.min() < 0.15

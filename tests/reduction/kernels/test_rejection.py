"""Each limit rejects what is beyond it, under its own reason, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tololo.facility.difference_limits import REASONS, DifferenceLimits
from tololo.reduction.kernels.rejection import rejection_of

FINE = {
    "detectionScore": 20.0,
    "snr": 18.0,
    "chi2": 1.0,
    "psfNdata": 1000,
    "psfFlux": 100.0,
    "trailLength": 0.0,
    "extendedness": 0.0,
    "offset": 0.2,
    "psfFwhm": 4.0,
    "edgeDistance": 50.0,
    "saturatedDistance": 50.0,
    "goodFraction": 1.0,
    "neighbourShare": 1.0,
    "isDipole": False,
    "sharpness": 0.5,
}
BEYOND = [
    ({"edgeDistance": 3.9}, "edge", {"edge": 3.0}),
    ({"saturatedDistance": 2.0}, "saturated", {"saturated": 2.0}),
    ({"goodFraction": 0.69}, "masked", {"good_light": 0.5}),
    ({"neighbourShare": 0.05}, "flank", {"flank": 0.01}),
    ({"detectionScore": -5.4, "snr": -5.4}, "too faint", {"score": 5.0}),
    ({"snr": 4.4}, "kernel error", {"significance": 4.0}),
    ({"sharpness": 1.3}, "sharper than the PSF", {"sharpness": 1.5}),
    ({"chi2": 2.0}, "not a point source", {"chi2": 100.0}),
    ({"trailLength": 30.0}, "not a point source", {"trail": 40.0}),
    ({"offset": 2.1}, "moved away", {"moved": 0.6}),
]


def rows(*changes):
    """A table of good sources with these changes, one row each."""
    return {name: np.array([{**FINE, **change}[name] for change in changes]) for name in FINE}


def test_a_good_source_has_no_rejection():
    assert rejection_of(rows({}), DifferenceLimits()).tolist() == [""]


@pytest.mark.parametrize(("change", "reason", "wider"), BEYOND)
def test_what_is_beyond_a_limit_is_rejected_until_the_limit_is_moved(change, reason, wider):
    assert rejection_of(rows({}, change), DifferenceLimits()).tolist() == ["", reason]
    assert rejection_of(rows({}, change), replace(DifferenceLimits(), **wider)).tolist() == ["", ""]


def test_a_dipole_and_a_failed_fit_are_rejected_whatever_the_limits():
    table = rows({"isDipole": True}, {"psfFlux": np.nan}, {"chi2": np.nan}, {"offset": np.nan})
    expected = ["dipole", "masked", "masked", "moved away"]
    assert rejection_of(table, DifferenceLimits()).tolist() == expected


def test_the_first_reason_counts_and_all_are_known():
    everything = rows({name: value for change, *_ in BEYOND for name, value in change.items()})
    assert rejection_of(everything, DifferenceLimits()).tolist() == ["edge"]
    assert {reason for _, reason, _ in BEYOND} | {"dipole"} == set(REASONS)


def test_an_extended_source_or_a_trail_may_have_a_bad_chi2():
    table = rows({"chi2": 9.0}, {"chi2": 9.0, "extendedness": 0.4}, {"chi2": 9.0, "trailLength": 2.0})
    assert rejection_of(table, DifferenceLimits()).tolist() == ["not a point source", "", ""]

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from tololo.reduction.injection_recovery import matched, recovery


def truth(n: int = 100) -> Table:
    return Table(
        {
            "x": np.arange(n) * 10.0,
            "y": np.zeros(n),
            "flux": np.full(n, 100.0),
            "snr": np.where(np.arange(n) < n // 2, 4.0, 40.0),
            "inside": np.ones(n, bool),
            "masked": np.zeros(n, bool),
            "saturated": np.zeros(n, bool),
        }
    )


def test_completeness_and_flux_by_signal_to_noise() -> None:
    injected = truth()
    kept = np.r_[0:25, 50:100]
    sources = Table({"x": injected["x"][kept] + 0.3, "y": 0.2 * np.ones(75), "psfFlux": np.full(75, 102.0)})
    bins = recovery(injected, sources, edges=(3.0, 5.0, 10.0, 100.0))
    assert bins["injected"].tolist() == [50, 0, 50]
    assert bins["recovered"].tolist() == [25, 0, 50]
    assert bins["fraction"][[0, 2]].tolist() == [0.5, 1.0]
    assert np.isnan(bins["fraction"][1])
    assert bins["flux_ratio"][2] == pytest.approx(1.02)


def test_what_could_not_be_measured_does_not_count() -> None:
    injected = truth()
    injected["inside"][50], injected["masked"][51], injected["saturated"][52] = False, True, True
    bins = recovery(injected, Table({"x": [], "y": [], "psfFlux": []}), edges=(10.0, 100.0))
    assert (bins["injected"][0], bins["fraction"][0]) == (47, 0.0)


def test_a_source_is_the_injected_one_only_if_each_is_nearest_to_the_other() -> None:
    injected = truth(3)
    sources = Table({"x": [0.9, 0.1, 13.0], "y": [0.0, 0.0, 0.0]})
    assert matched(injected, sources).tolist() == [1, -1, -1]
    assert matched(injected[:0], sources).tolist() == []

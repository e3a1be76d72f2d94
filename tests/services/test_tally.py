from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from tololo.services.tally import compare_with_truth
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.plan import Plan, PlannedExposure
from tololo.simulation.truth import Truth

PLANTED = 6
type Sources = dict[tuple[int, int], Table]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    plan = Plan(
        exposures=(PlannedExposure(20190305), PlannedExposure(20190309, science=True)),
        detectors=(28,),
        shape=(512, 512),
        transients=PLANTED,
        galaxies=40,
        variable_fraction=0.2,
        stars_per_deg2=30000.0,
    )
    return simulate_nights(tmp_path_factory.mktemp("tally") / "nights", plan=plan, seed=2)


def detected(truth: Truth, dx: float, reliability: float = 0.9, rejection: str = "") -> Sources:
    """Every transient and variable of the science visit, found a little beside its place."""
    rows = truth.transients
    visit = int(max(rows["visit"]))
    rows = rows[rows["visit"] == visit]
    n = len(rows)
    table = Table({"x": np.asarray(rows["x"]) + dx, "y": np.asarray(rows["y"])})
    table["reliability"] = np.full(n, reliability)
    table["rejection"] = np.full(n, rejection, dtype="U16")
    return {(visit, 28): table}


def compare(truth: Truth, tables: Sources) -> tuple[int, int, int]:
    figures = compare_with_truth(Path(truth.folder), tables)
    return figures["planted"], figures["recovered"], figures["false_positives"]


def test_all_found(truth: Truth) -> None:
    assert "variable" in set(truth.transients["kind"])
    assert compare(truth, detected(truth, 0.3)) == (PLANTED, PLANTED, 0)


def test_what_lies_too_far_off_is_not_recovered(truth: Truth) -> None:
    assert compare(truth, detected(truth, 0.6)) == (PLANTED, 0, 0)


def test_what_lies_elsewhere_is_a_false_positive(truth: Truth) -> None:
    tables = detected(truth, 0.0)
    ((key, table),) = tables.items()
    table.add_row([-50.0, -50.0, 0.9, ""])
    assert compare(truth, tables) == (PLANTED, PLANTED, 1)
    assert compare(truth, {(key[0], 35): table}) == (PLANTED, 0, len(table))


@pytest.mark.parametrize("doubt", [{"reliability": 0.4}, {"rejection": "dipole"}])
def test_what_does_not_enter_the_apdb_does_not_count(truth: Truth, doubt: dict[str, float | str]) -> None:
    assert compare(truth, detected(truth, 0.0, **doubt)) == (PLANTED, 0, 0)


def test_nothing_found(truth: Truth) -> None:
    assert compare(truth, {}) == (PLANTED, 0, 0)

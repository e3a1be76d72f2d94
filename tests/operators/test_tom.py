from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from tololo.facility.errors import BadInputError
from tololo.operators.tom import forced_points, read_targets


def test_targets_are_read() -> None:
    text = "\n# name ra dec\nSN 2019abc 150.25 -2.5\n\n  AT2019x\t0 90\n"
    assert read_targets(text) == [("SN 2019abc", 150.25, -2.5), ("AT2019x", 0.0, 90.0)]


@pytest.mark.parametrize(
    "line",
    ["SN2019x", "SN2019x 150.1", "150.1 -2.5", "SN2019x 10:20:30 -2:30:00", "SN2019x 360 0", "SN2019x 10 91"],
)
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_targets(f"good 10 10\n\n{line}\n")
    assert line in caught.value.what
    assert caught.value.where == "param targets, line 3"
    assert "name ra dec" in caught.value.remedy


def test_nan_is_no_position() -> None:
    with pytest.raises(BadInputError, match="line 1"):
        read_targets("SN2019x nan 10")


def test_only_forced_points_with_a_flux_and_an_error_are_published() -> None:
    table = Table(
        {
            "kind": ["forced", "forced", "source", "forced", "forced"],
            "visit": [1, 2, 2, 3, 4],
            "psfFlux": [10.0, np.nan, 5.0, -3.0, 4.0],
            "psfFluxErr": [1.0, 1.0, 1.0, 2.0, 0.0],
        }
    )
    points = forced_points(table, 77)
    assert [(int(p["visit"]), p["diaObjectId"]) for p in points] == [(1, 77), (3, 77)]

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lsst.sphgeom import UnitVector3d

from reduction.raw_files import write_raw
from tololo.reduction.formats.raw_exposure import RawExposure, inspect_raw
from tololo.reduction.instrument.pointing import nominal_region, nominal_regions
from tololo.reduction.raw_records import exposure_record


@pytest.mark.parametrize(
    ("ra", "dec"), [(150.119, 2.206), (0.0, 0.0), (359.9, -30.2), (10.0, 89.8), (200.0, -90.0)]
)
def test_all_regions_at_once_are_the_nominal_ones(ra: float, dec: float) -> None:
    regions = nominal_regions(ra, dec)
    assert sorted(regions) == list(range(1, 63))
    for detector, region in regions.items():
        one, other = region.getVertices(), nominal_region(detector, ra, dec).getVertices()
        assert len(one) == len(other)
        for vertex in one:
            nearest = min(distance(vertex, candidate) for candidate in other)
            assert nearest < 1e-12  # radians; a milliarcsecond is 5e-9


def distance(one: UnitVector3d, other: UnitVector3d) -> float:
    return float((one - other).getNorm())


def test_names_that_are_too_long_for_the_registry_are_cut(tmp_path: Path) -> None:
    exposure = inspect_raw(write_raw(tmp_path, 841_001))
    assert isinstance(exposure, RawExposure)
    record = exposure_record(replace(exposure, target="x" * 70, program="", obs_id="o" * 70))
    assert (record["target_name"], record["science_program"], record["obs_id"]) == (
        "x" * 64,
        "unknown",
        "o" * 64,
    )

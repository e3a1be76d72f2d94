"""What sums up is made again when there is more of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType

from tololo.facility.run import RunRequest
from tololo.simulation.drill import FIRST_VISIT, INPUTS, PARENT, detector_ids, drill_request

from .in_process import attempt, execute

TEN = detector_ids(10)
EARLY, LATE = TEN[:4], TEN[4:]


@pytest.fixture
def request_all(ten: Path, tmp_path: Path) -> RunRequest:
    return drill_request(Path(shutil.copytree(ten, tmp_path / "repository")), "all")


def only(request: RunRequest, detectors: list[int]) -> RunRequest:
    return replace(request, where=f"{request.where} AND detector IN ({', '.join(map(str, detectors))})")


def newest_sum(request: RunRequest) -> int:
    with Butler.from_config(request.repository, writeable=True) as butler:
        butler.collections.register(PARENT, CollectionType.CHAINED)
        runs = butler.collections.query(f"{PARENT}/*", collection_types=CollectionType.RUN)
        butler.collections.redefine_chain(PARENT, [*sorted(runs, reverse=True), INPUTS])
        found = butler.get("drill_sum", instrument="DECam", visit=FIRST_VISIT, collections=PARENT)
    return int(found["number"])


def sum_of(detectors: list[int]) -> int:
    return sum(2 * (n + 1) for n in detectors)


@pytest.mark.parametrize("later", ["all", "the others"])
def test_detectors_that_come_later_are_in_the_sum(
    request_all: RunRequest, tmp_path: Path, later: str
) -> None:
    first = attempt(only(request_all, EARLY), tmp_path / "runs")
    assert (first.labels["drillGather"]["done"], newest_sum(request_all)) == (1, sum_of(EARLY))
    second = request_all if later == "all" else only(request_all, LATE)
    ran = execute(second, tmp_path / "runs")
    assert ran.expected == {"drillOne": len(LATE), "drillTwo": len(LATE), "drillGather": 1}
    assert newest_sum(request_all) == sum_of(TEN)
    for request in (request_all, only(request_all, EARLY), only(request_all, LATE)):
        assert execute(request, tmp_path / "runs").expected == {}


def test_what_was_made_without_its_sum_is_found_by_the_next_attempt(
    request_all: RunRequest, tmp_path: Path
) -> None:
    attempt(only(request_all, EARLY), tmp_path / "runs")
    detectors = drill_request(Path(request_all.repository), "detectors", where=request_all.where)
    assert set(execute(detectors, tmp_path / "runs").expected) == {"drillOne", "drillTwo"}
    assert newest_sum(request_all) == sum_of(EARLY)
    assert execute(request_all, tmp_path / "runs").expected == {"drillGather": 1}
    assert newest_sum(request_all) == sum_of(TEN)
    assert execute(request_all, tmp_path / "runs").expected == {}

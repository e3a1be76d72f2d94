"""The sides of the ingest bench ingest the same, and a growing repository is measured night by night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from lsst.daf.butler import Butler

from tololo.simulation.raw_plan import RawNight

from .modules import bench_module

CCDS = (2, 35)


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with bench_module("ingest") as module:
        yield module


def test_the_sides_ingest_the_same(bench: ModuleType, tmp_path: Path) -> None:
    headers = bench.ingest_nights.Headers(CCDS)
    night = RawNight(bench.ingest_nights.FIRST, zeros=1, flats=1, objects=2)
    rows, quality = bench.compare(headers, night, 1, tmp_path, "")
    assert [(row.step, row.side, len(row.runs_cpu_s)) for row in rows] == [
        ("ingest_100x62", "ours", 1),
        ("ingest_100x62", "RawIngestTask's loop", 1),
    ]
    for side in quality.values():
        assert (side["exposures"], side["datasets"], side["same_as_ours"]) == (4, 8, True)
        assert side["cpu_without_start_s"] > 0
    assert bench.measure.ratios(rows)["ingest_100x62"].keys() == {"RawIngestTask's loop"}
    found = bench.ingested(tmp_path / "peer0")
    with Butler.from_config(str(tmp_path / "peer0"), writeable=True) as butler:
        butler.pruneDatasets(butler.query_datasets("raw", "DECam/raw/all")[:1], purge=True, unstore=True)
    assert len(bench.ingested(tmp_path / "peer0")) == len(found) - 1


@pytest.mark.long
def test_a_repository_grows(bench: ModuleType, tmp_path: Path) -> None:
    growth = bench.Growth(bench.ingest_nights.Headers(CCDS), tmp_path, "", "")
    first, last = bench.grow(growth, 2, 1)
    names = ["ingest", "graph bias", "graph flat", "graph visit", "scorecard"]
    assert list(first) == list(last) == names
    assert all(len(costs[name]) == 1 for costs in (first, last) for name in names)
    rows = bench.rows_of(first, last, 2, 1)
    assert {row.step for row in rows} >= {"ingest, night 1-1", "ingest, night 2-2"}
    assert bench.flatness({"x": [(2.0, 1.0)]}, {"x": [(2.3, 3.0)]}) == {
        "x": {"cpu": 1.15, "wall": 3.0, "is_flat": True}
    }
    assert not bench.flatness({"x": [(2.0, 1.0)]}, {"x": [(2.5, 1.0)]})["x"]["is_flat"]
    # The graphs are those of a whole night: 5 visits of 2 detectors and their summaries.
    night = bench.ingest_nights.nights(4)[-1]
    growth.headers.write(tmp_path / "more", RawNight(night, **bench.A_NIGHT))
    growth.hook.ingest_raws(bench.find_raws(tmp_path / "more").exposures)
    for step, expected in (
        ("bias", {"combineBias": 2}),
        ("flat", {"measureFlat": 2, "normalizeFlat": 1, "combineFlat": 2}),
        ("visit", {"calibrateVisit": 10, "summarizeVisit": 5}),
    ):
        assert growth.graph(night, step) == expected
        growth.results.add(night, step)
    assert growth.score(night) == 5

"""What ingest costs, and whether a repository gets slower with its nights: `make bench NAME=ingest`.

A hundred exposures with 62 CCDs are ingested by us and by a peer in turn, each into a repository of its own
with its registry on PostgreSQL. Then one repository grows night by night, and the first nights are compared
with the last ones: ingest, the quantum graphs of bias, flat and visit, and the scorecard. All costs count the
database's processes too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ingest_nights
import measure
from lsst.daf.butler import Butler

from tololo.engine.graph import build_graph
from tololo.facility.collections import RAW_RUN
from tololo.hooks.butler import ButlerHook
from tololo.hooks.scorecard import score_night
from tololo.reduction.formats.raw_search import find_raws
from tololo.services import postgres
from tololo.services.home import Home
from tololo.simulation.raw_plan import RawNight

STEP = "ingest_100x62"
SIDES = {"ours": "ours", "RawIngestTask's loop": "peer"}
HUNDRED = RawNight(ingest_nights.FIRST, zeros=10, flats=10, objects=80)
A_NIGHT = {"zeros": 3, "flats": 2, "objects": 5}
FLAT = 0.2
"""By how much the last nights may cost more than the first ones."""

STEPS = ("bias", "flat", "visit")

type Costs = dict[str, list[tuple[float, float]]]


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Give the URL of the registries in an embedded PostgreSQL."""
    home = Home(folder / "home")
    try:
        yield postgres.start(home).url("butler")
    finally:
        postgres.stop(home)


def compare(
    headers: ingest_nights.Headers, night: RawNight, runs: int, folder: Path, registry_url: str
) -> tuple[list[measure.Row], dict[str, Any]]:
    """Let the sides ingest the same files in turn; each run has a new repository."""
    exposures = headers.write(folder / "raws", night)
    place = Path(__file__).with_name("ingest_sides.py")
    rows = {
        name: measure.Row(STEP, name, f"python bench/{place.name} {side} REPOSITORY FOLDER")
        for name, side in SIDES.items()
    }
    inner: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    content: dict[str, list[tuple[Any, ...]]] = {}
    for number in range(runs):
        for name, side in SIDES.items():
            repository, log = folder / f"{side}{number}", folder / f"{side}{number}.log"
            ingest_nights.make_repository(repository, registry_url, repository.name, field=False)
            command = [sys.executable, str(place), side, str(repository), str(folder / "raws")]
            code, cpu, wall = measure.cost(lambda: measure.run(command, log))  # noqa: B023
            if code:
                raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-2000:]}")
            rows[name].add(cpu, wall)
            inner[name].append(json.loads(log.read_text().splitlines()[-1]))
            content[name] = ingested(repository)
            print(f"{STEP}, run {number + 1}: {name} {cpu:.1f} s of CPU, {wall:.1f} s", flush=True)
    quality = {
        name: {
            "exposures": exposures,
            "datasets": int(inner[name][-1]["datasets"]),
            "same_as_ours": content[name] == content["ours"],
            "cpu_without_start_s": round(statistics.median(run["cpu_s"] for run in inner[name]), 2),
            "wall_without_start_s": round(statistics.median(run["wall_s"] for run in inner[name]), 2),
        }
        for name in SIDES
    }
    return list(rows.values()), quality


def ingested(repository: Path) -> list[tuple[Any, ...]]:
    """Return what the registry knows of the raws, for a comparison."""
    with Butler.from_config(str(repository)) as butler:
        records = {record.id: record for record in butler.query_dimension_records("exposure", limit=None)}
        refs = butler.query_datasets("raw", RAW_RUN, limit=None)
    found = []
    for number, detector in sorted((ref.dataId["exposure"], ref.dataId["detector"]) for ref in refs):
        record = records[number]
        begin = round(record.timespan.begin.mjd * 86400)
        about = (record.day_obs, record.physical_filter, record.observation_type, record.exposure_time, begin)
        found.append((number, detector, *about))
    return found


class Growth:
    """A repository that grows night by night, and what the nights have cost."""

    def __init__(
        self, headers: ingest_nights.Headers, folder: Path, registry_url: str, namespace: str
    ) -> None:
        self.folder = folder
        self.hook: ButlerHook = ingest_nights.make_repository(folder / "repository", registry_url, namespace)
        self.headers = headers
        self.results = ingest_nights.Results(self.hook, folder / "nothing.fits", headers.detectors)

    def add(self, night: int, measured: bool) -> Costs:
        """Ingest a night and enter what its runs make; return what that has cost, if it is asked for."""
        costs: Costs = {}

        def cost(name: str, action: Callable[[], Any]) -> Any:
            result, cpu, wall = total_cost(action)
            costs.setdefault(name, []).append((cpu, wall))
            return result

        files = self.folder / "raws" / str(night)
        self.headers.write(files, RawNight(night, **A_NIGHT))
        cost("ingest", lambda: self.hook.ingest_raws(find_raws(files).exposures))
        shutil.rmtree(files)
        for step in STEPS:
            if measured:
                cost(f"graph {step}", lambda: self.graph(night, step))  # noqa: B023
            self.results.add(night, step)
        if measured:
            cost("scorecard", lambda: self.score(night))
        return costs if measured else {}

    def graph(self, night: int, step: str) -> dict[str, int]:
        """Build the graph of a step as an attempt does."""
        request = ingest_nights.request_of(self.hook.repository, night, step)
        with self.hook.open() as butler:
            expected = build_graph(request, butler, f"{request.parent}/x", self.folder / "graph.qg")
        (self.folder / "graph.qg").unlink()
        return expected

    def score(self, night: int) -> int:
        """Write the scorecard of a night, and return how many visits it has."""
        with self.hook.session(writeable=True) as butler:
            return score_night(butler, night, "drp").visits


def grow(growth: Growth, number: int, sample: int) -> tuple[Costs, Costs]:
    """Let a repository grow to a number of nights; return the costs of the first and last few.

    One more night comes before the first: that one pays for imports and caches.
    """
    first: Costs = {}
    last: Costs = {}
    warm, *nights = ingest_nights.nights(number + 1)
    growth.add(warm, True)
    for count, night in enumerate(nights, 1):
        is_first, is_last = count <= sample, count > number - sample
        costs = growth.add(night, is_first or is_last)
        for name, cost in costs.items():
            (first if is_first else last).setdefault(name, []).extend(cost)
        if costs or count % 10 == 0:
            told = ", ".join(f"{name} {cpu:.2f} s" for name, ((cpu, _),) in costs.items())
            print(f"night {count}: {told}", flush=True)
    return first, last


def total_cost[T](action: Callable[[], T]) -> tuple[T, float, float]:
    """Do something; return its result, the processor time with the database's, and the wall time."""
    own = 0.0

    def timed() -> T:
        nonlocal own
        before = time.process_time()
        result = action()
        own = time.process_time() - before
        return result

    result, others, wall = measure.cost(timed)
    return result, own + others, wall


def rows_of(first: Costs, last: Costs, number: int, sample: int) -> list[measure.Row]:
    """Return the rows of the first and last nights."""
    rows = []
    for name in first:
        for label, costs in ((f"night 1-{sample}", first), (f"night {number - sample + 1}-{number}", last)):
            row = measure.Row(f"{name}, {label}", "ours", "in the bench's process, database included")
            for cpu, wall in costs[name]:
                row.add(cpu, wall)
            rows.append(row)
    return rows


def flatness(first: Costs, last: Costs) -> dict[str, dict[str, Any]]:
    """Return what the last nights cost over what the first ones did, by step."""
    found: dict[str, dict[str, Any]] = {}
    for name in first:
        medians = [
            [statistics.median(cost[which] for cost in costs[name]) for costs in (first, last)]
            for which in (0, 1)
        ]
        cpu, wall = (round(after / before, 2) if before else None for before, after in medians)
        found[name] = {"cpu": cpu, "wall": wall, "is_flat": cpu is not None and cpu <= 1 + FLAT}
    return found


def main() -> int:
    """Measure, print and write var/bench/ingest.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    parser.add_argument("--nights", type=int, default=100, help="to how many nights the repository grows")
    parser.add_argument("--sample", type=int, default=5, help="how many first and last nights are compared")
    choice = parser.parse_args()
    facts = measure.machine()
    measure.adopt_orphans()
    with measure.scratch() as folder, server(folder) as registry_url:
        headers = ingest_nights.Headers()
        rows, sides = compare(headers, HUNDRED, choice.runs, folder / "sides", registry_url)
        growth = Growth(headers, folder / "growth", registry_url, "growth")
        first, last = grow(growth, choice.nights, choice.sample)
    rows += rows_of(first, last, choice.nights, choice.sample)
    flat = flatness(first, last)
    ratios = measure.ratios(rows)
    quality = {
        STEP: sides,
        f"night_{choice.nights}_over_night_1": flat,
        "nights": f"{choice.nights} of {A_NIGHT} exposures with {len(headers.detectors)} detectors, with "
        f"what runs leave; medians of the first and last {choice.sample}, processor time with the database's",
        "registry": "PostgreSQL, embedded",
        "peer": "obs_base is not on PyPI; the loop of its RawIngestTask over the same packages",
    }
    path = measure.write("ingest", facts, rows, ratios, quality)
    print(measure.table(rows, ratios))
    for name, found in flat.items():
        print(f"{name}: the last nights cost {found['cpu']} times the first (wall {found['wall']})")
    print(path)
    good = all(side["same_as_ours"] for side in sides.values())
    if not good:
        print("the sides have not ingested the same: see `quality`", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

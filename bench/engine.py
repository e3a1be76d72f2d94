"""What it costs to run a quantum, here and with the field's own tools: `make bench NAME=engine`.

The quanta are those of the drill (`tololo.simulation.drill`): one line of arithmetic each, so that all the
rest is the engine's. The sides take turns, each on a fresh copy of the same repository, and every number that
they write is compared with the truth.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import yaml

from tololo.engine.attempt import ENDED
from tololo.engine.client import is_up, stop_server
from tololo.facility.configuration import INCLUDE
from tololo.facility.run import RunRequest
from tololo.hooks.bps import BpsHook
from tololo.simulation.drill import INPUTS, SUBSETS, drill_request, make_drill_repository, wrong_numbers
from tololo.simulation.drill_faults import executions

PATIENCE = 1800.0
"""Seconds after which a side is given up."""

OURS = "ours"
CORES = 2
DEFINITION = (
    "(wall time - sum of the tasks' own time / workers) / quanta, from the first line of the first quantum "
    "to the last line of the run's record (quanta, aggregation into the registry, chain) or the end of the "
    "command; what comes before is first_quantum_s, from the request or the start of the command. A task's "
    "own time is from the first to the last line of its runQuantum, reading and writing included; workers: 2 "
    "(pipetask -j 1: 1). overhead_of_the_whole_run_s: the same from the request on, so with the start; "
    "overhead_while_running_s: from the first quantum's first line to the last one's last"
)


@dataclass
class Toy:
    """A drill to be run many times.

    ``subset`` and ``quanta`` say what is run; ``pristine`` is the repository that each run gets a copy of.
    """

    step: str
    subset: str
    quanta: int
    detectors: int
    visits: int
    pristine: Path

    def make(self) -> None:
        """Make the repository."""
        make_drill_repository(self.pristine, self.detectors, self.visits)

    @contextmanager
    def fresh(self, folder: Path) -> Iterator[RunRequest]:
        """Give the request of a run on a repository of its own in a folder, and tidy up behind it."""
        repository = Path(shutil.copytree(self.pristine, folder / "repository"))
        try:
            yield drill_request(
                repository, self.subset, journal=folder / "journal", site="local", cores=CORES
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Side:
    """One way to run it: its name, how, with how many workers, and what was seen in its runs."""

    name: str
    command: str
    workers: int
    run: Callable[[RunRequest, Path], str]
    first_s: list[float] = field(default_factory=list)
    overhead_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    running_s: list[float] = field(default_factory=list)
    executed: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failure: str = ""


def ours(request: RunRequest, folder: Path) -> str:
    """Run as the operator does, and return the collection of the results."""
    attempt = BpsHook(folder / "runs").attach_or_start(request)
    deadline = time.monotonic() + PATIENCE
    while (state := attempt.state).phase not in ENDED:
        dead = not attempt.is_alive() and attempt.state.phase not in ENDED
        if dead or time.monotonic() > deadline:
            tail = "\n".join(attempt.log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"{attempt.folder} is {'dead' if dead else 'still'} in {state.phase}:\n{tail}")
        time.sleep(0.02)
    if state.phase != "done":
        raise RuntimeError(f"{attempt.folder} ended as {state.phase}: {state.error}")
    return request.parent


def ours_by_command(request: RunRequest, folder: Path) -> str:
    """Run by ``bps submit`` as any user of bps does, and wait for the end of what it has submitted."""
    from lsst.ctrl.bps import WmsStates

    from tololo.engine import LocalService

    site = {"includeConfigs": [str(INCLUDE / "pipelines" / "bps" / "local.yaml")], "computeSite": "local"}
    bps_submit(request, folder, site)
    began, service = time.monotonic(), LocalService({})
    ended = (WmsStates.SUCCEEDED, WmsStates.FAILED, WmsStates.DELETED, WmsStates.HELD)
    while (status := service.get_status(str(folder / "submit")))[0] not in ended:
        if time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"{folder}: {status}")
        time.sleep(0.02)
    return "bench/run"


def parsl(request: RunRequest, folder: Path) -> str:
    """Run by ``bps submit`` on Parsl's local site, one job for each quantum."""
    bps_submit(
        request,
        folder,
        {
            "wmsServiceClass": "lsst.ctrl.bps.parsl.ParslService",
            "computeSite": "local",
            "site": {"local": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": CORES}},
            # The default, 16 processes for the final job, would be unkind on a small machine.
            "finalJob": {"requestCpus": 1},
        },
    )
    return "bench/run"


def bps_submit(request: RunRequest, folder: Path, site: dict[str, Any]) -> None:
    """Let ``bps submit`` build the graph of a request and run it."""
    overrides = " ".join(f"-c {key}={value}" for key, value in request.config.items())
    config = {
        **site,
        "project": "bench",
        "campaign": "engine",
        "submitPath": str(folder / "submit"),
        "pipelineYaml": request.pipeline,
        "extraQgraphOptions": overrides,
        "payload": {
            "payloadName": "drill",
            "butlerConfig": request.repository,
            "inCollection": INPUTS,
            "output": "bench/chain",
            "outputRun": "bench/run",
            "dataQuery": request.where,
        },
    }
    (folder / "bps.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    call(["bps", "submit", str(folder / "bps.yaml")], folder)


def pipetask(processes: int) -> Callable[[RunRequest, Path], str]:
    """Give the side of ``pipetask run`` with so many processes."""

    def run(request: RunRequest, folder: Path) -> str:
        command = ["pipetask", "run", "-b", request.repository, "-p", request.pipeline, "-i", INPUTS]
        command += ["--output-run", "bench/run", "-d", request.where, "--register-dataset-types"]
        command += ["-j", str(processes)]
        for key, value in request.config.items():
            command += ["-c", f"{key}={value}"]
        call(command, folder)
        return "bench/run"

    return run


def call(command: list[str], folder: Path) -> None:
    """Run a command line of this installation in a folder; end all that it started if it takes too long."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PATH": path},
        )
        try:
            code = process.wait(PATIENCE)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        tail = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{tail}")


def sides(parsl_too: bool) -> list[Side]:
    """Return those that take turns."""
    options = (
        "-b REPO -p drill.yaml#SUBSET -i drill/numbers --output-run RUN -d WHERE --register-dataset-types"
    )
    found = [
        Side(OURS, "BpsHook.attach_or_start(RunRequest(site='local')), followed to its end", CORES, ours),
        Side("ours by bps submit", "bps submit (local.yaml), followed to its end", CORES, ours_by_command),
        Side("pipetask -j 1", f"pipetask run {options} -j 1", 1, pipetask(1)),
        Side("pipetask -j 2", f"pipetask run {options} -j 2", 2, pipetask(2)),
    ]
    if parsl_too:
        command = "bps submit (ParslService, lsst.ctrl.bps.parsl.sites.Local, 2 cores, one job a quantum)"
        found.append(Side("bps+Parsl", command, CORES, parsl))
    return found


def compare(toy: Toy, sides: list[Side], runs: int, folder: Path) -> list[measure.Row]:
    """Let the sides run a toy in turn; a peer that fails is told and left out from then on."""
    rows = {side.name: measure.Row(toy.step, side.name, side.command) for side in sides}
    for number in range(runs):
        for side in sides:
            if side.failure:
                continue
            try:
                cpu, wall = observe(toy, side, folder / f"{side.name.replace(' ', '_')}-{number}")
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                if side.name == OURS:
                    raise
                side.failure = f"{type(error).__name__}: {error}"
                print(f"{toy.step}, run {number + 1}: {side.name} FAILED: {error}", flush=True)
                continue
            rows[side.name].add(cpu, wall)
            print(f"{toy.step}, run {number + 1}: {side.name} {wall:.2f} s", flush=True)
    return [rows[side.name] for side in sides if not side.failure]


def observe(toy: Toy, side: Side, place: Path) -> tuple[float, float]:
    """Run a toy once, note what was seen, and return processor and wall time."""
    with toy.fresh(place) as request:
        started = time.time()
        collection, cpu, wall = measure.cost(lambda: side.run(request, place))
        began, ended = executions(place / "journal"), executions(place / "journal", "ended")
        if not ended:
            raise RuntimeError(f"{side.name} has not done a single quantum")
        own = sum(e.time for e in ended) - sum(e.time for e in began)
        running = max(e.time for e in ended) - began[0].time
        side.first_s.append(began[0].time - started)
        side.whole_s.append((wall - own / side.workers) / toy.quanta)
        side.overhead_s.append(side.whole_s[-1] - side.first_s[-1] / toy.quanta)
        side.running_s.append((running - own / side.workers) / toy.quanta)
        side.executed.append(len(began))
        side.wrong += wrong_numbers(Path(request.repository), toy.subset, collection)
    return cpu, wall


def first_quantum(toy: Toy, cold: bool, runs: int, folder: Path) -> measure.Row:
    """Measure from the operator's start to the first line of the first quantum's task."""
    step = f"first quantum, {'cold' if cold else 'warm'}"
    row = measure.Row(step, OURS, "BpsHook.attach_or_start to the first line of runQuantum")
    for number in range(runs):
        if cold:
            stop_server()
            wait_until(lambda: not is_up())
        else:
            settle()
        place = folder / f"first-{number}"
        with toy.fresh(place) as request:
            journal, hook = place / "journal", BpsHook(place / "runs")

            def start() -> None:
                hook.attach_or_start(request)  # noqa: B023
                wait_until(lambda: journal.exists() and journal.stat().st_size > 0)  # noqa: B023

            began = time.time()
            _, cpu, _ = measure.cost(start)
            row.add(cpu, executions(journal)[0].time - began)
            ours(request, place)
        print(f"{step}, run {number + 1}: {row.runs_wall_s[-1]:.2f} s", flush=True)
    return row


def settle() -> None:
    """Wait until the server, which goes on to import when nobody asks it anything, is at rest."""
    from tololo.engine.client import ensure_server

    ensure_server()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        _, cpu, wall = measure.cost(lambda: time.sleep(1.0))
        if cpu < 0.1 * wall:
            return


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for something."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError("it does not happen")
        time.sleep(0.002)


def summary(toy: Toy, sides: list[Side]) -> dict[str, Any]:
    """Return what makes the comparison fair: by side, what was done and whether it is right."""
    return {
        side.name: {
            "quanta": toy.quanta,
            "executed": side.executed,
            "wrong_outputs": len(side.wrong),
            "overhead_per_quantum_s": round(statistics.median(side.overhead_s), 4),
            "overhead_of_the_whole_run_s": round(statistics.median(side.whole_s), 4),
            "overhead_while_running_s": round(statistics.median(side.running_s), 4),
            "first_quantum_s": round(statistics.median(side.first_s), 2),
        }
        for side in sides
        if not side.failure
    }


def main() -> int:
    """Measure, print and write var/bench/engine.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    parser.add_argument("--without-parsl", action="store_true", help="leave the slowest peer out")
    choice = parser.parse_args()
    results = os.environ.get("TOLOLO_HOME") or str(measure.ROOT / "var")
    facts = measure.machine()
    measure.adopt_orphans()
    with measure.scratch() as folder:
        os.environ["TOLOLO_HOME"] = str(folder / "home")
        small = Toy("16 quanta", "one", 16, 16, 1, folder / "small")
        large = Toy("500 quanta", "all", 500, 62, 4, folder / "large")
        for toy in (small, large):
            toy.make()
        try:
            rows = [first_quantum(small, True, choice.runs, folder)]
            rows.append(first_quantum(small, False, choice.runs, folder))
            few = sides(parsl_too=not choice.without_parsl)
            rows += compare(small, few, choice.runs, folder)
            many = [side for side in sides(parsl_too=False) if side.name in (OURS, "pipetask -j 1")]
            rows += compare(large, many, choice.runs, folder)
        finally:
            stop_server()
            os.environ["TOLOLO_HOME"] = results
    quality: dict[str, Any] = {
        small.step: summary(small, few),
        large.step: summary(large, many),
        "overhead_definition": DEFINITION,
        "workload": {
            toy.step: f"{toy.visits} x {toy.detectors} detectors, {', '.join(SUBSETS[toy.subset])}"
            for toy in (small, large)
        },
        "left_out": "500 quanta on bps+Parsl and pipetask -j 2: they would take an hour",
        "failed_peers": {side.name: side.failure for side in (*few, *many) if side.failure},
    }
    ratios = measure.ratios(rows, by_wall=True)
    path = measure.write("engine", facts, rows, ratios, quality)
    print(measure.table(rows, ratios))
    for step in (small.step, large.step):
        for name, found in quality[step].items():
            print(
                f"{step}, {name}: {found['overhead_per_quantum_s']:.3f} s of overhead per quantum, "
                f"{found['overhead_of_the_whole_run_s']:.3f} s with the start"
            )
    print(path)
    good = all(
        not found["wrong_outputs"] and set(found["executed"]) == {found["quanta"]}
        for step in (small.step, large.step)
        for found in quality[step].values()
    )
    if not good:
        print("not every side did every quantum once and right: see `quality`", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

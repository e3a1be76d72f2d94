"""Kill -9, at any time, of anything that takes part in a run of a hundred quanta: it ends complete.

``TOLOLO_SEED`` repeats a campaign that failed; its output names the seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from conftest import processes_below
from tololo.engine import client
from tololo.engine.attempt import ENDED, Attempt
from tololo.engine.local.journal import Journal
from tololo.engine.local.workflow import FINAL
from tololo.facility.run import RunOutcome, RunRequest
from tololo.simulation.drill import drill_request, make_drill_repository, wrong_numbers
from tololo.simulation.drill_faults import executions, write_faults

from .drives import runs_of, still_running, submissions

VICTIMS = ("caller", "driver", "runner", "worker", "server", "all")
MOMENTS = ("starting", "building", "built", "submitted", "quanta", "final", "judging")
"""Phases of the attempt in their order; ``quanta`` and ``final`` are parts of ``submitted``."""


@dataclass(frozen=True)
class Kill:
    """Who is to be killed when; at the moment ``quanta`` after so many of them have begun."""

    victim: str
    moment: str
    quanta: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return MOMENTS.index(self.moment), self.quanta


@dataclass
class Campaign:
    """One run of which things are killed."""

    home: Path
    folder: Path
    random: random.Random
    quanta: int
    caller: subprocess.Popen[bytes] | None = None
    killed: list[Kill] = field(default_factory=list)

    @property
    def attempt(self) -> Attempt:
        return Attempt(self.folder / "runs" / "1")

    @property
    def request(self) -> RunRequest:
        return RunRequest.read(self.folder / "request.json")

    @classmethod
    def prepare(
        cls,
        home: Path,
        folder: Path,
        chance: random.Random,
        detectors: int = 25,
        subset: str = "detectors",
        **faults: object,
    ) -> Campaign:
        folder.mkdir()
        repository = folder / "repository"
        make_drill_repository(repository, detectors, visits=2)
        file = write_faults(folder / "faults", **({"sleep": {"*": 0.05}} | faults))
        request = drill_request(repository, subset, file, folder / "executions", site="local")
        request.write(folder / "request.json")
        return cls(home, folder, chance, 4 * detectors)

    def run(self, kills: list[Kill]) -> list[Kill]:
        """Run to the end, with one kill after another; return those whose moment passed before they came."""
        left, missed = sorted(kills, key=lambda kill: kill.order), []
        deadline = time.monotonic() + 600
        while (phase := self.attempt.state.phase) not in ENDED:
            assert time.monotonic() < deadline, f"it does not end: {self.attempt.state}"
            if self.caller is None or self.caller.poll() is not None:
                self._call()
            if left and MOMENTS.index(phase) > MOMENTS.index(left[0].moment) and phase != "submitted":
                missed.append(left.pop(0))
            elif left and self._has_come(left[0], phase) and self._strike(left[0].victim):
                self.killed.append(left.pop(0))
            time.sleep(0.002)
        assert self.caller is not None
        self.caller.wait(60)
        return missed + left

    def check(self) -> None:
        """Complete, each dataset once, submitted once, and nothing runs any more."""
        request, attempt = self.request, self.attempt
        repository = Path(request.repository)
        assert (attempt.state.phase, attempt.state.error) == ("done", {}), attempt.log.read_text()[-2000:]
        outcome = RunOutcome(**attempt.state.outcome)
        assert (outcome.total("done"), outcome.reasons) == (self.quanta, [])
        assert wrong_numbers(repository, "detectors", "*") == []
        assert wrong_numbers(repository, "detectors", request.parent) == []
        with Butler.from_config(str(repository)) as butler:
            refs = set(butler.registry.queryDatasets(..., collections=runs_of(request)))
        counts = Counter(ref.datasetType.name for ref in refs)
        for label in ("drillOne", "drillTwo"):
            assert counts[f"{label}_metadata"] == self.quanta // 2
            # Killed between its metadata, which says that it is done, and its log, a quantum leaves none.
            assert 0 <= self.quanta // 2 - counts[f"{label}_log"] <= len(self.killed)
        assert [path.name for path in (self.folder / "runs").iterdir()] == ["1"]
        assert submissions(self.folder / "runs") == 1
        assert runs_of(request) == [outcome.run]
        assert not still_running(self.folder / "runs")
        # What was cut off runs again, and nothing else: two jobs at a time, of two quanta each.
        again = len(executions(self.folder / "executions")) - self.quanta
        assert 0 <= again <= 4 * len(self.killed)

    def _call(self) -> None:
        words = [sys.executable, str(Path(__file__).with_name("caller.py"))]
        words += [str(self.folder / "runs"), str(self.folder / "request.json")]
        with open(self.folder / "caller.log", "ab") as log:
            self.caller = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ)

    def _has_come(self, kill: Kill, phase: str) -> bool:
        if kill.moment == "quanta":
            return len(executions(self.folder / "executions")) > kill.quanta
        if kill.moment == "final":
            started = [event for event in Journal(self.attempt.submit_path) if event["event"] == "start"]
            return bool(started) and started[-1]["job"] == FINAL
        return phase == kill.moment

    def _strike(self, victim: str) -> bool:
        """Kill -9; false if there is nobody to be killed now."""
        time.sleep(self.random.choice((0.0, self.random.uniform(0.0, 0.3))))
        pids = self._pids(victim)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim == "all":
            while left := processes_below(str(self.folder.parent)):
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        return bool(pids)

    def _pids(self, victim: str) -> list[int]:
        match victim:
            case "caller":
                assert self.caller is not None
                return [self.caller.pid] if self.caller.poll() is None else []
            case "driver":
                return [self.attempt.state.pid] if self.attempt.is_alive() else []
            case "runner":
                return self._runners()
            case "worker":
                children = [pid for runner in self._runners() for pid in children_of(runner)]
                return self.random.sample(children, 1) if children else []
            case "server":
                return server_pids()
            case _:
                return processes_below(str(self.folder.parent))

    def _runners(self) -> list[int]:
        events = [event for event in Journal(self.attempt.submit_path) if event["event"] == "runner"]
        return [event["pid"] for event in events[-1:] if still_running(self.folder / "runs")]


def children_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def server_pids() -> list[int]:
    """The process that listens, as the kernel knows it."""
    with contextlib.suppress(OSError), client._connected(1.0) as connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return [struct.unpack("3i", credentials)[0]]
    return []


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with an engine server of its own."""
    home = tmp_path / "home" / "tololo"
    monkeypatch.setenv("TOLOLO_HOME", str(home))
    yield home
    client.stop_server()


@pytest.fixture
def chance() -> random.Random:
    seed = os.environ.get("TOLOLO_SEED") or str(time.time_ns())
    print(f"TOLOLO_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    return random.Random(seed)


def plan(chance: random.Random, *victims: str, quanta: int = 90) -> list[Kill]:
    """Kill each while the quanta run."""
    return [Kill(victim, "quanta", chance.randrange(quanta)) for victim in victims]


@pytest.mark.long
def test_a_run_of_which_everything_is_killed(home: Path, tmp_path: Path, chance: random.Random) -> None:
    kills = plan(chance, *VICTIMS)
    kills.append(Kill(chance.choice(("caller", "driver", "all")), chance.choice(MOMENTS)))
    print(kills)  # noqa: T201
    campaign = Campaign.prepare(home, tmp_path / "run", chance)
    missed = campaign.run(kills)
    campaign.check()
    assert len(missed) <= 2, missed


def test_a_failure_stays_one_whatever_is_killed(home: Path, tmp_path: Path, chance: random.Random) -> None:
    """What waits for all detectors of a visit is not run, and what failed is not run again."""
    campaign = Campaign.prepare(home, tmp_path / "run", chance, 6, "all", **{"raise": [3]})
    campaign.run(plan(chance, "runner", "driver", "runner", quanta=20))
    state = campaign.attempt.state
    assert state.phase == "done", campaign.attempt.log.read_text()[-2000:]
    outcome = RunOutcome(**state.outcome)
    counts = {label: (one["done"], one["failed_permanent"]) for label, one in outcome.labels.items()}
    assert counts == {"drillOne": (10, 2), "drillTwo": (10, 2), "drillGather": (0, 2)}
    wrong = wrong_numbers(Path(campaign.request.repository), "all", "*")
    assert len(wrong) == 6
    assert all("found nothing" in line for line in wrong)
    assert submissions(campaign.folder / "runs") == 1
    tries = [execution for execution in executions(campaign.folder / "executions") if execution.detector == 3]
    assert 2 <= len(tries) <= 2 + len(campaign.killed)


@pytest.mark.long
def test_twenty_kills_at_random_points(home: Path, tmp_path: Path, chance: random.Random) -> None:
    kills = plan(chance, *chance.choices(VICTIMS, k=12))
    kills += [Kill(chance.choice(VICTIMS), chance.choice(MOMENTS)) for _ in range(8)]
    chance.shuffle(kills)
    number = 0
    killed: list[Kill] = []
    while len(killed) < 20:
        number += 1
        print(f"run {number}: {kills[:5]}")  # noqa: T201
        campaign = Campaign.prepare(home, tmp_path / f"run{number}", chance)
        missed = campaign.run(kills[:5])
        campaign.check()
        killed += campaign.killed
        kills = [*kills[5:], *plan(chance, *(kill.victim for kill in missed))]


FEASIBLE = [
    (victim, moment)
    for victim in VICTIMS
    for moment in MOMENTS
    if victim not in ("runner", "worker") or moment in ("quanta", "final")
]


@pytest.mark.long
@pytest.mark.parametrize(("victim", "moment"), FEASIBLE)
def test_each_of_them_at_each_moment(
    home: Path, tmp_path: Path, chance: random.Random, victim: str, moment: str
) -> None:
    campaign = Campaign.prepare(home, tmp_path / "run", chance, detectors=5)
    campaign.run([Kill(victim, moment, chance.randrange(15))])
    campaign.check()

"""Whole runs through bps on a real repository, and what becomes of them when their driver dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from conftest import BAD_VISIT, DETECTOR, NIGHT, SPARE, Reduced, instcal_request, wait_for
from tololo.engine.attempt import ENDED, LIVE, Attempt, AttemptState, process_started
from tololo.engine.driver import drive
from tololo.engine.local import runner
from tololo.engine.local.journal import Journal
from tololo.engine.locks import lock_for, ticket
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.locks import LockOwner
from tololo.facility.run import RunOutcome, RunRequest
from tololo.hooks.bps import BpsHook
from tololo.hooks.butler import ButlerHook
from tololo.simulation.drill import PARENT, drill_request, make_drill_repository, wrong_numbers
from tololo.simulation.drill_faults import executions, write_faults

from .drives import STEPS, die_at, drive_in_child, ended_by, runs_of, still_running, submissions
from .local.jobs import until

OWNER = LockOwner("a_dag", "a_run", "lock", 1, "here")
PRODUCTS = ("visit_image", "single_visit_star", "detector_summary", "visit_summary")


def attempt_of(folder: Path, request: RunRequest) -> Attempt:
    attempt = Attempt(folder / "1")
    attempt.create(request)
    return attempt


def all_datasets(repository: Path) -> dict[str, int]:
    """Every dataset of the registry by type, in whatever collection: a doubled one counts twice."""
    counts: dict[str, int] = {}
    with Butler.from_config(str(repository)) as butler:
        for ref in set(butler.registry.queryDatasets(..., collections=...)):
            counts[ref.datasetType.name] = counts.get(ref.datasetType.name, 0) + 1
    return counts


def session_of(pid: int) -> list[int]:
    """Processes of the session that a driver leads, as the kernel lists them."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == pid and fields[0] != "Z":
            members.append(int(path.parent.name))
    return members


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("drill") / "repository"
    make_drill_repository(repository, detectors=3)
    return repository


@pytest.fixture
def repository(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "repository"))


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    return write_faults(tmp_path / "faults")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "executions"


@pytest.fixture
def request_(repository: Path, faults: Path, journal: Path) -> RunRequest:
    """The drill of three detectors with two tasks each."""
    return drill_request(repository, "detectors", faults, journal, site="local")


@pytest.fixture
def hook(tmp_path: Path) -> BpsHook:
    return BpsHook(tmp_path / "runs")


def check_complete(request: RunRequest, folder: Path, attempts: int = 1) -> RunOutcome:
    """All is there, once, of one submission; nothing runs any more."""
    repository = Path(request.repository)
    assert wrong_numbers(repository, request.step, "*") == []
    assert wrong_numbers(repository, request.step, request.parent) == []
    assert sorted(path.name for path in folder.iterdir()) == [str(n + 1) for n in range(attempts)]
    assert not still_running(folder)
    state = Attempt(folder / str(attempts)).state
    assert (state.phase, state.error) == ("done", {})
    outcome = RunOutcome(**state.outcome)
    assert (outcome.total("done"), outcome.reasons) == (outcome.total("expected"), [])
    assert state.finished == state.expected
    return outcome


# A night with a bad exposure.


def test_attaching_right_after_the_start_finds_the_same_attempt(reduced: Reduced) -> None:
    assert reduced.attached[0] == reduced.attached[1]
    assert [path.name for path in reduced.attached[0].parent.iterdir()] == ["1"]


def test_a_night_with_a_bad_exposure(reduced: Reduced) -> None:
    state = reduced.state
    assert (state.phase, state.error, state.drivers) == ("done", {}, 1)
    assert state.expected == {"calibrateInstcal": 3, "summarizeVisit": 3}
    assert state.finished == {"calibrateInstcal": 2, "summarizeVisit": 2}
    assert state.failed == {"calibrateInstcal": 1, "summarizeVisit": 0}
    outcome = RunOutcome(**state.outcome)
    counts = {"expected": 3, "done": 2, "failed_permanent": 1, "failed_retriable": 0, "no_data": 0}
    assert outcome.labels == {"calibrateInstcal": counts, "summarizeVisit": counts}
    assert outcome.seconds > 0
    first, second = sorted(outcome.reasons)
    assert f"visit={BAD_VISIT}" in first
    assert f"detector={DETECTOR}" in first
    assert "BadInputError: The astrometry" in first
    assert f"visit={BAD_VISIT}): not run, because what it needs failed" in second
    outcome.check(0.5)
    with pytest.raises(BadInputError, match=rf"4 of 6 quanta are good, 100% are needed: .*visit={BAD_VISIT}"):
        outcome.check(1.0)


def test_what_is_done_is_in_the_chain(reduced: Reduced) -> None:
    run = RunOutcome(**reduced.state.outcome).run
    chain = f"{NIGHT}/instcal"
    assert run.startswith(f"{chain}/nightly_decam/instcal/2")
    counts = ButlerHook(reduced.repository).counts(chain)
    assert {kind: counts[kind] for kind in PRODUCTS} == dict.fromkeys(PRODUCTS, 2)
    with Butler.from_config(str(reduced.repository)) as butler:
        children = butler.collections.get_info(chain).children
        refs = butler.query_datasets("visit_summary", chain)
        rows = [butler.get(ref) for ref in refs]
    assert children == (run, "refcats", "skymaps", f"{chain}/raw")
    assert {ref.run for ref in refs} == {run}
    assert [table["detector"].tolist() for table in rows] == [[DETECTOR]] * 2
    assert [table["day_obs"].tolist() for table in rows] == [[NIGHT]] * 2


def test_what_failed_permanently_is_left_out_and_what_is_done_counts_for_the_threshold(
    reduced: Reduced, tmp_path: Path
) -> None:
    repository = reduced.copy(tmp_path)
    before = all_datasets(repository)
    state = drive(attempt_of(tmp_path, instcal_request(repository, NIGHT)))
    outcome = RunOutcome(**state.outcome)
    assert (state.phase, state.expected) == ("done", {})
    assert (outcome.total("failed_permanent"), outcome.total("done"), outcome.earlier) == (2, 4, 4)
    outcome.check(0.5)
    with pytest.raises(BadInputError, match="4 of 6 quanta"):
        outcome.check(1.0)
    after = all_datasets(repository)
    assert {kind: after[kind] for kind in PRODUCTS} == {kind: before[kind] for kind in PRODUCTS}


@pytest.mark.parametrize("site", ["local", "parsl"])
def test_a_night_on_either_site(own_repository: Path, hook: BpsHook, site: str) -> None:
    attempt = hook.attach_or_start(instcal_request(own_repository, SPARE, site=site))
    state = wait_for(attempt, ENDED)
    outcome = RunOutcome(**state.outcome)
    assert (state.phase, outcome.total("expected"), outcome.reasons) == ("done", 2, [])
    outcome.check(1.0)
    once = dict.fromkeys(PRODUCTS, 1)
    for counts in (all_datasets(own_repository), ButlerHook(own_repository).counts(f"{SPARE}/instcal")):
        assert {kind: counts.get(kind) for kind in PRODUCTS} == once
    until(lambda: session_of(state.pid) == [], "the driver's processes to end")
    again = hook.attach_or_start(instcal_request(own_repository, SPARE, site=site))
    state = wait_for(again, ENDED)
    assert (again.folder.name, state.phase, state.expected) == ("2", "done", {})
    assert RunOutcome(**state.outcome).earlier == 2


# Wrong requests.

WRONG = {
    "nothing matches": (
        {"where": "instrument = 'DECam' AND visit = 1"},
        "empty",
        "visit = 1",
        "visit = 1",
    ),
    "query": ({"where": "instrument = 'DECam' AND visit ="}, "error", "data query", "visit ="),
    "name in query": ({"where": "vizit = 3"}, "error", "vizit", "vizit = 3"),
    "pipeline": ({"pipeline": "/nowhere/p.yaml#x"}, "error", "pipeline file is not there", "/nowhere/p.yaml"),
    "input": ({"inputs": ["refcats", "nowhere"]}, "error", "nowhere", "refcats, nowhere"),
    "site": ({"site": "moon"}, "error", "no compute site 'moon'", "moon"),
    "label": ({"config": {"nosuch:x": "1"}}, "error", "'nosuch'", "nightly_decam.yaml"),
    "field": ({"config": {"calibrateInstcal:nosuch": "1"}}, "error", "nosuch", "nightly_decam.yaml"),
    "subset": ({"pipeline": "#nosuch"}, "error", "nosuch", "nightly_decam.yaml"),
    "parent": ({"parent": "a b/instcal"}, "error", "'a b'", "collection name"),
    "repository": ({"repository": "/nowhere"}, "error", "/nowhere", "driver.log"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_message_for_a_wrong_request(ingested: Path, tmp_path: Path, wrong: str) -> None:
    changes, phase, what, where = WRONG[wrong]
    right = instcal_request(ingested, SPARE)
    if str(changes.get("pipeline")).startswith("#"):
        changes = {"pipeline": right.pipeline.partition("#")[0] + str(changes["pipeline"])}
    before = all_datasets(ingested), ButlerHook(ingested).collections()
    attempt = attempt_of(tmp_path, replace(right, **changes))
    state = drive(attempt)
    assert attempt.state == state
    assert (state.phase, state.outcome) == (phase, {})
    assert what in state.error["what"]
    assert where in state.error["where"]
    assert state.error["remedy"]
    assert (all_datasets(ingested), ButlerHook(ingested).collections()) == before
    assert not attempt.submit_path.exists()


@pytest.mark.parametrize("letter", [" ", "'", "{", "$"])
def test_a_path_that_bps_cannot_write_is_refused_before_anything_is_done(
    request_: RunRequest, tmp_path: Path, letter: str
) -> None:
    folder = tmp_path / f"a{letter}b" / "1"
    attempt = Attempt(folder)
    attempt.create(request_)
    state = drive(attempt)
    assert (state.phase, state.run) == ("error", "")
    assert repr(letter) in state.error["what"]
    assert str(folder) in state.error["where"]
    assert "TOLOLO_HOME" in state.error["remedy"]


def test_a_dry_run_builds_the_graph_and_stops(ingested: Path, tmp_path: Path) -> None:
    before = all_datasets(ingested), ButlerHook(ingested).collections()
    attempt = attempt_of(tmp_path, instcal_request(ingested, SPARE, dry_run=True))
    state = drive(attempt)
    assert (state.phase, state.expected) == ("planned", {"calibrateInstcal": 1, "summarizeVisit": 1})
    assert RunOutcome(**state.outcome).summary()["expected"] == 2
    assert (all_datasets(ingested), ButlerHook(ingested).collections()) == before
    assert not attempt.submit_path.exists()


# Killed drivers.


SHORT = (
    "with half a graph",
    "with half a submit folder",
    "when the run is in the journal",
    "when the run has ended",
    "before it writes the chain",
)


@pytest.mark.parametrize(
    "step", [step if step in SHORT else pytest.param(step, marks=pytest.mark.long) for step in STEPS]
)
def test_a_driver_that_dies_is_replaced_and_the_run_is_submitted_once(
    request_: RunRequest, hook: BpsHook, journal: Path, step: str
) -> None:
    """Each edge of the table of an attempt's phases."""
    attempt = attempt_of(hook.folder, request_)
    assert ended_by(drive_in_child(attempt, die_at(step))) == signal.SIGKILL, attempt.log.read_text()
    assert attempt.state.phase in LIVE
    assert not attempt.is_alive()
    second = drive_in_child(attempt)
    assert ended_by(second) == 0
    state = attempt.state
    assert (state.phase, state.pid, state.drivers) == ("done", second, 2), attempt.log.read_text()[-3000:]
    outcome = check_complete(request_, hook.folder)
    assert submissions(hook.folder) == 1
    assert runs_of(request_) == [outcome.run]
    with Butler.from_config(request_.repository) as butler:
        assert butler.collections.get_info(PARENT).children[0] == outcome.run
    assert len(executions(journal)) == 6, "no quantum runs twice, since no job was cut off"


def test_what_failed_permanently_does_not_run_again_when_the_driver_dies_after_the_run(
    request_: RunRequest, hook: BpsHook, faults: Path, journal: Path
) -> None:
    write_faults(faults, **{"raise": [2]})
    attempt = attempt_of(hook.folder, request_)
    assert ended_by(drive_in_child(attempt, die_at("when the run has ended"))) == signal.SIGKILL
    assert ended_by(drive_in_child(attempt)) == 0
    outcome = RunOutcome(**attempt.state.outcome)
    assert (attempt.state.phase, outcome.total("done"), outcome.total("failed_permanent")) == ("done", 4, 2)
    assert sum(execution.detector == 2 for execution in executions(journal)) == 1
    assert sum(event["event"] == "ended" for event in Journal(attempt.submit_path)) == 1


def test_whoever_asks_again_gets_another_driver_for_the_same_attempt(
    request_: RunRequest, hook: BpsHook, faults: Path
) -> None:
    """As the operator does, with the engine server."""
    write_faults(faults, sleep={"*": 2.0})
    attempt = hook.attach_or_start(request_)
    state = wait_for(attempt, ("submitted",))
    os.kill(state.pid, signal.SIGKILL)
    until(lambda: not attempt.is_alive(), "the driver to die")
    assert runner.is_running(attempt.submit_path), "the jobs go on meanwhile"
    assert hook.attach_or_start(request_).folder == attempt.folder
    until(lambda: attempt.state.drivers == 2, "the new driver: the runner does not keep it out")
    assert wait_for(attempt, ENDED).drivers == 2
    check_complete(request_, hook.folder)
    assert submissions(hook.folder) == 1


def test_a_driver_waits_for_the_last_thread_of_the_one_that_was_killed(
    request_: RunRequest, hook: BpsHook
) -> None:
    """Its first thread is gone, so it is dead to all who look, and the lock is still its own."""
    attempt = attempt_of(hook.folder, request_)
    dead = subprocess.Popen(["true"])
    state = attempt.state
    state.pid, state.pid_started, state.drivers = dead.pid, "1", 1
    dead.wait()
    attempt.record(state)
    with open(attempt.folder / "driver.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = drive_in_child(attempt, lock.close)  # the copy that a fork makes is the lock too
        time.sleep(0.5)
        assert process_started(second)
    assert ended_by(second) == 0
    assert (attempt.state.phase, attempt.state.drivers) == ("done", 2)
    check_complete(request_, hook.folder)


def test_an_attempt_that_nobody_came_to_drive_is_driven(request_: RunRequest, hook: BpsHook) -> None:
    """Whoever made it was killed before it could ask for a driver."""
    attempt = attempt_of(hook.folder, request_)
    assert attempt.state.phase == "starting"
    assert hook.attach_or_start(request_).folder == attempt.folder
    wait_for(attempt, ENDED)
    check_complete(request_, hook.folder)


def test_of_two_drivers_at_once_one_drives(request_: RunRequest, hook: BpsHook, journal: Path) -> None:
    attempt = attempt_of(hook.folder, request_)
    for pid in [drive_in_child(attempt) for _ in range(3)]:
        assert ended_by(pid) == 0
    assert attempt.state.drivers == 1
    check_complete(request_, hook.folder)
    assert (submissions(hook.folder), len(executions(journal))) == (1, 6)


@pytest.mark.long
def test_of_several_that_start_at_once_all_follow_one_attempt(request_: RunRequest, hook: BpsHook) -> None:
    with ThreadPoolExecutor(4) as pool:
        attempts = list(pool.map(lambda _: hook.attach_or_start(request_), range(4)))
    assert {attempt.folder for attempt in attempts} == {hook.folder / "1"}
    wait_for(attempts[0], ENDED)
    check_complete(request_, hook.folder)
    assert submissions(hook.folder) == 1


# Attempts that are not gone on with.


def test_cancel_leaves_no_process_and_the_next_attempt_takes_up_what_was_done(
    request_: RunRequest, hook: BpsHook, faults: Path, journal: Path
) -> None:
    write_faults(faults, sleep={"2": 600.0, "3": 600.0})
    first = hook.attach_or_start(request_)
    state = wait_for(first, ("submitted",))
    until(lambda: len(executions(journal, "ended")) == 2 and len(executions(journal)) == 4, "the quanta")
    pids = {execution.pid for execution in executions(journal)} | {state.pid}
    hook.cancel()
    until(lambda: not any(map(process_started, pids)), "the processes to end")
    assert not still_running(hook.folder)
    assert first.is_cancelled
    assert session_of(state.pid) == []
    hook.cancel()
    write_faults(faults)
    second = hook.attach_or_start(request_)
    assert second.folder.name == "2"
    state = wait_for(second, ENDED)
    outcome = check_complete(request_, hook.folder, attempts=2)
    assert (state.expected, outcome.earlier) == ({"drillOne": 2, "drillTwo": 2}, 2)
    assert first.state.phase == "done", "the new one has settled it"
    assert RunOutcome(**first.state.outcome).total("done") == 2
    assert len(runs_of(request_)) == 2
    assert sum(execution.detector == 1 for execution in executions(journal)) == 2


def test_one_that_was_cancelled_before_its_driver_came_does_nothing(
    request_: RunRequest, hook: BpsHook
) -> None:
    attempt = attempt_of(hook.folder, request_)
    hook.cancel()
    assert attempt.is_cancelled
    assert ended_by(drive_in_child(attempt)) == 0
    assert not attempt.graph.exists()
    assert runs_of(request_) == []
    second = hook.attach_or_start(request_)
    wait_for(second, ENDED)
    assert (second.folder.name, attempt.state.phase) == ("2", "error")
    check_complete(request_, hook.folder, attempts=2)


def test_another_request_settles_the_dead_attempt(request_: RunRequest, hook: BpsHook, faults: Path) -> None:
    write_faults(faults, sleep={"*": 600.0})
    first = attempt_of(hook.folder, request_)
    assert ended_by(drive_in_child(first, die_at("before it follows"))) == signal.SIGKILL
    assert still_running(hook.folder)
    write_faults(faults)
    other = replace(request_, threshold=0.5)
    second = hook.attach_or_start(other)
    assert second.folder.name == "2"
    wait_for(second, ENDED)
    assert first.state.phase == "done"
    check_complete(other, hook.folder, attempts=2)


def test_after_an_error_while_judging_what_was_done_is_not_done_again(
    request_: RunRequest, hook: BpsHook, journal: Path
) -> None:
    """The database goes away when all the quanta are done."""

    def without_database() -> None:
        from sqlalchemy.exc import OperationalError

        import tololo.engine.judgement as judgement

        def gone(*_: object, **__: object) -> None:
            raise OperationalError("SELECT 1", {}, ConnectionError("server closed the connection"))

        judgement.judge = gone  # type: ignore[assignment]

    first = attempt_of(hook.folder, request_)
    assert ended_by(drive_in_child(first, without_database)) == 0
    assert first.state.phase == "error"
    assert "server closed the connection" in first.state.error["what"]
    second = hook.attach_or_start(request_)
    state = wait_for(second, ENDED)
    assert (second.folder.name, state.phase, state.expected) == ("2", "done", {})
    assert RunOutcome(**state.outcome).earlier == 6
    assert wrong_numbers(Path(request_.repository), "detectors", "*") == []
    assert len(executions(journal)) == 6


def test_a_lock_is_kept_as_long_as_the_run_goes_on(
    request_: RunRequest, hook: BpsHook, tmp_path: Path
) -> None:
    lock = lock_for(f"folder:{tmp_path}", OWNER)
    lock.acquire()
    held = []

    def look() -> None:
        import tololo.engine.judgement as judgement

        real = judgement.judge

        def judge(*args: object, **options: object) -> object:
            held.append(lock.holder())
            (tmp_path / "kept").write_text(str(held[0].kept if held[0] else None))
            return real(*args, **options)  # type: ignore[arg-type]

        judgement.judge = judge  # type: ignore[assignment]

    attempt = attempt_of(hook.folder, replace(request_, locks=[ticket(lock)]))
    assert ended_by(drive_in_child(attempt, look)) == 0
    assert (tmp_path / "kept").read_text() == "True"
    after = lock.holder()
    assert after is not None
    assert not after.kept
    check_complete(request_, hook.folder)


@pytest.mark.parametrize("driver", ["lives", "died"])
def test_a_run_that_loses_its_lock_is_cut_off(
    request_: RunRequest, hook: BpsHook, tmp_path: Path, faults: Path, journal: Path, driver: str
) -> None:
    write_faults(faults, sleep={"2": 600.0, "3": 600.0})
    lock = lock_for(f"folder:{tmp_path}", OWNER, ttl=1.0)
    lock.acquire()
    attempt = attempt_of(hook.folder, replace(request_, locks=[ticket(lock)]))
    pid = drive_in_child(attempt, die_at("before it follows") if driver == "died" else lambda: None)
    until(lambda: len(executions(journal, "ended")) == 2 and len(executions(journal)) == 4, "the quanta")
    if driver == "died":
        assert ended_by(pid) == signal.SIGKILL
        assert still_running(hook.folder)
    lock.break_("a person says so")
    assert ended_by(drive_in_child(attempt) if driver == "died" else pid) == 0
    state = attempt.state
    assert (state.phase, state.outcome) == ("error", {})
    assert f"folder:{tmp_path}" in state.error["what"]
    assert not still_running(hook.folder)
    with Butler.from_config(request_.repository) as butler:
        assert not butler.collections.query(f"{PARENT}*"), "the chain is somebody else's now"
    # With the lock again, what was done counts.
    write_faults(faults)
    lock.acquire()
    again = replace(request_, locks=[ticket(lock)])
    second = hook.attach_or_start(again)
    state = wait_for(second, ENDED)
    assert check_complete(again, hook.folder, attempts=2).earlier == 2
    assert sum(execution.detector == 1 for execution in executions(journal)) == 2


@pytest.mark.long
def test_memory_is_doubled_after_an_attempt_that_had_too_little(request_: RunRequest, hook: BpsHook) -> None:
    first = attempt_of(hook.folder, request_)
    outcome = {"memory_failures": 1}
    first.record(AttemptState(phase="done", outcome=outcome))
    second = hook.attach_or_start(request_)
    assert second.request.memory_factor == 2.0
    wait_for(second, ENDED)
    jobs = json.loads((second.submit_path / "workflow.json").read_text())["jobs"]
    assert {one["memory"] for one in jobs.values() if one["quanta"]} == {8192}


def test_a_runner_that_dies_again_and_again_is_given_up(
    request_: RunRequest, hook: BpsHook, faults: Path
) -> None:
    write_faults(faults, sleep={"*": 600.0})
    attempt = attempt_of(hook.folder, request_)
    pid = drive_in_child(attempt)
    killed: set[int] = set()
    while not killed or attempt.state.phase not in ENDED:
        for event in Journal(attempt.submit_path):
            if event["event"] == "runner" and event["pid"] not in killed:
                killed.add(event["pid"])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(event["pid"], signal.SIGKILL)
        time.sleep(0.01)
    assert ended_by(pid) == 0
    assert len(killed) == 6
    assert attempt.state.phase == "error"
    assert "dies again and again" in attempt.state.error["what"]


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all room on a file system."""
    path = folder / "full"
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    return path


def test_a_full_disk_is_said_in_one_message_and_the_run_goes_on_when_there_is_room(
    request_: RunRequest, small_disk: Path, faults: Path, journal: Path
) -> None:
    write_faults(faults, sleep={"*": 1.0})
    hook = BpsHook(small_disk / "runs")
    attempt = hook.attach_or_start(request_)
    wait_for(attempt, ("submitted",))
    until(lambda: executions(journal), "the first quantum")
    full = fill(small_disk)
    until(lambda: not attempt.is_alive() and not still_running(hook.folder), "everything to come to a halt")
    assert attempt.state.phase in LIVE
    with pytest.raises(UnavailableError, match="No space left on device") as caught:
        hook.attach_or_start(request_)
    assert caught.value.where == str(attempt.folder)
    assert "make room" in caught.value.remedy
    full.unlink()
    assert hook.attach_or_start(request_).folder == attempt.folder
    state = wait_for(attempt, ENDED)
    assert submissions(hook.folder) == 1
    outcome = RunOutcome(**state.outcome)
    if outcome.total("failed_retriable"):
        # Jobs that could write no log have used up their tries.
        assert any("No space left on device" in reason for reason in outcome.reasons)
        assert hook.attach_or_start(request_).folder == hook.folder / "2"
        wait_for(Attempt(hook.folder / "2"), ENDED)
    check_complete(request_, hook.folder, attempts=len(list(hook.folder.iterdir())))
    assert not list(attempt.folder.glob(".*.json.*"))


def test_a_disk_that_is_full_from_the_first(request_: RunRequest, small_disk: Path) -> None:
    hook = BpsHook(small_disk / "runs")
    full = fill(small_disk)
    with pytest.raises(UnavailableError, match="No space left on device"):
        hook.attach_or_start(request_)
    full.unlink()
    attempt = hook.attach_or_start(request_)
    wait_for(attempt, ENDED)
    check_complete(request_, hook.folder)

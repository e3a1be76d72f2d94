"""Whole runs through bps and Parsl on a real repository."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from conftest import BAD_VISIT, DETECTOR, NIGHT, SPARE, Reduced, instcal_request, wait_for
from tololo.engine.attempt import ENDED, Attempt, AttemptState
from tololo.engine.driver import drive
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.run import RunOutcome, RunRequest
from tololo.hooks.bps import BpsHook
from tololo.hooks.butler import ButlerHook

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


def wait_until_gone(pid: int) -> list[int]:
    deadline = time.monotonic() + 20
    while (left := session_of(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def kill(attempt: Attempt) -> None:
    pid = attempt.state.pid
    os.killpg(pid, signal.SIGKILL)
    assert wait_until_gone(pid) == []


def test_attaching_right_after_the_start_finds_the_same_attempt(reduced: Reduced) -> None:
    assert reduced.attached[0] == reduced.attached[1]
    assert [path.name for path in reduced.attached[0].parent.iterdir()] == ["1"]


def test_a_night_with_a_bad_exposure(reduced: Reduced) -> None:
    state = reduced.state
    assert (state.phase, state.error) == ("done", {})
    assert state.expected == {"calibrateInstcal": 3, "summarizeVisit": 3}
    assert state.finished == {"calibrateInstcal": 2, "summarizeVisit": 2}
    outcome = RunOutcome(**state.outcome)
    counts = {"expected": 3, "done": 2, "failed_permanent": 1, "failed_retriable": 0, "no_data": 0}
    assert outcome.labels == {"calibrateInstcal": counts, "summarizeVisit": counts}
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


def test_what_failed_is_tried_again_and_what_is_done_counts_for_the_threshold(
    reduced: Reduced, tmp_path: Path
) -> None:
    repository = reduced.copy(tmp_path)
    before = all_datasets(repository)
    hook = BpsHook(tmp_path / "runs")
    state = wait_for(hook, hook.attach_or_start(instcal_request(repository, NIGHT)), ENDED)
    outcome = RunOutcome(**state.outcome)
    assert state.expected == {"calibrateInstcal": 1, "summarizeVisit": 1}
    assert (outcome.total("failed_permanent"), outcome.total("done"), outcome.earlier) == (2, 0, 4)
    outcome.check(0.5)
    with pytest.raises(BadInputError, match="4 of 6 quanta"):
        outcome.check(1.0)
    after = all_datasets(repository)
    assert {kind: after[kind] for kind in PRODUCTS} == {kind: before[kind] for kind in PRODUCTS}


WRONG = {
    "nothing matches": (
        {"where": "instrument = 'DECam' AND visit = 1"},
        "empty",
        "nothing to do",
        "visit = 1",
    ),
    "query": ({"where": "instrument = 'DECam' AND visit ="}, "error", "data query", "visit ="),
    "name in query": ({"where": "vizit = 3"}, "error", "vizit", "vizit = 3"),
    "pipeline": ({"pipeline": "/nowhere/p.yaml#x"}, "error", "pipeline file is not there", "/nowhere/p.yaml"),
    "input": ({"inputs": ["refcats", "nowhere"]}, "error", "nowhere", "refcats, nowhere"),
    "site": ({"site": "moon"}, "error", "no compute site 'moon'", "moon.yaml"),
    "label": ({"config": {"nosuch:x": "1"}}, "error", "'nosuch'", "nightly_decam.yaml"),
    "field": ({"config": {"calibrateInstcal:nosuch": "1"}}, "error", "nosuch", "nightly_decam.yaml"),
    "parent": ({"parent": "a b/instcal"}, "error", "'a b'", "collection name"),
    "repository": ({"repository": "/nowhere"}, "error", "/nowhere", "driver.log"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_message_for_a_wrong_request(ingested: Path, tmp_path: Path, wrong: str) -> None:
    changes, phase, what, where = WRONG[wrong]
    before = all_datasets(ingested)
    attempt = attempt_of(tmp_path, replace(instcal_request(ingested, SPARE), **changes))
    state = drive(attempt)
    assert attempt.state == state
    assert (state.phase, state.outcome) == (phase, {})
    assert what in state.error["what"]
    assert where in state.error["where"]
    assert state.error["remedy"]
    assert all_datasets(ingested) == before


def test_a_subset_that_is_not_there_is_refused(ingested: Path, tmp_path: Path) -> None:
    pipeline = instcal_request(ingested, SPARE).pipeline.replace("#instcal", "#nosuch")
    state = drive(attempt_of(tmp_path, instcal_request(ingested, SPARE, pipeline=pipeline)))
    assert (state.phase, "nosuch" in state.error["what"]) == ("error", True)


def test_a_dry_run_builds_the_graph_and_stops(ingested: Path, tmp_path: Path) -> None:
    before = all_datasets(ingested), ButlerHook(ingested).collections()
    attempt = attempt_of(tmp_path, instcal_request(ingested, SPARE, dry_run=True))
    state = drive(attempt)
    assert (state.phase, state.expected) == ("planned", {"calibrateInstcal": 1, "summarizeVisit": 1})
    assert RunOutcome(**state.outcome).summary()["expected"] == 2
    assert (all_datasets(ingested), ButlerHook(ingested).collections()) == before
    assert not attempt.submit_path.exists()


def run_after(repository: Path, hook: BpsHook) -> None:
    """Run the night SPARE to its end after an earlier attempt was killed, and see that nothing is doubled."""
    attempt = hook.attach_or_start(instcal_request(repository, SPARE))
    assert attempt.folder.name == "2"
    state = wait_for(hook, attempt, ENDED)
    outcome = RunOutcome(**state.outcome)
    assert (state.phase, outcome.total("expected"), outcome.reasons) == ("done", 2, [])
    outcome.check(1.0)
    check_once(repository)


def check_once(repository: Path) -> None:
    once = dict.fromkeys(PRODUCTS, 1)
    for counts in (all_datasets(repository), ButlerHook(repository).counts(f"{SPARE}/instcal")):
        assert {kind: counts.get(kind) for kind in PRODUCTS} == once


def test_killed_then_tried_again_then_nothing_to_do(own_repository: Path, tmp_path: Path) -> None:
    hook = BpsHook(tmp_path / "runs")
    attempt = hook.attach_or_start(instcal_request(own_repository, SPARE))
    wait_for(hook, attempt, ("submitted",))
    kill(attempt)
    with pytest.raises(UnavailableError, match="died in phase 'submitted'"):
        hook.poll(attempt, time.monotonic())
    run_after(own_repository, hook)
    before = all_datasets(own_repository)
    third = hook.attach_or_start(instcal_request(own_repository, SPARE))
    state = wait_for(hook, third, ENDED)
    assert (third.folder.name, state.phase) == ("3", "empty")
    assert "nothing to do" in state.error["what"]
    assert all_datasets(own_repository) == before


def test_what_a_killed_driver_left_in_the_registry_is_taken_up(reduced: Reduced, tmp_path: Path) -> None:
    """The driver dies after the final job has registered its outputs and before it writes the chain."""
    repository = reduced.copy(tmp_path)
    run = RunOutcome(**reduced.state.outcome).run
    with Butler.from_config(str(repository), writeable=True) as butler:
        butler.collections.redefine_chain(f"{NIGHT}/instcal", ["refcats", "skymaps", f"{NIGHT}/instcal/raw"])
    where = f"instrument = 'DECam' AND visit.day_obs = {NIGHT} AND visit != {BAD_VISIT}"
    state = drive(attempt_of(tmp_path, instcal_request(repository, NIGHT, where=where)))
    assert state.phase == "empty"
    with Butler.from_config(str(repository)) as butler:
        assert butler.collections.get_info(f"{NIGHT}/instcal").children[0] == run


def test_cancel_leaves_no_process(own_repository: Path, tmp_path: Path) -> None:
    hook = BpsHook(tmp_path / "runs")
    attempt = hook.attach_or_start(instcal_request(own_repository, SPARE))
    pid = wait_for(hook, attempt, ("submitted",)).pid
    deadline = time.monotonic() + 120
    while len(session_of(pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(session_of(pid)) > 1, "the run has not started a process that cancel could end"
    hook.cancel()
    assert wait_until_gone(pid) == []
    assert not attempt.is_alive()
    with pytest.raises(UnavailableError):
        hook.poll(attempt, time.monotonic())
    assert "visit_image" not in all_datasets(own_repository)
    hook.cancel()


def some_finished(state: AttemptState) -> bool:
    return state.phase == "submitted" and sum(state.finished.values()) > 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("moment", "reached"),
    [
        ("starting", lambda state: True),
        ("building", lambda state: state.phase == "building"),
        ("first quantum done", some_finished),
        ("aggregating", lambda state: state.phase == "aggregating"),
    ],
)
def test_killed_at_other_moments(
    own_repository: Path, tmp_path: Path, moment: str, reached: Callable[[AttemptState], bool]
) -> None:
    hook = BpsHook(tmp_path / "runs")
    attempt = hook.attach_or_start(instcal_request(own_repository, SPARE))
    while not (reached(attempt.state) or attempt.state.phase in ENDED):
        time.sleep(0.002)
    assert attempt.state.phase not in ENDED, f"{moment} passed unseen"
    kill(attempt)
    with pytest.raises(UnavailableError):
        hook.poll(attempt, time.monotonic())
    if moment == "aggregating":
        # What was registered may be complete already: then nothing is to do.
        second = hook.attach_or_start(instcal_request(own_repository, SPARE))
        assert wait_for(hook, second, ENDED).phase in ("done", "empty")
        check_once(own_repository)
    else:
        run_after(own_repository, hook)

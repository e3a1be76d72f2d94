from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from conftest import BAD_VISIT, Reduced
from operators.airflow_context import TaskInstance, context
from tololo.engine.attempt import Attempt, AttemptState
from tololo.facility.errors import UnavailableError
from tololo.operators.bps import RunPipelineOperator
from tololo.operators.verdict import judge
from tololo.params import not_asked_for, step_of
from tololo.simulation.drill import INPUTS, PARENT, PIPELINE, make_drill_repository, wrong_numbers
from tololo.simulation.drill_faults import executions, write_faults


def ended(retriable: int, permanent: int, **outcome: Any) -> AttemptState:
    counts = {"expected": 4, "failed_retriable": retriable, "failed_permanent": permanent, "no_data": 0}
    counts["done"] = 4 - retriable - permanent
    reasons = ["task (visit=7): MemoryError"] * retriable + ["task (visit=8): ValueError"] * permanent
    outcome = {
        "run": "r",
        "chain": "c",
        "seconds": 1.0,
        "labels": {"task": counts},
        "reasons": reasons,
    } | outcome
    return AttemptState(phase="done", outcome=outcome)


def test_a_threshold_decides_over_a_real_run(reduced: Reduced) -> None:
    outcome = judge(reduced.state, 0.5)
    assert [outcome.total(count) for count in ("expected", "done", "failed_permanent")] == [6, 4, 2]
    with pytest.raises(AirflowFailException, match=f"4 of 6 quanta.*visit={BAD_VISIT}.*retry_failed"):
        judge(reduced.state, 0.7)


@pytest.mark.parametrize(
    ("state", "threshold", "becomes", "says"),
    [
        (ended(1, 0), 1.0, UnavailableError, "3 of 4 quanta.*visit=7"),
        (ended(1, 1), 1.0, AirflowFailException, "2 of 4 quanta.*visit=7.*visit=8"),
        (ended(1, 1), 0.75, UnavailableError, "2 of 4 quanta.*visit=7.*visit=8"),
        (ended(0, 2), 0.75, AirflowFailException, "2 of 4 quanta"),
        (ended(0, 2, runnable=1), 0.75, UnavailableError, "2 of 4 quanta"),
    ],
)
def test_only_what_may_pass_is_tried_again(
    state: AttemptState, threshold: float, becomes: type[Exception], says: str
) -> None:
    with pytest.raises(becomes, match=says):
        judge(state, threshold)


@pytest.mark.parametrize(
    ("phase", "error", "becomes"),
    [
        ("empty", {"what": "There is nothing to do"}, AirflowSkipException),
        ("error", {"what": "There is no compute site 'moon'"}, AirflowFailException),
        ("error", {"what": "OperationalError: server closed the connection"}, UnavailableError),
        ("error", {"what": "The lock is held", "kind": "UnavailableError"}, UnavailableError),
        ("error", {"what": "The table says OperationalError", "kind": "BadInputError"}, AirflowFailException),
    ],
)
def test_what_the_end_of_an_attempt_means(
    phase: str, error: dict[str, str], becomes: type[Exception]
) -> None:
    with pytest.raises(becomes, match=f"{error['what']}.*here.*look"):
        judge(AttemptState(phase=phase, error=error | {"where": "here", "remedy": "look"}), 1.0)


def test_a_run_without_data_is_skipped_with_the_reason() -> None:
    counts = {"expected": 2, "done": 0, "failed_permanent": 0, "failed_retriable": 0, "no_data": 2}
    notes = ["differenceDetector: visit 7, detector 28: the template covers 0% of the detector"] * 2
    outcome = {"run": "r", "chain": "c", "seconds": 1.0, "labels": {"task": counts}, "notes": notes}
    with pytest.raises(AirflowSkipException, match="visit 7, detector 28: the template covers 0%"):
        judge(AttemptState(phase="done", outcome=outcome), 1.0)
    with_others = outcome | {"labels": {"task": counts | {"expected": 5, "done": 3}}}
    assert judge(AttemptState(phase="done", outcome=with_others), 1.0).total("no_data") == 2


@pytest.mark.parametrize(
    ("pipeline", "step"),
    [
        ("/a/nightly.yaml#instcal", "instcal"),
        ("/a/b.c/nightly.yaml", "nightly"),
        ("/a/n.yaml#a,b..c", "a-b--c"),
    ],
)
def test_a_step_has_the_name_of_its_subset(pipeline: str, step: str) -> None:
    assert step_of(pipeline) == step


@dataclass
class Drill:
    """A repository with numbers, and a task that runs the drill on it; each call is a new worker."""

    repository: Path
    folder: Path
    ti: TaskInstance = field(default_factory=lambda: TaskInstance(max_tries=5))
    store: Any = None

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def faults(self) -> Path:
        return self.folder / "faults.json"

    def task(self, **arguments: Any) -> RunPipelineOperator:
        files = {"faults": self.faults, "journal": self.journal}
        labels = ("drillOne", "drillTwo", "drillGather")
        defaults = {
            "task_id": self.ti.task_id,
            "pipeline": f"{PIPELINE}#all",
            "parent": PARENT,
            "inputs": INPUTS,
            "where_terms": ["instrument = 'DECam'"],
            "pipeline_config": {
                f"{label}:{key}": str(path) for label in labels for key, path in files.items()
            },
            "conn_id": "butler_test",
            "site": "local",
            "retries": 5,
            "watch_seconds": 300.0,
        }
        return RunPipelineOperator(**(defaults | arguments))

    def context(self, **params: Any) -> dict[str, Any]:
        made = context(**params) | {"ti": self.ti}
        self.store = made["task_state_store"] = self.store or made["task_state_store"]
        return made

    def run(self, arguments: dict[str, Any] | None = None, **params: Any) -> Any:
        return self.task(**(arguments or {})).execute(self.context(**params))

    def defer(self, **arguments: Any) -> TaskDeferred:
        with pytest.raises(TaskDeferred) as deferred:
            self.task(watch_seconds=0.0, **arguments).execute(self.context())
        return deferred.value

    def resume(self, deferred: TaskDeferred) -> Any:
        async def first() -> dict[str, Any]:
            async for event in deferred.trigger.run():
                return dict(event.payload)
            raise AssertionError("no event")

        event = json.loads(json.dumps(asyncio.run(asyncio.wait_for(first(), 300))))
        return getattr(self.task(), deferred.method_name)(self.context(), event)

    def next_try(self) -> None:
        self.ti.try_number += 1

    def clear(self) -> None:
        """What Airflow does when somebody clears the task."""
        self.store = None
        self.ti.max_tries = self.ti.try_number + 5
        self.next_try()

    @property
    def attempts(self) -> list[Attempt]:
        runs = Path(os.environ["TOLOLO_HOME"]) / "runs" / self.ti.dag_id / self.ti.run_id / self.ti.task_id
        return [Attempt(path) for path in sorted(runs.iterdir())]

    def tries(self, label: str) -> Counter[int]:
        """How often the quantum of each detector began."""
        began = [entry for entry in executions(self.journal) if entry.event == "began"]
        return Counter(entry.detector for entry in began if entry.label == label)

    def wrong(self) -> list[str]:
        """What is wrong with the detectors' numbers; a visit's may be made again from more of them."""
        return [line for line in wrong_numbers(self.repository) if not line.startswith("drillGather")]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("numbers") / "repository"
    make_drill_repository(repository, detectors=4)
    return repository


@pytest.fixture
def drill(numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drill:
    repository = Path(shutil.copytree(numbers, tmp_path / "repository"))
    butler = json.dumps({"conn_type": "butler", "host": str(repository)})
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_TEST", butler)
    drill = Drill(repository, tmp_path)
    drill.ti.run_id = tmp_path.name
    write_faults(drill.faults)
    return drill


def test_a_short_run_ends_in_the_worker(drill: Drill) -> None:
    summary = drill.run()
    assert (summary["expected"], summary["done"], summary["chain"]) == (9, 9, PARENT)
    assert {label: counts["done"] for label, counts in summary["labels"].items()} == {
        "drillOne": 4,
        "drillTwo": 4,
        "drillGather": 1,
    }
    assert wrong_numbers(drill.repository) == []
    assert drill.store["attempt"] == str(drill.attempts[0].folder)
    assert drill.store["progress"].startswith("done: drillOne 4 of 4")


def test_a_long_run_needs_no_worker(drill: Drill) -> None:
    write_faults(drill.faults, sleep={"*": 0.2})
    deferred = drill.defer()
    assert "what follows is in the log" in drill.store["progress"]
    assert drill.resume(deferred)["done"] == 9
    assert set(drill.tries("drillTwo").values()) == {1}


def test_a_task_that_lost_its_worker_finds_its_run(drill: Drill) -> None:
    write_faults(drill.faults, sleep={"*": 0.2})
    drill.defer()
    drill.store = None  # the worker died before it could say
    drill.next_try()
    assert drill.run()["done"] == 9
    assert len(drill.attempts) == 1
    assert set(drill.tries("drillTwo").values()) == {1}


def test_a_run_that_ended_while_nobody_looked_is_judged_not_run_again(drill: Drill) -> None:
    deferred = drill.defer()
    asyncio.run(asyncio.wait_for(anext(deferred.trigger.run()), 300))
    drill.next_try()
    assert drill.run()["done"] == 9
    assert len(drill.attempts) == 1


def test_a_cleared_task_runs_again_and_finds_everything_done(drill: Drill) -> None:
    drill.run()
    drill.clear()
    assert drill.run()["done"] == 9
    assert len(drill.attempts) == 2
    assert set(drill.tries("drillTwo").values()) == {1}


def test_clearing_a_task_that_waits_starts_over(drill: Drill) -> None:
    write_faults(drill.faults, sleep={"2": 600})
    drill.defer()
    write_faults(drill.faults)
    drill.clear()
    assert drill.run()["done"] == 9
    assert [attempt.is_cancelled for attempt in drill.attempts] == [True, False]
    assert not drill.attempts[0].is_alive()
    assert drill.wrong() == []


def test_an_outcome_from_before_a_clear_is_not_passed_off_as_new(drill: Drill) -> None:
    deferred = drill.defer()
    asyncio.run(asyncio.wait_for(anext(deferred.trigger.run()), 300))
    drill.clear()
    assert drill.run()["done"] == 9
    assert len(drill.attempts) == 2


def test_the_driver_may_die_while_nobody_looks(drill: Drill) -> None:
    write_faults(drill.faults, sleep={"*": 0.3})
    deferred = drill.defer()
    os.killpg(drill.attempts[0].state.pid, signal.SIGKILL)
    assert drill.resume(deferred)["done"] == 9
    assert len(drill.attempts) == 1
    assert drill.attempts[0].state.drivers == 2
    assert wrong_numbers(drill.repository) == []


def test_a_driver_that_dies_again_and_again_is_given_up(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tololo.hooks.bps import BpsHook

    write_faults(drill.faults, sleep={"*": 0.3})
    deferred = drill.defer()
    started = []

    def in_vain(hook: BpsHook, request: Any) -> Attempt:
        started.append(request)
        return drill.attempts[0]

    os.killpg(drill.attempts[0].state.pid, signal.SIGKILL)
    monkeypatch.setattr(BpsHook, "attach_or_start", in_vain)
    monkeypatch.setattr("tololo.triggers.attempt.LOST_SECONDS", 0.1)
    with pytest.raises(UnavailableError, match=r"died 4 times, last in phase"):
        drill.resume(deferred)
    assert len(started) == 3


def test_a_killed_task_takes_its_run_along_and_can_be_cleared(drill: Drill) -> None:
    write_faults(drill.faults, sleep={"*": 600})
    drill.defer()
    task = drill.task()
    task._bps(drill.context())
    task.on_kill()
    assert not drill.attempts[0].is_alive()
    with pytest.raises(UnavailableError, match="killed"):
        task.execute(drill.context())
    write_faults(drill.faults)
    drill.clear()
    assert drill.run()["done"] == 9
    assert wrong_numbers(drill.repository) == []


def test_killing_a_task_that_started_nothing_is_harmless(drill: Drill) -> None:
    drill.task().on_kill()


def test_a_run_that_takes_too_long_is_cancelled(drill: Drill) -> None:
    write_faults(drill.faults, sleep={"*": 600})
    drill.ti.start_date -= timedelta(hours=1)
    deferred = drill.defer(execution_timeout=timedelta(minutes=30))
    with pytest.raises(AirflowTaskTimeout, match="took longer"):
        drill.resume(deferred)
    assert not drill.attempts[0].is_alive()


def test_passing_failures_are_tried_again_and_then_given_up(drill: Drill) -> None:
    write_faults(drill.faults, database=[3])
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"detector=3.*OperationalError"):
            drill.run()
        drill.next_try()
    with pytest.raises(AirflowFailException, match=r"Gave up after 3 attempts: .*detector=3"):
        drill.run()
    assert drill.tries("drillOne") == {1: 1, 2: 1, 3: 3, 4: 1}
    assert drill.tries("drillTwo") == {1: 1, 2: 1, 4: 1}
    assert drill.ti.pushed["return_value"]["failed_retriable"] == 3
    write_faults(drill.faults)
    drill.clear()
    assert drill.run()["done"] == 9
    assert drill.wrong() == []


def test_the_last_try_that_airflow_allows_says_so(drill: Drill) -> None:
    write_faults(drill.faults, database=[3])
    drill.ti.try_number = drill.ti.max_tries + 1
    with pytest.raises(AirflowFailException, match="Gave up after 1 attempt: "):
        drill.run()


def test_a_permanent_failure_is_run_again_only_when_asked_for(drill: Drill) -> None:
    write_faults(drill.faults, **{"raise": [3]})
    with pytest.raises(AirflowFailException, match=r"detector=3.*ValueError.*retry_failed"):
        drill.run()
    drill.clear()
    with pytest.raises(AirflowFailException, match="detector=3"):
        drill.run()
    assert drill.tries("drillOne")[3] == 1
    write_faults(drill.faults)
    drill.clear()
    assert drill.run(retry_failed=True)["done"] == 9
    assert drill.tries("drillOne") == {1: 1, 2: 1, 3: 2, 4: 1}
    assert drill.tries("drillTwo") == {1: 1, 2: 1, 3: 1, 4: 1}
    assert drill.wrong() == []


def test_what_can_do_without_a_failure_is_run_at_once(drill: Drill) -> None:
    write_faults(drill.faults, **{"raise": [3]})
    summary = drill.run(thresholds={"all": 0.7})
    assert summary["labels"]["drillGather"]["done"] == 1
    assert (summary["done"], summary["failed_permanent"]) == (7, 2)
    assert drill.tries("drillOne")[3] == 1


def test_a_threshold_for_each_step(drill: Drill) -> None:
    write_faults(drill.faults, **{"raise": [3]})
    with pytest.raises(AirflowFailException, match="90% are needed"):
        drill.run(thresholds={"all": 0.9})
    with DAG("dag", schedule=None):
        task = drill.task()
        other = drill.task(task_id="other", step="other")
    with pytest.raises(AirflowFailException, match=r"There is no step 'al'.*all, other"):
        task.execute(drill.context(thresholds={"al": 0.9}))
    assert other._request(drill.context(thresholds={"all": 0.5})).threshold == 1.0


def test_what_nobody_asked_for_is_skipped_with_the_reason(drill: Drill) -> None:
    with pytest.raises(AirflowSkipException, match="flat is not among the proc types of this run: bias"):
        drill.run({"skip": not_asked_for({"source": "raw", "proc_types": ["bias"]}, "raw", "flat")})
    assert not (Path(os.environ["TOLOLO_HOME"]) / "runs" / drill.ti.dag_id / drill.ti.run_id).exists()


@pytest.mark.parametrize(
    ("source", "proc_types", "said"),
    [
        ("raw", ["bias", "flat"], ""),
        ("raw", ["drp"], "flat is not among the proc types of this run: drp"),
        ("instcal", ["flat"], "The source of this run is instcal"),
    ],
)
def test_why_a_task_is_not_asked_for(source: str, proc_types: list[str], said: str) -> None:
    assert not_asked_for({"source": source, "proc_types": proc_types}, "raw", "flat") == said


def test_a_dry_run_counts_and_touches_nothing(drill: Drill) -> None:
    summary = drill.run(dry_run=True)
    assert (summary["expected"], summary["done"]) == (9, 0)
    assert not drill.journal.exists()
    assert len(wrong_numbers(drill.repository)) == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"conn_id": "butler_nowhere"}, "no connection 'butler_nowhere'"),
        ({"inputs": "drill/*"}, r"pattern: drill/\*"),
        ({"inputs": "drill/numbrs"}, "drill/numbrs"),
        ({"pipeline": "embedded/nightly.yaml#instcal"}, "not there.*pipelines/embedded/nightly.yaml"),
        ({"pipeline": f"{PIPELINE}#some"}, "some"),
        ({"parent": "20190401/../drill"}, "20190401/../drill"),
        ({"site": "moon"}, "no compute site 'moon'"),
        ({"pipeline_config": {"drillOne:nothing": "1"}}, "nothing"),
        ({"where_terms": ["vist = 5"]}, "vist"),
    ],
)
def test_bad_input_fails_at_once_with_one_clear_message(
    drill: Drill, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(AirflowFailException, match=says) as caught:
        drill.run(arguments)
    assert "Where: " in str(caught.value)
    assert "What to do: " in str(caught.value)


@pytest.mark.parametrize("key", ["drillOne", "drillOne:", ":faults", ""])
def test_a_configuration_key_names_task_and_field(drill: Drill, key: str) -> None:
    with pytest.raises(AirflowFailException, match=r"names no task and field.*label:field"):
        drill.run(config={key: 1})


def test_configuration_of_the_form_takes_precedence(drill: Drill) -> None:
    other = write_faults(drill.folder / "other.json", no_data=[1])
    given = {"drillOne:faults": str(other), "parameters:x": 3, "drillOne:y": True, "drillOne:z": [1, "a"]}
    config = drill.task()._request(drill.context(config=given)).config
    assert config["drillOne:faults"] == str(other)
    assert config["drillTwo:faults"] == str(drill.faults)
    assert (config["parameters:x"], config["drillOne:y"], config["drillOne:z"]) == ("3", "True", "[1, 'a']")


def test_a_lost_worker_costs_a_try_but_no_attempt(drill: Drill) -> None:
    assert drill.task(retries=1, max_attempts=3).retries == 5
    assert drill.task(retries=0, max_attempts=3).retries == 0

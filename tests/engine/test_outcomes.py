"""The record of attempts, and the judgement over all of them."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType

from tololo.engine.judgement import judge
from tololo.engine.outcomes import (
    DATASET,
    history,
    key_of,
    permanent_failures,
    read_outcomes,
    unchained,
    write_outcome,
)
from tololo.facility.errors import BadInputError
from tololo.facility.run import RunOutcome, RunRequest
from tololo.simulation.drill import (
    FIRST_VISIT,
    INPUTS,
    PARENT,
    detector_ids,
    drill_request,
)
from tololo.simulation.drill_faults import write_faults

from .in_process import attempt, execute

TEN = detector_ids(10)
BAD = TEN[2]
OLD, NEW = (f"{PARENT}/drill/one/{stamp}" for stamp in ("20290101T000000Z", "20290102T000000Z"))
DATA_ID = {"instrument": "DECam", "visit": FIRST_VISIT, "detector": BAD}
KEY = key_of(DATA_ID)


@pytest.fixture
def repository(ten: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ten, tmp_path / "repository"))


@pytest.fixture
def request_(repository: Path, tmp_path: Path) -> RunRequest:
    """One detector of ten raises."""
    return drill_request(repository, "one", write_faults(tmp_path / "faults", **{"raise": [BAD]}))


def entry(kind: str, own: bool = True, label: str = "drillOne", **changes: object) -> dict[str, object]:
    return {"label": label, "data_id": DATA_ID | changes, "kind": kind, "reason": f"was {kind}", "own": own}


def outcome_of(run: str, *quanta: dict[str, object]) -> RunOutcome:
    counts = {"expected": 1, "done": 0, "failed_permanent": 1, "failed_retriable": 0, "no_data": 0}
    return RunOutcome(run, PARENT, 1.5, {"drillOne": counts}, quanta=list(quanta))


def counts(**given: int) -> dict[str, int]:
    return {
        name: given.get(name, 0)
        for name in ("expected", "done", "failed_permanent", "failed_retriable", "no_data")
    }


def test_nine_of_ten_over_all_attempts(request_: RunRequest, tmp_path: Path) -> None:
    nine = {"drillOne": counts(expected=10, done=9, failed_permanent=1)}
    first = attempt(request_, tmp_path / "runs")
    second = attempt(request_, tmp_path / "runs")
    assert first.labels == second.labels == nine
    assert (first.earlier, second.earlier) == (0, 9)
    cause = f"drillOne (detector={BAD}, visit={FIRST_VISIT}): ValueError: Drill: the number"
    assert [len(first.reasons), len(second.reasons)] == [1, 1]
    assert first.reasons[0].startswith(cause)
    assert second.reasons[0].startswith(cause)
    assert second.reasons[0].endswith(f"(failed permanently in an earlier attempt, run {first.run})")
    for outcome in (first, second):
        outcome.check(0.9)
        with pytest.raises(
            BadInputError, match=r"9 of 10 quanta are good, 95% are needed: .*ValueError"
        ) as caught:
            outcome.check(0.95)
        assert "mend the cause and run with retry_failed" in caught.value.remedy
    assert [q["kind"] for q in first.quanta] == ["failed_permanent"]
    assert second.quanta == []
    write_faults(tmp_path / "faults")
    third = attempt(replace(request_, retry_failed=True), tmp_path / "runs")
    fourth = attempt(request_, tmp_path / "runs")
    assert third.labels == fourth.labels == {"drillOne": counts(expected=10, done=10)}
    assert (third.earlier, fourth.earlier) == (9, 10)
    assert third.reasons == fourth.reasons == []


def test_what_was_blocked_stays_a_failure_and_the_rest_counts_once(repository: Path, tmp_path: Path) -> None:
    faults = write_faults(
        tmp_path / "faults", **{"raise": [TEN[0]], "database": [TEN[1]], "no_data": [TEN[3]]}
    )
    request = drill_request(repository, "all", faults)
    first = attempt(request, tmp_path / "runs")
    each = counts(expected=10, done=7, failed_permanent=1, failed_retriable=1, no_data=1)
    assert first.labels == {
        "drillOne": each,
        "drillTwo": each,
        "drillGather": counts(expected=1, failed_retriable=1),
    }
    assert "not run" in first.reasons[-1]
    assert "not run" not in first.reasons[0] + first.reasons[1]
    write_faults(faults, **{"raise": [TEN[0]]})
    second = attempt(request, tmp_path / "runs")
    each = counts(expected=10, done=8, failed_permanent=1, no_data=1)
    assert second.labels == {"drillOne": each, "drillTwo": each, "drillGather": counts(expected=1, done=1)}
    third = attempt(request, tmp_path / "runs")
    assert third.labels == second.labels
    assert list(third.labels) == ["drillOne", "drillTwo", "drillGather"]
    one = replace(request, pipeline=request.pipeline.replace("#all", "#one"), config={})
    alone = attempt(one, tmp_path / "runs")
    assert alone.labels == {"drillOne": each}
    part = attempt(
        replace(request, where=f"{request.where} AND detector IN ({TEN[0]}, {TEN[5]})"), tmp_path / "runs"
    )
    pair = counts(expected=2, done=1, failed_permanent=1)
    assert part.labels == {"drillOne": pair, "drillTwo": pair, "drillGather": counts(expected=1, done=1)}


def test_written_twice_it_is_there_once(repository: Path) -> None:
    outcome = outcome_of(OLD, entry("failed_permanent"))
    with Butler.from_config(str(repository), writeable=True) as butler:
        write_outcome(butler, outcome)
        write_outcome(butler, outcome)
        refs = butler.query_datasets(DATASET, OLD)
        assert len(refs) == 1
        assert butler.get(refs[0]) == asdict(outcome)
        outcome.seconds = 2.5
        write_outcome(butler, outcome)
        (ref,) = set(butler.registry.queryDatasets(DATASET, collections=...))
        assert butler.get(ref)["seconds"] == 2.5
        assert read_outcomes(butler, PARENT) == [outcome]


def test_what_is_read_is_oldest_first_and_of_the_pipeline(repository: Path) -> None:
    other = f"{PARENT}/elsewhere/one/20280101T000000Z"
    with Butler.from_config(str(repository), writeable=True) as butler:
        assert read_outcomes(butler, PARENT) == []
        for run in (NEW, other, OLD):
            write_outcome(butler, outcome_of(run))
        assert [outcome.run for outcome in read_outcomes(butler, PARENT)] == [other, OLD, NEW]
        assert [outcome.run for outcome in read_outcomes(butler, PARENT, "drill")] == [OLD, NEW]
        butler.collections.register(PARENT, CollectionType.CHAINED)
        butler.collections.redefine_chain(PARENT, [NEW, other, INPUTS])
        assert [outcome.run for outcome in read_outcomes(butler, PARENT, "drill")] == [other, OLD, NEW]
        assert unchained(butler, PARENT) == [OLD]
        assert read_outcomes(butler, "20200101/drill") == []


@pytest.mark.parametrize(
    ("records", "left_out"),
    [
        ([entry("failed_permanent")], True),
        ([entry("failed_permanent", own=False)], False),
        ([entry("blocked", own=False)], False),
        ([entry("failed_retriable")], False),
        ([entry("failed_permanent"), entry("failed_retriable")], False),
        ([entry("failed_retriable"), entry("failed_permanent")], True),
        ([entry("failed_permanent"), entry("failed_permanent", visit=5)], True),
        ([entry("failed_permanent", visit=5)], False),
        ([entry("failed_permanent", label="drillTwo")], False),
    ],
)
def test_the_newest_record_of_a_quantum_decides(
    repository: Path, records: list[dict[str, object]], left_out: bool
) -> None:
    request = drill_request(repository, "one")
    with Butler.from_config(str(repository), writeable=True) as butler:
        for run, record in zip((OLD, NEW), records, strict=False):
            write_outcome(butler, outcome_of(run, record))
        expected = {KEY: "was failed_permanent"} if left_out else {}
        assert permanent_failures(butler, request) == {"drillOne": expected}


def test_success_and_failure_by_the_age_of_their_runs(request_: RunRequest, tmp_path: Path) -> None:
    """Metadata in a newer RUN than the record supersedes it; in an older one it does not."""
    write_faults(tmp_path / "faults")
    done = attempt(request_, tmp_path / "runs")
    newer = f"{PARENT}/drill/one/20310101T000000Z"
    assert OLD < done.run < newer
    with Butler.from_config(request_.repository, writeable=True) as butler:
        write_outcome(butler, outcome_of(OLD, entry("failed_permanent")))
        assert permanent_failures(butler, request_) == {"drillOne": {}}
        write_outcome(butler, outcome_of(newer, entry("failed_permanent")))
        assert permanent_failures(butler, request_) == {"drillOne": {KEY: "was failed_permanent"}}
        assert history(butler, request_, run=newer)["drillOne"][KEY].kind == "done"


def test_an_attempt_that_left_nothing_can_be_tried_again(request_: RunRequest, tmp_path: Path) -> None:
    """The final job died: nothing is known of any quantum, though the graph is."""
    ran = execute(request_, tmp_path / "runs")
    jobs = [
        job(label="pipetaskInit", quanta=[], reason="memory", memory_mb=600, peak_mb=812, tries=3),
        job(label="drillOne", quanta=["01a1fe16-cf0a-7098-a135-55dabcb56f16"], exit=1),
    ]
    with Butler.from_config(request_.repository, writeable=True) as butler:
        blind = judge(request_, butler, ran.run, None, ran.expected, jobs)
        outcome = judge(
            request_, butler, ran.run, tmp_path / "nowhere.qg", ran.expected, jobs, graph=ran.graph
        )
    assert blind.labels == outcome.labels == {"drillOne": counts(expected=10, failed_retriable=10)}
    assert outcome.memory_failures == 1
    assert len(outcome.reasons) == 1
    assert "left no provenance" in outcome.reasons[0]
    assert "pipetaskInit: killed for memory: 812 MB of 600 MB allowed, 3 tries" in outcome.reasons[0]
    assert {q["data_id"]["detector"] for q in outcome.quanta} == set(TEN)
    assert {q["kind"] for q in outcome.quanta} == {"failed_retriable"}


def job(**facts: object) -> dict[str, object]:
    known = {"signal": None, "exit": None, "reason": "exit", "memory_mb": 0, "peak_mb": 0, "tries": 1}
    return known | facts

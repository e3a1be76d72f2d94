"""What an attempt runs and what it leaves out, and why there may be nothing to run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType, DatasetType

from tololo.engine.empty import split_terms
from tololo.engine.graph import build_graph
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.run import RunRequest
from tololo.simulation.drill import (
    FIRST_VISIT,
    INPUTS,
    PARENT,
    detector_ids,
    drill_request,
    wrong_numbers,
)
from tololo.simulation.drill_faults import executions, write_faults

from .in_process import attempt, execute, quanta_of

TEN = detector_ids(10)
BAD = TEN[2]
RUN = f"{PARENT}/drill/all/20290101T000000Z"


@pytest.fixture
def drill(ten: Path, tmp_path: Path) -> Callable[..., RunRequest]:
    """A request on a repository of its own, with the faults that are given."""

    def make(subset: str, **faults: object) -> RunRequest:
        repository = tmp_path / "repository"
        shutil.copytree(ten, repository)
        journal = tmp_path / "journal"
        return drill_request(repository, subset, write_faults(tmp_path / "faults", **faults), journal)

    return make


def mend(request: RunRequest) -> None:
    write_faults(Path(request.config["drillOne:faults"]))


def build(request: RunRequest, folder: Path) -> dict[tuple[str, int], str]:
    """The quanta that an attempt would run, by label and detector."""
    path = folder / "next.qg"
    path.unlink(missing_ok=True)
    with Butler.from_config(request.repository) as butler:
        expected = build_graph(request, butler, RUN, path)
    assert path.exists() == bool(expected)
    quanta = quanta_of(path) if expected else {}
    assert {label: sum(key[0] == label for key in quanta) for label in expected} == expected
    return quanta


def test_what_failed_permanently_is_left_out_until_it_is_to_be_retried(
    drill: Callable[..., RunRequest], tmp_path: Path
) -> None:
    request = drill("one", **{"raise": [BAD]})
    assert set(build(request, tmp_path)) == {("drillOne", n) for n in TEN}
    attempt(request, tmp_path / "runs")
    assert build(request, tmp_path) == {}
    again = replace(request, retry_failed=True)
    assert set(build(again, tmp_path)) == {("drillOne", BAD)}
    mend(request)
    attempt(again, tmp_path / "runs")
    assert build(request, tmp_path) == build(again, tmp_path) == {}
    assert wrong_numbers(Path(request.repository), "one", "*") == []
    assert len(executions(tmp_path / "journal")) == 11


@pytest.mark.parametrize(
    "fault",
    [{"memory": {str(BAD): 10**7}}, {"database": [BAD]}, {"kill": [BAD]}],
    ids=lambda f: next(iter(f)),
)
def test_what_failed_for_a_passing_reason_is_run_again(
    drill: Callable[..., RunRequest], tmp_path: Path, fault: dict[str, object]
) -> None:
    request = drill("one", **fault)
    outcome = attempt(request, tmp_path / "runs", fork="kill" in fault)
    assert (outcome.total("done"), outcome.total("failed_retriable")) == (9, 1)
    assert set(build(request, tmp_path)) == {("drillOne", BAD)}


def test_what_depends_on_the_left_out_vanishes_and_what_gathers_runs_on_the_rest(
    drill: Callable[..., RunRequest], tmp_path: Path
) -> None:
    request = drill("all", **{"raise": [BAD]})
    first = attempt(request, tmp_path / "runs")
    assert first.runnable == 1
    assert set(build(request, tmp_path)) == {("drillGather", -1)}
    second = attempt(request, tmp_path / "runs")
    assert (second.runnable, second.labels["drillGather"]["done"]) == (0, 1)
    assert build(request, tmp_path) == {}
    # The detector that comes after all belongs into the sum.
    mend(request)
    again = replace(request, retry_failed=True)
    retried = {("drillOne", BAD), ("drillTwo", BAD), ("drillGather", -1)}
    assert set(build(again, tmp_path)) == retried
    attempt(again, tmp_path / "runs")
    assert build(again, tmp_path) == {}
    with Butler.from_config(request.repository, writeable=True) as butler:
        butler.collections.register(PARENT, CollectionType.CHAINED)
        runs = butler.collections.query(f"{PARENT}/*", collection_types=CollectionType.RUN)
        butler.collections.redefine_chain(PARENT, [*sorted(runs, reverse=True), INPUTS])
        newest = butler.get("drill_sum", instrument="DECam", visit=FIRST_VISIT, collections=PARENT)
    assert newest["number"] == sum(2 * (n + 1) for n in TEN)
    assert build(again, tmp_path) == {}


def test_a_retry_that_fails_for_a_passing_reason_is_an_ordinary_try_next_time(
    drill: Callable[..., RunRequest], tmp_path: Path
) -> None:
    request = drill("all", **{"raise": [BAD]})
    attempt(request, tmp_path / "runs")
    attempt(request, tmp_path / "runs")
    write_faults(tmp_path / "faults", database=[BAD])
    attempt(replace(request, retry_failed=True), tmp_path / "runs")
    # The sum without the detector is there, but its newest run waits for the detector.
    assert set(build(request, tmp_path)) == {("drillOne", BAD), ("drillTwo", BAD), ("drillGather", -1)}
    mend(request)
    outcome = attempt(request, tmp_path / "runs")
    assert outcome.total("done") == outcome.total("expected") == 21
    assert build(request, tmp_path) == {}


def test_a_data_query_that_leaves_the_failure_out_does_not_know_it(
    drill: Callable[..., RunRequest], tmp_path: Path
) -> None:
    request = drill("one", **{"raise": [BAD]})
    attempt(replace(request, where=f"{request.where} AND detector IN ({TEN[0]}, {BAD})"), tmp_path / "runs")
    assert set(build(request, tmp_path)) == {("drillOne", n) for n in TEN} - {
        ("drillOne", TEN[0]),
        ("drillOne", BAD),
    }
    others = replace(request, where=f"{request.where} AND detector > {BAD}", retry_failed=True)
    assert set(build(others, tmp_path)) == {("drillOne", n) for n in TEN if n > BAD}


def test_a_field_that_only_one_task_knows_is_allowed_in_the_data_query(
    drill: Callable[..., RunRequest], tmp_path: Path
) -> None:
    request = replace(drill("all"), where="instrument = 'DECam' AND full_name = 'S29'")
    attempt(request, tmp_path / "runs")
    assert build(request, tmp_path) == {}


def test_an_output_written_before_the_failure_is_not_used(ten: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(ten, tmp_path / "repository")
    pipeline = tmp_path / "half.yaml"
    pipeline.write_text(
        "description: half\ntasks:\n"
        "  half: {class: engine.small_tasks.HalfTask}\n  sum: {class: engine.small_tasks.SumTask}\n"
    )
    request = replace(
        drill_request(repository), pipeline=str(pipeline), where="instrument = 'DECam' AND detector IN (1..3)"
    )
    first = attempt(request, tmp_path / "runs")
    assert (first.labels["sum"]["failed_permanent"], first.runnable) == (1, 1)
    attempt(request, tmp_path / "runs")
    with Butler.from_config(str(repository)) as butler:
        (ref,) = butler.query_datasets("small_sum", f"{PARENT}/*", find_first=False)
        assert butler.get(ref)["number"] == 2 + 3


def test_a_gather_that_needs_more_than_is_left_has_failed_for_good(ten: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(ten, tmp_path / "repository")
    pipeline = tmp_path / "half.yaml"
    pipeline.write_text(
        "description: half\ntasks:\n"
        "  half: {class: engine.small_tasks.HalfTask}\n  sum: {class: engine.small_tasks.SumTask}\n"
    )
    request = replace(
        drill_request(repository), pipeline=str(pipeline), where="instrument = 'DECam' AND detector IN (1, 2)"
    )
    first = attempt(request, tmp_path / "runs")
    assert (first.labels["sum"]["failed_permanent"], first.runnable) == (1, 0)
    assert build(request, tmp_path) == {}
    second = attempt(request, tmp_path / "runs")
    assert second.labels == first.labels


def test_a_run_that_nobody_judged_is_continued_by_its_metadata(
    drill: Callable[..., RunRequest], tmp_path: Path
) -> None:
    request = drill("one", database=[BAD])
    execute(request, tmp_path / "runs")
    assert set(build(request, tmp_path)) == {("drillOne", BAD)}


def test_a_run_that_exists_is_refused(drill: Callable[..., RunRequest], tmp_path: Path) -> None:
    request = drill("one", **{"raise": [BAD]})
    ran = execute(request, tmp_path / "runs")
    with (
        Butler.from_config(request.repository) as butler,
        pytest.raises(BadInputError, match="already exists in the output run"),
    ):
        build_graph(request, butler, ran.run, tmp_path / "again.qg")
    assert not (tmp_path / "again.qg").exists()


NIGHT_QUERY = "instrument = 'DECam' AND visit.day_obs = 20190401"
EMPTY = {
    "no such night": (
        {"where": "instrument = 'DECam' AND visit.day_obs = 20190402"},
        "the repository knows no visit with visit.day_obs = 20190402 and instrument = 'DECam'",
    ),
    "no such visit in the night": (
        {"where": f"{NIGHT_QUERY} AND visit = 5"},
        f"the repository knows no visit with visit = 5 and {NIGHT_QUERY}",
    ),
    "a detector without data": (
        {"where": f"({NIGHT_QUERY}) AND detector IN (50..60)"},
        f"drill/numbers hold 10 drill_number with {NIGHT_QUERY}, but none with detector IN (50..60)",
    ),
    "either of two": (
        {"where": f"{NIGHT_QUERY} AND (detector = 50 OR detector = 51)"},
        "but none with detector = 50 OR detector = 51",
    ),
    "no such instrument": (
        {"where": "instrument = 'HSC' AND visit = 1"},
        "the repository knows no instrument with instrument = 'HSC'",
    ),
    "nothing ingested": ({"inputs": ["night/raw"]}, "there is no drill_number in night/raw"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_why_there_is_nothing_to_run(drill: Callable[..., RunRequest], tmp_path: Path, case: str) -> None:
    changes, reason = EMPTY[case]
    request = replace(drill("all"), **changes)
    with Butler.from_config(request.repository, writeable=True) as butler:
        butler.collections.register("night/raw")
        with pytest.raises(NothingToDoError) as caught:
            build_graph(request, butler, RUN, tmp_path / "a.qg")
    assert caught.value.what.startswith("There is nothing to do: ")
    assert reason in caught.value.what
    assert request.pipeline in caught.value.where
    assert caught.value.remedy
    assert not (tmp_path / "a.qg").exists()


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("vizit = 3", "vizit"),
        ("visit =", "visit ="),
        ("visit = 'abc'", "visit == 'abc'"),
        ("instrument = 'DECam", "instrument"),
        ("(visit = 1", "visit = 1"),
        ("visit.nosuch = 1", "nosuch"),
        ("tract = 5", "skymap"),
    ],
)
def test_a_data_query_that_is_wrong(ten: Path, tmp_path: Path, where: str, what: str) -> None:
    request = drill_request(ten, "all", where=where)
    with (
        Butler.from_config(request.repository) as butler,
        pytest.raises(BadInputError, match="data query cannot be understood") as caught,
    ):
        build_graph(request, butler, RUN, tmp_path / "a.qg")
    assert what in caught.value.what
    assert caught.value.where == repr(where)


def test_no_calibrations(ten: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "calibrated.yaml"
    pipeline.write_text("description: c\ntasks:\n  calibrated: {class: engine.small_tasks.CalibratedTask}\n")
    request = replace(drill_request(ten), pipeline=str(pipeline))
    with Butler.from_config(request.repository) as butler, pytest.raises(NothingToDoError) as caught:
        build_graph(request, butler, RUN, tmp_path / "a.qg")
    assert "calibrated needs small_bias for {instrument: 'DECam', detector: " in caught.value.what
    assert "and there is none in drill/numbers" in caught.value.what
    assert "certify" in caught.value.remedy


def test_inputs_that_do_not_belong_together(ten: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(ten, tmp_path / "repository")
    with Butler.from_config(str(repository), writeable=True, run="others") as butler:
        kind = DatasetType(
            "small_other",
            ("instrument", "visit", "detector"),
            "StructuredDataDict",
            universe=butler.dimensions,
        )
        butler.registry.registerDatasetType(kind)
        butler.put({"number": 1}, kind, instrument="DECam", visit=FIRST_VISIT, detector=60)
    pipeline = tmp_path / "pair.yaml"
    pipeline.write_text("description: pair\ntasks:\n  pair: {class: engine.small_tasks.PairTask}\n")
    request = drill_request(repository, pipeline=str(pipeline), inputs=[INPUTS, "others"], where="")
    with Butler.from_config(request.repository) as butler, pytest.raises(NothingToDoError) as caught:
        build_graph(request, butler, RUN, tmp_path / "a.qg")
    assert "are there, but not for the same data IDs" in caught.value.what
    assert "drill_number" in caught.value.what
    assert "small_other" in caught.value.what


def test_what_an_earlier_step_has_not_made(ten: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(ten, tmp_path / "repository")
    where = "instrument = 'DECam' AND detector = 1"
    made = attempt(drill_request(repository, "one", where=where), tmp_path / "runs")
    pipeline = tmp_path / "two.yaml"
    pipeline.write_text(
        "description: two\ntasks:\n  drillTwo: {class: tololo.simulation.drill_tasks.DrillTwoTask}\n"
    )
    request = drill_request(
        repository, "one", where=where.replace("1", "2"), pipeline=str(pipeline), inputs=[made.run]
    )
    with Butler.from_config(request.repository) as butler, pytest.raises(NothingToDoError) as caught:
        build_graph(request, butler, RUN, tmp_path / "a.qg")
    assert f"{made.run} hold 1 drill_one with instrument = 'DECam'" in caught.value.what
    assert "but none with detector = 2" in caught.value.what


@pytest.mark.parametrize(
    ("where", "terms"),
    [
        ("", []),
        ("a = 1", ["a = 1"]),
        ("a = 1 AND b IN (1, 2)", ["a = 1", "b IN (1, 2)"]),
        ("(a = 1 and b = 'x AND (y') AND ((c = 3))", ["a = 1", "b = 'x AND (y'", "c = 3"]),
        ("a = 1 OR b = 2 AND c = 3", ["a = 1 OR b = 2 AND c = 3"]),
        ("(a = 1 OR b = 2) AND c = 3", ["a = 1 OR b = 2", "c = 3"]),
        ("(a = 1) AND (b = 2)", ["a = 1", "b = 2"]),
        ("NOT (a = 1 AND b = 2)", ["NOT (a = 1 AND b = 2)"]),
    ],
)
def test_the_terms_of_a_data_query(where: str, terms: list[str]) -> None:
    assert split_terms(where) == terms

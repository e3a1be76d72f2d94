from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, Timespan

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.nights import night_bounds
from tololo.hooks.curation import CurationHook

from .curated import CALIB, NEW, OLD, content, snapshot


def valid(hook: CurationHook, moment: Time, detector: int = 1) -> str | None:
    """The RUN of the bias that an exposure of a second at this moment would get."""
    timespan = Timespan(moment, moment + TimeDelta(1, format="sec"))
    with hook.open() as butler:
        ref = butler.find_dataset(
            "bias", instrument="DECam", detector=detector, collections=CALIB, timespan=timespan
        )
        return None if ref is None else ref.run


def certify_in_process(repository: str, run: str, validity: str, start: Any, said: Any) -> None:
    start.wait()
    try:
        report = CurationHook(repository).certify(CALIB, ["bias"], [run], validity)
        said.put((run, report.certified, report.known))
    except BadInputError as error:
        said.put((run, str(error)))


def race(repository: Path | str, runs: list[str], validity: str) -> list[tuple[Any, ...]]:
    """Let processes certify at once; return what each says."""
    context = multiprocessing.get_context("fork")
    start, said = context.Barrier(len(runs)), context.Queue()
    workers = [
        context.Process(target=certify_in_process, args=(str(repository), run, validity, start, said))
        for run in runs
    ]
    for worker in workers:
        worker.start()
    answers = [said.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * len(runs)
    return answers


def race_for_one_range(repository: Path | str) -> None:
    """One of two RUNs wins, whole; the other is refused with what is in the way."""
    answers = race(repository, [OLD, NEW] * 2, "20190401..20190415")
    won = [answer for answer in answers if len(answer) == 3]
    lost = [answer for answer in answers if len(answer) == 2]
    (winner,) = {answer[0] for answer in won}
    assert sorted(answer[1:] for answer in won) == [(0, 3), (3, 0)]
    assert len(lost) == 2
    for _, error in lost:
        assert winner in error
        assert "20190401..20190415" in error
    ranges = [row for row in content(repository)["associations"] if row[0] == CALIB]
    assert len(ranges) == 3


def test_twice_is_once(hook: CurationHook) -> None:
    report = hook.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    assert (report.certified, report.known, report.validity) == (3, 0, "20190401..20190415")
    before = content(hook.repository)
    report = hook.certify(CALIB, ["bias"], [OLD], "2019-04-01T12:00:00..2019-04-16T12:00:00")
    assert (report.certified, report.known, report.validity) == (0, 3, "20190401..20190415")
    assert content(hook.repository) == before


def test_half_done_is_taken_up(hook: CurationHook) -> None:
    hook.certify(CALIB, ["bias"], [OLD], "20190401", "detector = 2")
    report = hook.certify(CALIB, ["bias"], [OLD], "20190401")
    assert (report.certified, report.known) == (2, 1)


def test_valid_in_just_these_nights(hook: CurationHook) -> None:
    hook.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    hook.certify(CALIB, ["bias"], [NEW], "20190416..20190430")
    second = TimeDelta(1, format="sec")
    begin, middle, end = (
        Time(night_bounds(night)[side], scale="utc").tai
        for night, side in ((20190401, 0), (20190415, 1), (20190430, 1))
    )
    assert [valid(hook, moment) for moment in (begin - second, begin)] == [None, OLD]
    assert [valid(hook, moment) for moment in (middle - second, middle)] == [OLD, NEW]
    assert [valid(hook, moment) for moment in (end - second, end)] == [NEW, None]


def test_an_overlap_is_refused_with_what_is_in_the_way(hook: CurationHook) -> None:
    hook.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    before = snapshot(hook.repository)
    for run, validity in (
        (NEW, "20190415..20190430"),
        (NEW, "20190401..20190415"),
        (NEW, ".."),
        (NEW, "2019-04-16T11:59:59.999999999.."),
        (OLD, "20190402..20190403"),
        (OLD, "20190401..20190416"),
    ):
        for dry_run in (True, False):
            with pytest.raises(BadInputError) as caught:
                hook.certify(CALIB, ["bias"], [run], validity, dry_run=dry_run)
            message = str(caught.value)
            there = (OLD, "20190401..20190415", "2019-04-16T12:00:00")
            for text in (*there, "3 of 3", CALIB, "detector 2", "decertify"):
                assert text in message
            assert ("the same dataset" in message) == (run == OLD)
    assert snapshot(hook.repository) == before


def test_an_overlap_of_one_detector_writes_none(hook: CurationHook) -> None:
    hook.certify(CALIB, ["bias"], [OLD], "20190401", "detector = 3")
    before = snapshot(hook.repository)
    with pytest.raises(BadInputError, match="1 of 3 datasets"):
        hook.certify(CALIB, ["bias"], [NEW], "20190401")
    assert snapshot(hook.repository) == before


def test_the_middle_of_a_range_is_taken_out(hook: CurationHook) -> None:
    hook.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    report = hook.decertify(CALIB, "bias", "20190405..20190406", "detector = 2", dry_run=True)
    left = {"20190401..20190415": 2, "20190401..20190404": 1, "20190407..20190415": 1}
    assert (report.touched, report.remaining) == (1, left)
    assert hook.decertify(CALIB, "bias", "20180101").remaining == {"20190401..20190415": 3}
    for touched in (1, 0):
        report = hook.decertify(CALIB, "bias", "20190405..20190406", "detector = 2")
        assert (report.touched, report.remaining) == (touched, left)
    inside = Time("2019-04-06T00:00:00", scale="tai")
    assert (valid(hook, inside, 2), valid(hook, inside, 1)) == (None, OLD)
    for night, detector in ((20190404, 2), (20190407, 2)):
        assert valid(hook, Timespan.from_day_obs(night, offset=43200).begin, detector) == OLD
    assert hook.certify(CALIB, ["bias"], [NEW], "20190405..20190406", "detector = 2").certified == 1
    assert valid(hook, inside, 2) == NEW


def test_ends_and_wholes_are_taken_out(hook: CurationHook) -> None:
    hook.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    assert hook.decertify(CALIB, "bias", "..20190401").remaining == {"20190402..20190415": 3}
    assert hook.decertify(CALIB, "bias", "20190410..").remaining == {"20190402..20190409": 3}
    assert hook.decertify(CALIB, "bias", "..").remaining == {}
    assert hook.decertify(CALIB, "bias", "..").touched == 0
    assert [row for row in content(hook.repository)["associations"] if row[0] == CALIB] == []


def test_a_dry_run_writes_nothing(hook: CurationHook) -> None:
    before = snapshot(hook.repository)
    report = hook.certify(CALIB, ["bias"], [OLD], "20190401..", dry_run=True)
    assert (report.certified, report.known) == (3, 0)
    assert snapshot(hook.repository) == before


def test_bad_input_is_named_and_nothing_is_written(hook: CurationHook) -> None:
    before = snapshot(hook.repository)
    good: dict[str, Any] = {
        "collection": CALIB,
        "types": ["bias"],
        "sources": [OLD],
        "validity": "20190401",
        "where": "",
    }
    for change, says in (
        ({"collection": "20190401/calib/b?as"}, r"'b\?as'"),
        ({"collection": NEW}, "is a RUN, not a CALIBRATION"),
        ({"types": ["notes"]}, "'notes' is no calibration"),
        ({"types": ["biases"]}, r"no dataset type 'biases'.*bias"),
        ({"sources": ["20190401/bias"]}, "no collection '20190401/bias'"),
        ({"validity": "yesterday"}, "not a validity range"),
        ({"where": "detector == 1"}, "cannot be understood"),
    ):
        with pytest.raises(BadInputError, match=says) as caught:
            hook.certify(**(good | change))
        assert "What to do:" in str(caught.value)
    with pytest.raises(NothingToDoError, match="detector = 9"):
        hook.certify(CALIB, ["bias"], [OLD], "20190401", "detector = 9")
    with pytest.raises(BadInputError, match="no collection '20190401/calib'"):
        hook.decertify("20190401/calib", "bias", "20190401")
    with pytest.raises(BadInputError, match="'notes' is no calibration"):
        hook.decertify(CALIB, "notes", "20190401")
    assert snapshot(hook.repository) == before


def test_processes_that_certify_at_once(hook: CurationHook) -> None:
    race_for_one_range(hook.repository)


def test_the_middleware_agrees(hook: CurationHook) -> None:
    """What `butler certify-calibrations` would write for the same range is known already."""
    hook.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    with Butler.from_config(hook.repository, writeable=True) as butler:
        refs = butler.query_datasets("bias", NEW)
        butler.registry.certify(CALIB, refs, Timespan(Time("2019-04-16T12:00:00", scale="tai"), None))
    assert hook.certify(CALIB, ["bias"], [NEW], "20190416..").known == 3

"""Scorecards of two nights: one of raws with faults, and one of InstCal that the engine reduced."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from conftest import BAD_VISIT, DETECTOR, GOOD_VISITS, Reduced
from conftest import NIGHT as INSTCAL_NIGHT
from hooks import scored_night
from hooks.scored_night import BEFORE, CLOUDED, DETECTORS, INCOMPLETE, NIGHT
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.scorecard import read_limits
from tololo.hooks import scorecard
from tololo.hooks.butler import ButlerHook
from tololo.hooks.scorecard import NightScore, read_scorecard, read_summary, score_night, verdicts
from tololo.hooks.template import TemplateHook

CHAIN = f"{NIGHT}/drp"
DATASETS = ("night_scorecard", "night_summary", "night_plot")


@pytest.fixture(scope="module")
def visits_and_repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[int], Path]:
    folder = tmp_path_factory.mktemp("scored")
    truth = scored_night.simulate(folder / "nights")
    visits = [int(visit) for visit in sorted(truth.exposures["visit"])]
    return visits, scored_night.build(truth, folder / "repository")


@pytest.fixture
def visits(visits_and_repository: tuple[list[int], Path]) -> list[int]:
    return visits_and_repository[0]


@pytest.fixture
def repository(visits_and_repository: tuple[list[int], Path], tmp_path: Path) -> Path:
    """The night of raws, not yet scored."""
    return Path(shutil.copytree(visits_and_repository[1], tmp_path / "repository"))


@pytest.fixture
def butler(repository: Path) -> Iterator[Butler]:
    with Butler.from_config(str(repository), writeable=True) as butler:
        yield butler


@pytest.fixture
def instcal(reduced: Reduced, tmp_path: Path) -> Iterator[Butler]:
    """The night of InstCal, in which one detector could not be calibrated."""
    with Butler.from_config(str(reduced.copy(tmp_path)), writeable=True) as butler:
        yield butler


def scorecards(butler: Butler) -> list[str]:
    return sorted(butler.collections.query("*/scorecard/*"))


def test_a_night_with_a_cloud_and_a_missing_ccd(butler: Butler, visits: list[int]) -> None:
    score = score_night(butler, NIGHT, "drp")
    clouded, incomplete = visits[CLOUDED], visits[INCOMPLETE]
    assert (score.visits, score.accepted, score.is_new) == (3, 1, True)
    assert clouded in [*score.flagged, *score.rejected]
    table = read_scorecard(butler, NIGHT, "drp")
    assert table is not None
    rows = {int(row["visit"]): row for row in table}
    good = rows[visits[0]]
    assert good["verdict"] == "accepted"
    assert 0.8 < good["transparency"] < 1.05
    assert 0.8 < good["seeing"] < 1.3
    assert 0 < good["astrometric_rms"] < 50
    assert good["airmass"] >= 1
    assert (good["detectors"], good["detectors_expected"], good["band"]) == (2, 2, "r")
    assert rows[clouded]["transparency"] < 0.35
    assert "transparency" in rows[clouded]["reasons"]
    assert rows[clouded]["depth"] < good["depth"] - 0.5
    assert (rows[incomplete]["detectors"], rows[incomplete]["verdict"]) == (1, "flagged")
    assert rows[incomplete]["reasons"] == (
        "1 of 2 detectors were calibrated, less than 90%: the night has no raw of it, detector 35."
    )
    # MJD TAI of the middle of each exposure, as the summaries of its detectors have it.
    (detector,) = butler.get(
        "detector_summary", instrument="DECam", visit=visits[0], detector=28, collections=CHAIN
    )
    assert good["mjd"] == pytest.approx(detector["mjd_tai"], abs=1e-6)


def test_the_summary_says_what_was_used_and_what_is_missing(butler: Butler, visits: list[int]) -> None:
    score_night(butler, NIGHT, "drp")
    summary = read_summary(butler, NIGHT, "drp")
    assert summary is not None
    whole = summary["detectors"]
    assert (whole["done"], whole["expected"]) == (5, 6)
    assert whole["by_detector"] == [
        {"detector": 28, "expected": 3, "done": 3},
        {"detector": 35, "expected": 3, "done": 2},
    ]
    uses = {use["kind"]: use for use in summary["calibrations"]}
    assert (uses["bias"]["night"], uses["bias"]["age"]) == (NIGHT, 0)
    assert (uses["flat"]["night"], uses["flat"]["age"]) == (BEFORE, -2)
    assert uses["flat"]["physical_filter"] == scored_night.FILTER
    assert uses["flat"]["detectors"] == list(DETECTORS)
    (failure,) = summary["failures"]
    assert (failure["count"], failure["visits"]) == (1, [visits[INCOMPLETE]])
    table = read_scorecard(butler, NIGHT, "drp")
    assert table is not None
    assert set(table["calibration_age"]) == {2.0}


def test_it_lies_in_front_of_the_chain_and_the_plot_is_a_png(butler: Butler) -> None:
    before = butler.collections.get_info(CHAIN).children
    score = score_night(butler, NIGHT, "drp")
    assert butler.collections.get_info(CHAIN).children == (score.run, *before)
    assert score.run.startswith(f"{CHAIN}/scorecard/2")
    for kind in DATASETS:
        ref = butler.find_dataset(kind, instrument="DECam", day_obs=NIGHT, collections=CHAIN)
        assert ref is not None
        assert ref.run == score.run
    assert butler.getURI(ref).read().startswith(b"\x89PNG")


def test_the_same_again_adds_nothing_and_other_limits_do(butler: Butler, visits: list[int]) -> None:
    first = score_night(butler, NIGHT, "drp")
    again = score_night(butler, NIGHT, "drp")
    assert (again.run, again.is_new) == (first.run, False)
    assert scorecards(butler) == [first.run]
    loose = read_limits({"detectors": {"flag": 0.4}, "transparency": {"flag": 0.05}})
    other = score_night(butler, NIGHT, "drp", limits=loose)
    assert (other.is_new, other.accepted) == (True, 3)
    assert set(verdicts(butler, NIGHT, "drp").values()) == {"accepted"}
    assert butler.collections.get_info(CHAIN).children[:2] == (other.run, first.run)


@pytest.mark.parametrize("killed_at", ["night_scorecard", "night_plot", "chain"])
def test_a_rerun_mends_what_a_killed_one_left(repository: Path, killed_at: str) -> None:
    if (child := os.fork()) == 0:
        try:
            _score_and_die(repository, killed_at)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    with Butler.from_config(str(repository), writeable=True) as butler:
        left = scorecards(butler)
        assert len(left) == 1
        assert bool(verdicts(butler, NIGHT, "drp")) == (killed_at == "chain")
        score = score_night(butler, NIGHT, "drp")
        assert [score.run] == left == scorecards(butler)
        assert butler.collections.get_info(CHAIN).children[0] == score.run
        for kind in DATASETS:
            assert len(butler.query_datasets(kind, CHAIN, find_first=False)) == 1
        assert len(verdicts(butler, NIGHT, "drp")) == 3
        plot = butler.find_dataset("night_plot", instrument="DECam", day_obs=NIGHT, collections=CHAIN)
        assert plot is not None
        assert butler.getURI(plot).read().endswith(b"IEND\xaeB`\x82")


def _score_and_die(repository: Path, killed_at: str) -> None:
    """Score the night in this process, which is killed once a dataset is put, or before the chain is."""
    with Butler.from_config(str(repository), writeable=True) as butler:
        put = type(butler).put

        def killing(*args: Any, **more: Any) -> Any:
            ref = None if killed_at == "chain" else put(*args, **more)
            if ref is None or ref.datasetType.name == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return ref

        if killed_at == "chain":
            scorecard.write_chain = killing
        else:
            type(butler).put = killing
        score_night(butler, NIGHT, "drp")


def test_a_dry_run_writes_nothing(butler: Butler, repository: Path, visits: list[int]) -> None:
    before = ButlerHook(repository).collections()
    score = score_night(butler, NIGHT, "drp", dry_run=True)
    assert (score.run, score.visits, score.accepted) == ("", 3, 1)
    assert ButlerHook(repository).collections() == before
    assert not list(butler.registry.queryDatasetTypes("night_*"))


@pytest.mark.parametrize("where", ["detector = 28", "instrument = 'DECam' AND detector IN (28)"])
def test_what_was_tried_counts_also_where_it_was_not_asked_for(butler: Butler, where: str) -> None:
    assert score_night(butler, NIGHT, "drp", where=where).visits == 3
    table = read_scorecard(butler, NIGHT, "drp")
    assert table is not None
    assert set(table["detectors_expected"]) == {2}


def test_only_what_was_asked_for_is_expected(butler: Butler, visits: list[int]) -> None:
    refs = [
        ref
        for kind in ("detector_summary", "visit_summary", "visit_image", "single_visit_star")
        for ref in butler.query_datasets(kind, CHAIN)
    ]
    butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
    score = score_night(butler, NIGHT, "drp", where=f"visit = {visits[0]} AND detector = 28")
    assert (score.visits, score.rejected) == (1, [visits[0]])
    table = read_scorecard(butler, NIGHT, "drp")
    assert table is not None
    assert table["reasons"][0] == "0 of 1 detectors were calibrated: no run has tried it, detector 28."
    assert score_night(butler, NIGHT, "drp", where="band = 'r'").visits == 3
    with pytest.raises(NothingToDoError, match="no exposures"):
        score_night(butler, NIGHT, "drp", where="band = 'g'")


def test_what_was_taken_out_of_the_night_later_is_rejected(butler: Butler, visits: list[int]) -> None:
    assert verdicts(butler, NIGHT, "drp") == {}
    score_night(butler, NIGHT, "drp")
    assert verdicts(butler, NIGHT, "drp")[visits[0]] == "accepted"
    raws = butler.query_datasets(
        "raw", f"{CHAIN}/raw", where=f"instrument = 'DECam' AND exposure = {visits[0]}"
    )
    butler.registry.disassociate(f"{CHAIN}/raw", raws)
    score_night(butler, NIGHT, "drp")
    assert verdicts(butler, NIGHT, "drp")[visits[0]] == "rejected"


def test_a_clouded_exposure_does_not_enter_a_template(
    repository: Path, butler: Butler, visits: list[int]
) -> None:
    hook = TemplateHook(ButlerHook(repository), "2019", "meanclip")
    unscored = hook.select("", "")
    assert (unscored.n_visits, unscored.left_out.unscored) == (3, [NIGHT])
    score_night(butler, NIGHT, "drp")
    chosen = hook.select("", "")
    assert (chosen.n_visits, chosen.n_images, chosen.nights) == (1, 2, [NIGHT])
    assert set(chosen.left_out.visits) == {visits[CLOUDED], visits[INCOMPLETE]}
    assert chosen.version != unscored.version
    tagged = butler.query_datasets("visit_image", chosen.inputs)
    assert {ref.dataId["visit"] for ref in tagged} == {visits[0]}


def test_a_failure_is_told_by_its_reason_and_time_is_that_of_the_run(instcal: Butler) -> None:
    score = score_night(instcal, INSTCAL_NIGHT, "instcal")
    assert (score.visits, score.accepted, score.rejected) == (3, 2, [BAD_VISIT])
    summary = read_summary(instcal, INSTCAL_NIGHT, "instcal")
    assert summary is not None
    (failure,) = summary["failures"]
    assert (failure["label"], failure["count"], failure["visits"]) == ("calibrateInstcal", 1, [BAD_VISIT])
    # What is wrong, without the type of the exception, the place and the remedy.
    assert failure["reason"].startswith("The astrometry")
    assert "Where" not in failure["reason"]
    assert f"visit {BAD_VISIT}" in failure["example"]
    assert summary["seconds"]["instcal"] > 0
    assert summary["calibrations"] == []
    table = read_scorecard(instcal, INSTCAL_NIGHT, "instcal")
    assert table is not None
    row = table[list(table["visit"]).index(BAD_VISIT)]
    assert failure["reason"] in row["reasons"]
    assert f"detector {DETECTOR}" in row["reasons"]
    assert verdicts(instcal, INSTCAL_NIGHT, "instcal") == dict.fromkeys(GOOD_VISITS, "accepted") | {
        BAD_VISIT: "rejected"
    }


def test_without_a_summary_of_the_visit_those_of_its_detectors_serve(instcal: Butler) -> None:
    with_summary: NightScore = score_night(instcal, INSTCAL_NIGHT, "instcal", dry_run=True)
    refs = instcal.query_datasets("visit_summary", f"{INSTCAL_NIGHT}/instcal")
    instcal.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
    assert score_night(instcal, INSTCAL_NIGHT, "instcal", dry_run=True).text == with_summary.text


@pytest.mark.parametrize(
    ("night", "proc_type", "error", "says"),
    [
        (20190501, "drp", NothingToDoError, "Night 20190501 has no exposures"),
        (20190231, "drp", BadInputError, "no date"),
        (NIGHT, "bias", BadInputError, "drp or instcal"),
    ],
)
def test_what_cannot_be_scored_is_said(
    butler: Butler, night: int, proc_type: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        score_night(butler, night, proc_type)
    assert scorecards(butler) == []


def test_a_data_query_that_is_none_is_refused(butler: Butler) -> None:
    with pytest.raises(BadInputError, match="cannot be understood"):
        score_night(butler, NIGHT, "drp", where="detectr = 28")

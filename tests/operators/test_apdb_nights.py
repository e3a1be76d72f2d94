"""Nights that are taken out of an APDB, and the runs that take them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DagRunTriggerException
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from astropy.table import Table
from lsst.daf.butler import Butler, DatasetType

from conftest import GOOD_VISITS, NIGHT, Reduced
from hooks.apdb.sky import run
from operators.airflow_context import TEMPLATE, connect, context
from tololo.facility.configuration import facility
from tololo.hooks.apdb import ApdbHook
from tololo.hooks.butler import ButlerHook
from tololo.operators.apdb import PrepareApdbOperator
from tololo.operators.apdb_nights import ReplayNightsOperator, WithdrawNightOperator
from tololo.reduction.apdb import CampaignApdb, open_apdb

NAME = "2019_meanclip"
PARAMS = {**TEMPLATE, "apdb": None}
DIFFERENCES = f"{NIGHT}/2019/meanclip/diff_instcal"
NIGHTS = FIRST, SECOND, THIRD = 20180211, 20180212, 20180213


def of_day(butler: Butler, name: str) -> DatasetType:
    return DatasetType(name, ("instrument", "day_obs"), "ArrowAstropy", universe=butler.dimensions)


@pytest.fixture
def apdb(repository: Path) -> CampaignApdb:
    """Three stored nights, in the APDB and in the repository."""
    butler = Butler.from_config(str(repository), writeable=True)
    for name in ("dia_object", "association_summary", "dia_source"):
        butler.registry.registerDatasetType(of_day(butler, name))
    for night in NIGHTS:
        butler.registry.insertDimensionData("day_obs", {"instrument": "DECam", "id": night})
        for chain in ("diff_drp", "diff_instcal"):
            collection = f"{night}/2019/meanclip/{chain}/difference/20190101T000000Z"
            butler.collections.register(collection)
            for name in ("dia_object", "association_summary", "dia_source"):
                butler.put(Table({"a": [1]}), name, instrument="DECam", day_obs=night, run=collection)
    hook = ApdbHook()
    hook.create(NAME)
    made = open_apdb(hook.config_path(NAME))
    run(made, 1001, 1002, 1003)
    return made


def left(repository: Path) -> list[tuple[int, str]]:
    """What the repository has, each twice: of visits from raws, and from InstCal."""
    butler = Butler.from_config(str(repository))
    kinds = ("dia_object", "association_summary", "dia_source")
    found = [
        (int(ref.dataId["day_obs"]), kind)
        for kind in kinds
        for ref in butler.query_datasets(kind, "*", find_first=False, explain=False)
        if butler.stored(ref)
    ]
    assert len(found) == 2 * len(set(found))
    return sorted(set(found))


def withdraw(night: int, **params: Any) -> Any:
    return WithdrawNightOperator(task_id="withdraw").execute(context(**PARAMS, night=str(night), **params))


def replay(night: int, own_night: bool = True, **params: Any) -> DagRunTriggerException:
    operator = ReplayNightsOperator(task_id="replay", own_night=own_night)
    with pytest.raises(DagRunTriggerException) as caught:
        operator.execute(context(**PARAMS, night=str(night), **params))
    return caught.value


def test_a_withdrawn_night_goes_from_the_apdb_and_from_the_repository(
    apdb: CampaignApdb, repository: Path
) -> None:
    before = left(repository)
    assert len(before) == 9
    dry = withdraw(SECOND, dry_run=True)
    assert (dry["withdrawn"], dry["would_wait"]) == ([], [THIRD])
    assert left(repository) == before
    assert apdb.nights() == list(NIGHTS)

    assert withdraw(SECOND) == {"apdb": NAME, "withdrawn": [SECOND, THIRD], "waiting": [THIRD]}
    assert apdb.nights() == [FIRST]
    sources = [(night, "dia_source") for night in NIGHTS]
    first = [(FIRST, "association_summary"), (FIRST, "dia_object")]
    assert left(repository) == sorted(sources + first)
    with pytest.raises(AirflowSkipException, match="Nothing of night 20180212 is stored"):
        withdraw(SECOND)


def test_a_night_that_nobody_names_is_not_withdrawn(apdb: CampaignApdb) -> None:
    with pytest.raises(AirflowFailException, match="No night is named"):
        WithdrawNightOperator(task_id="withdraw").execute(context(**PARAMS))
    assert apdb.nights() == list(NIGHTS)


def test_a_withdrawal_that_was_killed_half_way_is_completed(apdb: CampaignApdb, repository: Path) -> None:
    apdb.withdraw(SECOND)
    with pytest.raises(AirflowSkipException):
        withdraw(SECOND)
    assert {night for night, kind in left(repository) if kind == "dia_object"} == {FIRST}


def test_waiting_nights_are_run_again_one_after_the_other(apdb: CampaignApdb, repository: Path) -> None:
    apdb.withdraw(FIRST)
    run(apdb, 1001)
    first = replay(FIRST, site="local", injected="auto")
    assert first.trigger_dag_id == "difference_imaging"
    assert first.conf == {
        "repo": "butler_test",
        "coadd_subset": "2019",
        "template_type": "meanclip",
        "apdb": None,
        "site": "local",
        "thresholds": 1.0,
        "night": str(SECOND),
    }
    assert [night for night, kind in left(repository) if kind == "dia_object"] == [FIRST]
    run(apdb, 1002)
    assert replay(SECOND).conf["night"] == str(THIRD)
    run(apdb, 1003)
    with pytest.raises(AirflowSkipException, match="No night waits"):
        replay(THIRD)


def test_what_a_whole_night_did_not_take_again_waits_no_more(apdb: CampaignApdb) -> None:
    apdb.withdraw(FIRST)
    assert replay(SECOND, detectors="28").conf["night"] == str(SECOND)  # a part of the night
    assert replay(SECOND, own_night=False).conf["night"] == str(SECOND)
    assert replay(SECOND).conf["night"] == str(THIRD)
    assert apdb.waiting() == [THIRD]
    with pytest.raises(AirflowSkipException, match="night 20180213 would be run again"):
        replay(THIRD, dry_run=True)
    assert apdb.waiting() == [THIRD]


def test_an_apdb_that_is_not_there(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, repository, tmp_path)
    with pytest.raises(AirflowFailException, match="no usable APDB configuration"):
        withdraw(FIRST)
    with pytest.raises(AirflowSkipException, match="No night waits"):
        replay(FIRST)


DONE = tuple((GOOD_VISITS[0], detector) for detector in (1, 2))


@pytest.fixture
def night(reduced: Reduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with difference images of two detectors of NIGHT, and what followed from them."""
    folder = reduced.copy(tmp_path)
    connect(monkeypatch, folder, tmp_path)
    with Butler.from_config(str(folder), writeable=True) as butler:
        run_ = f"{DIFFERENCES}/difference_imaging/difference/20190401T000000Z"
        butler.collections.register(run_)
        summary = Table(rows=DONE, names=("visit", "detector"))
        for name in ("difference_image", "forced_source", "alert_packets", "association_summary"):
            of_night = name == "association_summary"
            dimensions = (
                "instrument",
                "day_obs" if of_night else "visit",
                *(() if of_night else ("detector",)),
            )
            kind = DatasetType(name, dimensions, "ArrowAstropy", universe=butler.dimensions)
            butler.registry.registerDatasetType(kind)
            for visit, detector in DONE[: 1 if of_night else None]:
                which = {"day_obs": NIGHT} if of_night else {"visit": visit, "detector": detector}
                butler.put(summary, name, instrument="DECam", run=run_, **which)
    ButlerHook(folder).write_chain(DIFFERENCES, [run_])
    return folder


def kept(repository: Path) -> dict[str, int]:
    with Butler.from_config(str(repository)) as butler:
        kinds = ("difference_image", "forced_source", "alert_packets", "association_summary")
        return {kind: len(butler.query_datasets(kind, DIFFERENCES, explain=False)) for kind in kinds}


def prepare(**params: Any) -> None:
    where = ["instrument = 'DECam'", f"visit.day_obs = {NIGHT}", f"skymap = '{facility().skymap}'"]
    task = PrepareApdbOperator(
        task_id="apdb", template_version="v1", chain=DIFFERENCES, where_terms=[*where, ""]
    )
    policies = {"apdb_policy": "use", "apdb_templates": "refuse"}
    task.execute(context(**PARAMS | policies | {"night": str(NIGHT)} | params))


WHOLE = {"difference_image": 2, "forced_source": 2, "alert_packets": 2, "association_summary": 1}
NONE = {"difference_image": 2, "forced_source": 0, "alert_packets": 2, "association_summary": 0}


def test_what_the_apdb_holds_passes_for_done(night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApdbHook, "held", lambda self, name, night, detectors: set(detectors))
    prepare(dry_run=True)
    prepare()
    prepare(where="tract >= 0 AND patch >= 0")
    assert kept(night) == WHOLE


def test_what_it_does_not_hold_does_not(night: Path) -> None:
    prepare(dry_run=True)
    assert kept(night) == WHOLE
    prepare()
    assert kept(night) == NONE
    prepare(alerts=True)
    assert kept(night) == NONE | {"alert_packets": 0}


def test_of_a_part_of_the_night_only_that_is_made_again(night: Path) -> None:
    prepare(detectors="2")
    assert kept(night) == NONE | {"forced_source": 1}


def test_nor_does_a_detector_that_came_later(night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApdbHook, "held", lambda self, name, night, detectors: set(detectors))
    with Butler.from_config(str(night), writeable=True) as butler:
        run_ = butler.collections.query(f"{DIFFERENCES}/*")[0]
        butler.put(
            Table({"a": [1]}),
            "difference_image",
            instrument="DECam",
            visit=GOOD_VISITS[0],
            detector=3,
            run=run_,
        )
    prepare(detectors="1,2")
    assert kept(night)["association_summary"] == 1
    prepare()
    assert kept(night) == NONE | {"difference_image": 3}

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from lsst.daf.butler import Butler, CollectionType, DatasetType

from conftest import DETECTOR, GOOD_VISITS, NIGHT, SPARE, Reduced
from operators.airflow_context import TEMPLATE, connect, context
from operators.conftest import Templated
from tololo.difference_params import difference_lock
from tololo.facility.configuration import facility
from tololo.facility.locks import LockOwner
from tololo.facility.scorecard import read_limits
from tololo.hooks.butler import ButlerHook
from tololo.hooks.locks import LockHook
from tololo.hooks.scorecard import score_night
from tololo.operators import difference
from tololo.operators.difference import AwaitEarlierNightsOperator, SelectDifferenceInputsOperator

PARAMS = {**TEMPLATE, "proc_type": None, "apdb": None, "earlier_nights": "wait"}
SKYMAP = f"skymap = '{facility().skymap}'"


def select(**params: Any) -> Any:
    return SelectDifferenceInputsOperator(task_id="prepare").execute(context(**PARAMS | params))


class TestInputs:
    def test_visits_and_the_accepted_version(
        self, templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, templated.repository, tmp_path)
        assert select(night=str(NIGHT)) == {
            "proc_type": "instcal",
            "where": SKYMAP,
            "template": "2019/meanclip/coadd/v1",
            "template_version": "v1",
            "visits": len(GOOD_VISITS),
            "rejected": [],
        }

    def test_a_night_without_visits_is_skipped(
        self, templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, templated.repository, tmp_path)
        with pytest.raises(AirflowSkipException, match=f"Night {SPARE} has no visits.*nightly_decam"):
            select(night=str(SPARE))
        with pytest.raises(AirflowSkipException, match=f"Night {NIGHT} has no visits.*{NIGHT}/drp"):
            select(night=str(NIGHT), proc_type="drp")

    def test_without_a_template_it_is_skipped(
        self, reduced: Reduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, reduced.repository, tmp_path)
        with pytest.raises(AirflowSkipException, match=r"no template.*2019/meanclip/coadd.*template_coadds"):
            select(night=str(NIGHT))

    def test_a_name_that_no_apdb_can_have_is_refused_before_anything_is_run(
        self, templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, templated.repository, tmp_path)
        with pytest.raises(AirflowFailException, match="is for injected sources"):
            select(night=str(NIGHT), apdb="mine_injected")

    def test_visits_that_the_scorecard_rejects_are_left_out(
        self,
        templated: Templated,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        repository = templated.copy(tmp_path)
        connect(monkeypatch, repository, tmp_path)
        select(night=str(NIGHT))
        assert f"no scorecard, so all visits are taken, of {NIGHT}" in capsys.readouterr().out
        worse = GOOD_VISITS[1]
        for limits, where in (
            ({"flag": 0.1}, SKYMAP),
            ({"flag": 0.1, "reject": 1.1}, f"{SKYMAP} AND visit NOT IN ({worse})"),
        ):
            with Butler.from_config(str(repository), writeable=True) as butler:
                score_night(butler, NIGHT, "instcal", limits=read_limits({"seeing": limits}))
            assert select(night=str(NIGHT))["where"] == where
        assert f"left out: 1 rejected ({worse})" in capsys.readouterr().out
        with Butler.from_config(str(repository), writeable=True) as butler:
            score_night(butler, NIGHT, "instcal", limits=read_limits({"seeing": {"reject": 0.1}}))
        with pytest.raises(AirflowSkipException, match="no visit that is good enough: 2 rejected"):
            select(night=str(NIGHT))


class TestAnEarlierRun:
    """The night has been subtracted before."""

    CHAIN = f"{NIGHT}/2019/meanclip/diff_instcal"

    @pytest.fixture
    def repository(self, templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = templated.copy(tmp_path)
        connect(monkeypatch, folder, tmp_path)
        return folder

    def put(self, repository: Path, kind: str, year: int, version: str = "v1") -> None:
        with Butler.from_config(str(repository), writeable=True) as butler:
            dimensions = ("instrument", "visit", "detector")
            butler.registry.registerDatasetType(
                DatasetType(kind, dimensions, "StructuredDataDict", universe=butler.dimensions)
            )
            run = f"{self.CHAIN}/difference_imaging/difference/{year}0101T000000Z"
            butler.collections.register(run)
            butler.collections.register(f"2019/meanclip/coadd/{version}", CollectionType.CHAINED)
            data_id = {"instrument": "DECam", "visit": GOOD_VISITS[0], "detector": DETECTOR}
            butler.put({}, kind, data_id, run=run)
        ButlerHook(repository).write_chain(self.CHAIN, [run], [f"2019/meanclip/coadd/{version}"])

    def is_recorded(self, repository: Path) -> bool:
        with Butler.from_config(str(repository)) as butler:
            return bool(butler.query_datasets("differenceDetector_metadata", self.CHAIN, explain=False))

    def test_with_another_version_of_the_template_is_not_mixed(self, repository: Path) -> None:
        self.put(repository, "difference_image", 2019)
        assert select(night=str(NIGHT))["template_version"] == "v1"
        self.put(repository, "difference_image", 2020, "v7")
        with pytest.raises(
            AirflowFailException, match=r"images from v7 of the template, and v1 .* remove-runs"
        ):
            select(night=str(NIGHT))

    def test_that_found_no_template_is_tried_again_with_newer_ones(self, repository: Path) -> None:
        self.put(repository, "differenceDetector_metadata", 2019)
        select(night=str(NIGHT), dry_run=True)
        assert self.is_recorded(repository)
        select(night=str(NIGHT))
        assert not self.is_recorded(repository)

    def test_and_not_without(self, repository: Path) -> None:
        self.put(repository, "differenceDetector_metadata", 2199)
        select(night=str(NIGHT))
        assert self.is_recorded(repository)
        select(night=str(NIGHT), allow_own_night=True)
        assert not self.is_recorded(repository)

    def test_that_made_a_difference_is_not(self, repository: Path) -> None:
        for kind in ("differenceDetector_metadata", "difference_image"):
            self.put(repository, kind, 2019)
        select(night=str(NIGHT), allow_own_night=True)
        assert self.is_recorded(repository)


class TestEarlierNights:
    """The run of SPARE, after that of NIGHT, which the template is not made of here."""

    OTHER = LockOwner("difference_imaging", "backfill__1", "lock")

    @pytest.fixture(autouse=True)
    def _repository(
        self, reduced: Reduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        connect(monkeypatch, reduced.repository, tmp_path)
        yield
        LockHook(self.OTHER).release([self.lock])

    @property
    def lock(self) -> str:
        return difference_lock(str(NIGHT), context(**PARAMS)["params"])

    def wait(self, timeout: float = 60.0, **params: Any) -> Any:
        task = AwaitEarlierNightsOperator(task_id="earlier", poke_interval=0.1, timeout=timeout)
        return task, context(**PARAMS | {"night": str(SPARE)} | params)

    def test_a_night_that_nobody_works_on_is_not_waited_for(self) -> None:
        task, filled = self.wait()
        assert task.execute(filled) == {"absent": []}

    def test_a_run_of_an_earlier_night_is_waited_for(self) -> None:
        LockHook(self.OTHER).acquire([self.lock])
        task, filled = self.wait()
        with pytest.raises(TaskDeferred) as stopped:
            task.execute(filled)
        assert stopped.value.trigger.locks == [self.lock]
        assert str(NIGHT) in filled["task_state_store"]["progress"]
        LockHook(self.OTHER).release([self.lock])
        event = {"outcome": "ready", "found": 1, "message": ""}
        assert task.execute_complete(filled, event, **stopped.value.kwargs) == {"absent": []}

    def test_that_of_a_later_night_is_not(self) -> None:
        LockHook(self.OTHER).acquire([self.lock])
        task, filled = self.wait(night=str(NIGHT - 1))
        assert task.execute(filled) == {"absent": []}

    @pytest.mark.parametrize("params", [{"earlier_nights": "go_on"}, {"dry_run": True}])
    def test_nor_where_it_is_not_asked_for(self, params: dict[str, Any]) -> None:
        LockHook(self.OTHER).acquire([self.lock])
        task, filled = self.wait(**params)
        assert task.execute(filled) == {"absent": []}

    def test_a_night_that_the_apdb_holds_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(difference, "_stored", lambda name: [NIGHT])
        LockHook(self.OTHER).acquire([self.lock])
        task, filled = self.wait()
        assert task.execute(filled) == {"absent": []}

    def test_a_night_with_visits_that_is_absent_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(difference, "_stored", lambda name: [NIGHT - 7])
        task, filled = self.wait()
        assert task.execute(filled) == {"absent": [NIGHT]}
        assert f"no run works on: {NIGHT}" in capsys.readouterr().out

    def test_when_the_time_is_up_it_says_for_whom(self) -> None:
        LockHook(self.OTHER).acquire([self.lock])
        task, filled = self.wait(timeout=0.0)
        with pytest.raises(AirflowSensorTimeout, match=str(NIGHT)):
            task.execute(filled)
        event = {"outcome": "timeout", "found": 0, "message": json.dumps(self.OTHER.run_id)}
        with pytest.raises(AirflowSensorTimeout, match="backfill__1"):
            task.execute_complete(filled, event, deadline=0.0)

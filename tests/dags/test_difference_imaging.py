"""The DAGs difference_imaging and apdb_nights by `dag.test` with the real engine: a night, and refusals.

NIGHT is what the template is made of, SPARE is subtracted from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from lsst.daf.butler import Butler

from conftest import DETECTOR, NIGHT, SPARE, SPARE_VISIT, Reduced, instcal_request, wait_for

DAGS = Path(__file__).parents[2] / "dags"
COADD, APDB = "2019/meanclip/coadd", "2019_meanclip"
CHAIN = f"{SPARE}/2019/meanclip/diff_instcal"
PLAIN = (
    *("lock", "visits", "templates", "prepare", "difference", "earlier"),
    *("apdb_lock", "apdb", "associate", "unlock", "night"),
)
NOTHING = {"lock", "unlock"}
"""What succeeds of a run that has nothing to do."""
INJECTED = ("injection", "inject", "recovery")


@pytest.fixture(scope="module")
def repository(reduced: Reduced, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both nights reduced, and version 1 of the template made of NIGHT."""
    from tololo.engine.attempt import ENDED
    from tololo.facility.configuration import INCLUDE, facility
    from tololo.hooks.bps import BpsHook
    from tololo.hooks.butler import ButlerHook
    from tololo.hooks.template import TemplateHook

    root = tmp_path_factory.mktemp("difference")
    repository = reduced.copy(root)
    spare = BpsHook(root / "spare").attach_or_start(instcal_request(repository, SPARE))
    assert wait_for(spare, ENDED).outcome
    hook = TemplateHook(ButlerHook(str(repository)), "2019", "meanclip")
    selected = hook.select(str(NIGHT), "")
    request = instcal_request(
        repository,
        NIGHT,
        pipeline=f"{INCLUDE}/pipelines/embedded/template_coadds.yaml#coadd",
        parent=selected.version,
        step="coadd",
        inputs=[selected.inputs, "skymaps"],
        where=f"instrument = 'DECam' AND skymap = '{facility().skymap}'",
    )
    coadd = BpsHook(root / "coadd").attach_or_start(replace(request, config={}))
    assert wait_for(coadd, ENDED).outcome
    assert hook.accept(selected.version) > 0
    return repository


@pytest.fixture(scope="module", autouse=True)
def _airflow(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A database for Airflow, which knows the folder of DAGs, the repository and a folder of APDBs."""
    from airflow.utils.db import initdb

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(DAGS))
        monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        butler = {"conn_type": "butler", "host": str(repository)}
        apdb = {"conn_type": "apdb", "extra": {"backend": "sqlite", "config_folder": str(home / "apdb")}}
        monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", json.dumps(butler))
        monkeypatch.setenv("AIRFLOW_CONN_APDB_DEFAULT", json.dumps(apdb))
        initdb()
        yield


class Run:
    """A run of a DAG for a night."""

    def __init__(self, night: int, dag_id: str = "difference_imaging", **params: Any) -> None:
        dag = DagBag(str(DAGS / f"{dag_id}.py"), collect_dags=True).dags[dag_id]
        given = {"coadd_subset": "2019", "night": str(night), "site": "local"}
        instances = dag.test(run_conf=given | params).get_task_instances()
        self.states = {instance.task_id: str(instance.state) for instance in instances}
        self.state, self.run_id = str(instances[0].dag_run.state), instances[0].run_id
        self._any = instances[0]

    def returned(self, task: str) -> Any:
        return self._any.xcom_pull(task_ids=task)

    def of(self, state: str) -> set[str]:
        return {task for task, found in self.states.items() if found == state}


def rows() -> dict[str, int]:
    from tololo.hooks.apdb import ApdbHook

    return ApdbHook().counts(APDB)


def published(run: Run) -> list[dict[str, Any]]:
    """Return what the events of a run tell."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetModel.name, AssetEvent.extra).join(
            AssetEvent, AssetEvent.asset_id == AssetModel.id
        )
        found = session.execute(query.where(AssetEvent.source_run_id == run.run_id)).all()
    return [{"asset": name, **extra} for name, extra in found]


def images(repository: Path, chain: str) -> set[Any]:
    with Butler.from_config(str(repository)) as butler:
        kinds = ("difference_image", "dia_source_unfiltered", "association_summary")
        found = [butler.query_datasets(kind, chain, find_first=False, explain=False) for kind in kinds]
        return {ref.id for refs in found for ref in refs}


@pytest.fixture(scope="module")
def plain() -> Run:
    return Run(SPARE)


def test_a_night_is_subtracted_and_associated(plain: Run, repository: Path) -> None:
    assert plain.of("success") == set(PLAIN)
    assert plain.of("skipped") == {*INJECTED, "alerts", "replay"}
    assert plain.state == "success"
    assert plain.returned("prepare")["template"] == f"{COADD}/v1"
    assert plain.returned("apdb")["outcome"] == "created"
    done = {task: plain.returned(task)["done"] for task in ("difference", "associate")}
    assert done == {"difference": 1, "associate": 2}
    with Butler.from_config(str(repository), collections=CHAIN) as butler:
        (row,) = butler.get("association_summary", instrument="DECam", day_obs=SPARE)
        assert (row["visit"], row["detector"]) == (SPARE_VISIT, DETECTOR)
        assert butler.get("difference_image", instrument="DECam", visit=SPARE_VISIT, detector=DETECTOR)


def test_its_event_tells_what_it_finished(plain: Run) -> None:
    (event,) = published(plain)
    associated = plain.returned("associate")
    assert event == {
        **{"asset": "differences", "night": str(SPARE), "repo": "butler_default", "apdb": APDB},
        **{"template": f"{COADD}/v1", "visits": 1, "rejected": []},
        **{"chain": CHAIN, "run": associated["run"], "done": 2},
    }


def test_the_apdb_knows_the_version_of_its_template(plain: Run) -> None:
    from tololo.hooks.apdb import ApdbHook

    hook = ApdbHook()
    with hook.opened(APDB) as apdb:
        assert apdb.metadata.get("tololo:template_version") == "v1"
    assert hook.nights(APDB) == [SPARE]


def test_again_adds_nothing(plain: Run, repository: Path) -> None:
    before = rows(), images(repository, f"{SPARE}/*")
    again = Run(SPARE)
    assert again.state == "success"
    assert again.returned("apdb")["outcome"] == "used"
    assert (rows(), images(repository, f"{SPARE}/*")) == before


def test_injected_sources_run_beside_the_plain_night(plain: Run, repository: Path) -> None:
    before = rows(), images(repository, CHAIN)
    run = Run(SPARE, injected="auto")
    assert {run.states[task] for task in INJECTED} == {"success"}
    assert run.state == "success"
    assert (rows(), images(repository, CHAIN)) == before
    assert run.returned("inject")["chain"] == f"{CHAIN}_injected"
    assert not images(repository, CHAIN) & images(repository, f"{CHAIN}_injected")
    assert run.returned("recovery")["bands"]["r"]["injected"] > 0


def test_a_template_of_the_night_itself_is_refused(plain: Run, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(NIGHT)
    assert (run.states["visits"], run.states["templates"]) == ("success", "skipped")
    assert run.states["difference"] == run.states["associate"] == "skipped"
    assert (run.states["unlock"], run.state) == ("success", "success")


def test_an_earlier_night_that_comes_late_is_refused(plain: Run) -> None:
    before = rows()
    run = Run(NIGHT, allow_own_night=True)
    assert (run.states["difference"], run.states["associate"], run.state) == ("success", "failed", "failed")
    assert run.states["unlock"] == "success"
    assert rows() == before


def test_what_was_refused_is_taken_once_its_cause_is_gone(plain: Run) -> None:
    """The cause of the test before: here the later night is taken out behind the Butler's back."""
    from tololo.hooks.apdb import ApdbHook

    before, hook = rows(), ApdbHook()
    hook.withdraw(APDB, SPARE)
    assert Run(NIGHT, allow_own_night=True).state == "success"
    assert hook.nights(APDB) == [NIGHT]
    hook.withdraw(APDB, NIGHT)
    # What the Butler has of the night would pass for done, though the APDB has nothing of it.
    assert Run(SPARE).state == "success"
    assert (rows(), hook.waiting(APDB)) == (before, [])


def test_an_apdb_that_is_reset_gets_the_night_again(plain: Run) -> None:
    before = rows()
    run = Run(SPARE, apdb_policy="reset")
    assert (run.returned("apdb")["outcome"], run.state) == ("reset", "success")
    assert rows() == before


def test_a_night_without_visits_is_skipped(plain: Run) -> None:
    run = Run(20190501)
    assert run.of("success") == NOTHING
    assert run.state == "success"
    assert published(run) == []


def test_a_dry_run_touches_nothing(plain: Run, repository: Path) -> None:
    files = {(path, path.stat().st_size) for path in repository.rglob("*") if path.is_file()}
    before = rows()
    assert Run(NIGHT, dry_run=True, allow_own_night=True, late_nights="replay").state == "success"
    assert {(path, path.stat().st_size) for path in repository.rglob("*") if path.is_file()} == files
    assert rows() == before


@pytest.mark.long
def test_a_night_is_withdrawn_and_comes_back_as_it_was(plain: Run) -> None:
    before = rows()
    taken = Run(SPARE, "apdb_nights", action="withdraw")
    assert (taken.states["withdraw"], taken.states["replay"], taken.state) == (
        "success",
        "skipped",
        "success",
    )
    assert taken.returned("withdraw")["withdrawn"] == [SPARE]
    assert rows() == dict.fromkeys(before, 0)
    assert Run(SPARE).state == "success"
    assert rows() == before

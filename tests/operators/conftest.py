from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import GOOD_VISITS, Reduced
from hooks.tom.server import RealTom
from operators.airflow_context import TEMPLATE, connect, context
from tololo.services.home import Home


@pytest.fixture(autouse=True)
def _outside_the_task_runner() -> Iterator[None]:
    """Let tests call `execute` themselves."""
    from airflow.sdk.bases.operator import ExecutorSafeguard

    ExecutorSafeguard.test_mode = True
    yield
    ExecutorSafeguard.test_mode = False


@pytest.fixture(scope="session")
def tom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealTom]:
    """A TOM Toolkit server, which the connection `tom_test` leads to."""
    server = RealTom(Home(root=tmp_path_factory.mktemp("tom"), tom_port=18101))
    connection = {"conn_type": "tom", "host": server.info.url, "password": server.info.token}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AIRFLOW_CONN_TOM_TEST", json.dumps(connection))
        yield server
    server.stop()


@pytest.fixture(scope="session")
def without_exposures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that nothing was ingested into; tests that write take a copy."""
    from tololo.hooks.bootstrap import BootstrapPlan, bootstrap

    folder = tmp_path_factory.mktemp("empty") / "repository"
    bootstrap(BootstrapPlan(str(folder)), ["create", "instrument", "chains"])
    return folder


@pytest.fixture
def repository(without_exposures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `without_exposures`, which the connections lead to."""
    folder = Path(shutil.copytree(without_exposures, tmp_path / "repository"))
    connect(monkeypatch, folder, tmp_path)
    return folder


@dataclass(frozen=True)
class Templated:
    """A repository with version 1 of a template, made of one visit, and what its tasks returned."""

    repository: Path
    selected: dict[str, Any]
    ran: dict[str, Any]
    judged: dict[str, Any]
    progress: str
    accepted: dict[str, Any]

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.repository, folder / "repository"))


def coadd_operator(selected: dict[str, Any]) -> Any:
    """The task of template_coadds that runs the pipeline, with its templates filled in."""
    from tololo.operators.bps import RunPipelineOperator
    from tololo.params import PIPELINES

    return RunPipelineOperator(
        task_id="coadd",
        pipeline=f"{PIPELINES}/template_coadds.yaml#coadd,metrics",
        parent=selected["version"],
        step="coadd",
        inputs=f"{selected['inputs']},skymaps",
        where_terms=["instrument = 'DECam'", selected["where"], ""],
        pipeline_config={"assembleTemplateCoadd:method": "meanclip"},
        conn_id="butler_test",
        site="parsl",
        deferrable=False,
    )


@pytest.fixture(scope="session")
def templated(reduced: Reduced, tmp_path_factory: pytest.TempPathFactory) -> Templated:
    """Version 1 of the template 2019/meanclip; tests that write take a copy."""
    from airflow.sdk.bases.operator import ExecutorSafeguard

    from tololo.operators.template import SelectTemplateInputsOperator
    from tololo.operators.template_acceptance import AcceptTemplateOperator, JudgeTemplateOperator

    folder = tmp_path_factory.mktemp("templated")
    repository = reduced.copy(folder)
    params = {**TEMPLATE, "nights": "", "bands": ["r"], "where": f"visit = {GOOD_VISITS[0]}"}
    with pytest.MonkeyPatch.context() as monkeypatch:
        connect(monkeypatch, repository, folder)
        monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
        selected = SelectTemplateInputsOperator(task_id="select").execute(context(**params))
        running = context(**params)
        ran = coadd_operator(selected).execute(running)
        judge = JudgeTemplateOperator(task_id="judge")
        judged = judge.execute(context(**params, xcoms={"select": selected}))
        accept = AcceptTemplateOperator(task_id="accept")
        accepted = accept.execute(context(**params, xcoms={"select": selected, "judge": judged}))
    return Templated(repository, selected, ran, judged, running["task_state_store"]["progress"], accepted)

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, CronPartitionTimetable
from airflow.sdk.definitions.param import Param
from airflow.serialization.serialized_objects import DagSerialization
from lsst.pipe.base import Pipeline

from conftest import NIGHT
from operators.airflow_context import context
from tololo.facility import collections
from tololo.operators.bps import RunPipelineOperator

ROOT = Path(__file__).parents[2]
COMMON = {"repo", "night", "detectors", "where", "site", "dry_run"}
TEMPLATE = {"coadd_subset", "template_type"}
OWN = {
    "repo_bootstrap": {"registry", "instrument", "skymap", "calibrations", "refcats", "steps"},
    "nightly_decam": {
        *("source", "data", "wait", "filters", "proc_types", "steps"),
        *("max_calib_age", "injected", "thresholds", "retry_failed"),
    },
    "template_coadds": TEMPLATE
    | {"proc_type", "nights", "bands", "selection", "patches", "warp", "acceptance"}
    | {"thresholds", "retry_failed"},
    "difference_imaging": TEMPLATE
    | {"proc_type", "injected", "apdb", "apdb_policy", "apdb_templates", "thresholds", "retry_failed"}
    | {"wait", "coverage", "partial", "allow_own_night", "method", "alerts"}
    | {"earlier_nights", "late_nights"},
    "apdb_nights": TEMPLATE | {"proc_type", "apdb", "action"},
    "break_lock": {"locks", "reason", "only"},
    "photometry_to_tom": TEMPLATE
    | {"source", "apdb", "selection", "targets", "tom", "publish", "create_targets"}
    | {"manager", "datasets", "again", "lock_policy", "download", "proposals", "start", "end"},
    "run_pipeline": {"pipeline", "inputs", "output", "config", "thresholds", "retry_failed"},
}
REQUIRED = {"run_pipeline": {"pipeline", "inputs", "output"}, "break_lock": {"locks", "reason"}}
"""Params that have to be given: there is no default that makes sense."""
NIGHTLY = {"nightly_decam", "difference_imaging", "photometry_to_tom"}
HEAVY = {"lsst", "astropy", "numpy", "numba", "scipy"}


def bag() -> DagBag:
    return DagBag(str(ROOT / "dags"), collect_dags=True)


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    found = bag()
    assert found.import_errors == {}
    return dict(found.dags)


def params_of(dag: DAG) -> dict[str, Param]:
    return {name: dag.params.get_param(name) for name in dag.params}


def test_there_are_these_dags(dags: dict[str, DAG]) -> None:
    assert set(dags) == set(OWN)
    assert {Path(dag.fileloc).stem: name for name, dag in dags.items()} == {name: name for name in OWN}


@pytest.mark.parametrize("name", OWN)
def test_schedule(dags: dict[str, DAG], name: str) -> None:
    dag = dags[name]
    assert dag.catchup is False
    if name not in NIGHTLY:
        assert dag.schedule is None
        return
    timetable = dag.timetable
    assert isinstance(timetable, CronPartitionTimetable)
    assert (timetable.expression, timetable.run_offset, timetable.key_format) == ("0 0 * * *", -1, "%Y%m%d")
    assert str(getattr(timetable.timezone, "key", None) or timetable.timezone) == "Etc/GMT+12"


def test_assets_draw_what_follows_from_what_and_start_nothing(dags: dict[str, DAG]) -> None:
    drawn = {
        (asset.name, name, made.name)
        for name, dag in dags.items()
        for task in dag.tasks
        for asset in task.inlets
        for made in task.outlets
    }
    assert drawn == {
        ("visits", "template_coadds", "templates"),
        ("visits", "difference_imaging", "differences"),
        ("templates", "difference_imaging", "differences"),
        ("differences", "photometry_to_tom", "light_curves"),
    }
    makers = {asset.name: name for name, dag in dags.items() for task in dag.tasks for asset in task.outlets}
    assert makers["visits"] == "nightly_decam"
    assert not any(dag.timetable.asset_condition for dag in dags.values())


@pytest.mark.parametrize("name", OWN)
def test_params(dags: dict[str, DAG], name: str) -> None:
    params = params_of(dags[name])
    assert set(params) == COMMON | OWN[name]
    for key, param in params.items():
        assert param.description, f"{key} has no description"
        for field in ("title", "section", "type"):
            assert param.schema.get(field), f"{key} has no {field}"
        if key in REQUIRED.get(name, ()):
            assert not param.has_value
        else:
            assert json.dumps(param.resolve()) == json.dumps(param.value)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("nightly_decam", "night", "2019-04-01"),
        ("nightly_decam", "night", "201904011"),
        ("nightly_decam", "detectors", "1;2"),
        ("nightly_decam", "site", "moon"),
        ("nightly_decam", "thresholds", 1.5),
        ("template_coadds", "coadd_subset", "20 19"),
        ("template_coadds", "template_type", "best"),
        ("template_coadds", "selection", {"max_seeing": 0}),
        ("template_coadds", "selection", {"best_seeing": 1.5}),
        ("template_coadds", "selection", {"verdicts": ["rejected"]}),
        ("template_coadds", "selection", {"smallest": 3}),
        ("template_coadds", "warp", "best"),
        ("template_coadds", "acceptance", "maybe"),
        ("difference_imaging", "apdb_policy", "destroy"),
        ("difference_imaging", "wait", -1),
        ("difference_imaging", "coverage", 1.5),
        ("difference_imaging", "partial", "perhaps"),
        ("difference_imaging", "method", "hotpants"),
        ("difference_imaging", "earlier_nights", "skip"),
        ("difference_imaging", "late_nights", "drop"),
        ("difference_imaging", "injected", True),
        ("apdb_nights", "action", "delete"),
        ("break_lock", "locks", ""),
        ("break_lock", "reason", None),
        ("break_lock", "only", "never"),
        ("difference_imaging", "apdb", "a; drop table"),
        ("photometry_to_tom", "selection", 0),
        ("repo_bootstrap", "steps", ["dance"]),
        ("run_pipeline", "pipeline", ""),
        ("run_pipeline", "inputs", None),
        ("run_pipeline", "config", {"a:b": {"c": 1}}),
        ("run_pipeline", "thresholds", {"instcal": 95}),
        ("run_pipeline", "retry_failed", "yes"),
    ],
)
def test_wrong_values_are_refused_at_the_form(dags: dict[str, DAG], name: str, key: str, value: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dags[name].params.get_param(key).resolve(value)


@pytest.mark.parametrize("name", OWN)
def test_documentation_starts_with_a_title(dags: dict[str, DAG], name: str) -> None:
    lines = (dags[name].doc_md or "").strip().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) > 3


@pytest.mark.parametrize("name", OWN)
def test_tasks_of_a_person_are_tried_again_and_have_an_owner(dags: dict[str, DAG], name: str) -> None:
    for task in dags[name].tasks:
        assert task.owner == "tololo"
        assert task.retries >= 1


def test_serialising_twice_is_identical(dags: dict[str, DAG]) -> None:
    again = dict(bag().dags)
    for name in OWN:
        first, second = (
            json.dumps(DagSerialization.to_dict(version), sort_keys=True)
            for version in (dags[name], again[name])
        )
        assert first == second


def test_parsing_imports_nothing_heavy() -> None:
    program = (
        "import sys; from airflow.dag_processing.dagbag import DagBag; bag = DagBag('dags');"
        "assert not bag.import_errors, bag.import_errors;"
        f"print(len(bag.dags), *({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == str(len(OWN))


class XComs(dict[str, dict[str, str]]):
    """What earlier tasks returned, as templates ask for it."""

    def xcom_pull(self, task_ids: str) -> dict[str, str]:
        return self[task_ids]


RETURNED = XComs(
    select={
        "version": "2019/meanclip/coadd/v1",
        "inputs": "2019/meanclip/coadd/v1/inputs",
        "where": "skymap = 's'",
        "fwhm": 1.6,
    },
    prepare={"template": "2019/meanclip/coadd/v1", "proc_type": "drp", "where": "skymap = 's'"},
    apdb={"apdb_config": "/somewhere/2019_meanclip.yaml"},
    injection={
        "collection": "injection/ring",
        "pipeline": "injection.yaml",
        "inputs": "injection/ring,20190309/drp",
    },
)


@pytest.mark.parametrize("name", ["nightly_decam", "template_coadds", "difference_imaging"])
def test_what_is_asked_of_bps_can_be_asked(dags: dict[str, DAG], name: str) -> None:
    """Templates render; names of collections are good; the pipeline takes the configuration."""
    asked = [task for task in bag().dags[name].tasks if isinstance(task, RunPipelineOperator)]
    assert asked
    params = {key: param.resolve() for key, param in params_of(dags[name]).items()}
    for task in asked:
        filled = context(key=str(NIGHT), **params) | {"ti": RETURNED}
        task.render_template_fields(filled)
        rendered = json.dumps([getattr(task, field) for field in task.template_fields])
        assert "{{" not in rendered
        assert "None" not in rendered
        collections.check_name(task.parent)
        for given in task.inputs.split(","):
            collections.check_name(given)
        assert (task.conn_id, task.site) == ("butler_default", "local")
        pipeline = Pipeline.from_uri(task.pipeline)
        for key, value in task.pipeline_config.items():
            label, _, field = key.partition(":")
            pipeline.addConfigOverride(label, field, value)
        assert pipeline.to_graph().tasks
    if name != "template_coadds":
        assert str(NIGHT) in task.parent
        assert f"visit.day_obs = {NIGHT}" in task.where_terms


@pytest.mark.parametrize(("source", "subset"), [("raw", "inject"), ("instcal", "inject_instcal")])
def test_injected_sources_have_chains_of_their_own(dags: dict[str, DAG], source: str, subset: str) -> None:
    params = {key: param.resolve() for key, param in params_of(dags["nightly_decam"]).items()}
    task = bag().dags["nightly_decam"].get_task("inject")
    task.render_template_fields(context(key=str(NIGHT), **params | {"source": source}) | {"ti": RETURNED})
    assert task.parent == f"{NIGHT}/{'drp' if source == 'raw' else 'instcal'}_injected"
    assert task.pipeline.endswith(f"#{subset}")
    assert ("calib" in task.inputs) == (source == "raw")


@pytest.mark.parametrize(
    ("proc_types", "source", "skips"), [(["bias"], "raw", True), (["bias"], "instcal", False)]
)
def test_only_visits_are_scored(
    dags: dict[str, DAG], proc_types: list[str], source: str, skips: bool
) -> None:
    params = {key: param.resolve() for key, param in params_of(dags["nightly_decam"]).items()}
    task = bag().dags["nightly_decam"].get_task("scorecard")
    task.render_template_fields(
        context(key=str(NIGHT), **params | {"source": source, "proc_types": proc_types})
    )
    assert bool(task.skip) == skips

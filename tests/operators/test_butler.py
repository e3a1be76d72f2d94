"""The Butler operators, each as its task runs it: templates filled in, then executed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from hooks.curated import CALIB, NEW, OLD, build, build_empty, content, files, snapshot
from operators.airflow_context import connect, context
from tololo.hooks.curation import CurationHook
from tololo.operators.butler import (
    ButlerOperator,
    CreateRepositoryOperator,
    RegisterDatasetTypeOperator,
    RegisterInstrumentOperator,
    RegisterSkymapOperator,
    names,
)
from tololo.operators.calibrations import (
    CertifyNightOperator,
    CertifyOperator,
    DecertifyOperator,
    ExportCalibrationsOperator,
    ImportCalibrationsOperator,
    TransferCalibrationsOperator,
)
from tololo.operators.collections import (
    AssociateOperator,
    DisassociateOperator,
    PruneRunsOperator,
    WriteChainOperator,
)
from tololo.operators.datasets import DefineVisitsOperator, IngestFilesOperator, TransferDatasetsOperator
from tololo.operators.task import FacilityOperator

NIGHT = {"night": "20190401"}
WHERE = "{{ params.where or '' }}"
OTHER = {"source_conn_id": "butler_{{ params.source }}"}

OPERATORS: dict[str, Callable[[Path], ButlerOperator]] = {
    "register": lambda _: RegisterDatasetTypeOperator(
        task_id="t",
        dataset_type="dark",
        dimensions="instrument, detector",
        storage_class="StructuredDataDict",
        is_calibration=True,
    ),
    "skymap": lambda _: RegisterSkymapOperator(
        task_id="t", skymap="decam_rings", circles=[(150.0, 2.0, 0.3)]
    ),
    "instrument": lambda _: RegisterInstrumentOperator(task_id="t"),
    "ingest": lambda folder: IngestFilesOperator(
        task_id="t", dataset_type="bias", run="{{ params.night }}/nominal", table=f"{folder}/list.csv"
    ),
    "visits": lambda _: DefineVisitsOperator(task_id="t", where="exposure.day_obs = {{ params.night }}"),
    "associate": lambda _: AssociateOperator(
        task_id="t",
        collection="{{ params.night }}/bias/raw",
        dataset_types=["bias"],
        sources=f"{NEW}, {OLD}",
        where=WHERE,
    ),
    "disassociate": lambda _: DisassociateOperator(
        task_id="t", collection="marked", dataset_types="bias,notes", where=WHERE
    ),
    "chain": lambda _: WriteChainOperator(
        task_id="t", chain="{{ params.night }}/bias", inputs="DECam/calib,refcats"
    ),
    "certify": lambda _: CertifyOperator(
        task_id="t",
        collection="{{ params.night }}/calib/more",
        dataset_types="bias",
        sources=OLD,
        validity="{{ params.night }}..20190415",
        where=WHERE,
    ),
    "decertify": lambda _: DecertifyOperator(
        task_id="t", collection=CALIB, dataset_type="bias", validity="{{ params.night }}", where=WHERE
    ),
    "transfer": lambda _: TransferDatasetsOperator(
        task_id="t", dataset_types="bias", collections="other/bias", where=WHERE, **OTHER
    ),
    "transfer calibrations": lambda _: TransferCalibrationsOperator(
        task_id="t", collections=["other/calib"], **OTHER
    ),
    "export": lambda folder: ExportCalibrationsOperator(
        task_id="t", folder=f"{folder}/{{{{ params.night }}}}", collections=CALIB
    ),
    "import": lambda folder: ImportCalibrationsOperator(task_id="t", folder=f"{folder}/export"),
    "prune": lambda _: PruneRunsOperator(task_id="t", runs=[NEW], chains=f"marked,{CALIB}"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository and another one, an export of that, a table of files."""
    folder = tmp_path_factory.mktemp("made")
    hook = CurationHook(build(folder / "repo"))
    hook.certify(CALIB, ["bias"], [NEW], "20190401..20190415")
    hook.associate("marked", ["bias"], [NEW])
    (folder / "list.csv").write_text("file,detector\na.yaml,7\n")
    (folder / "a.yaml").write_text("level: 7\n")
    other = CurationHook(build(folder / "other"))
    other.prune([OLD, NEW])
    other.ingest_files("bias", "other/bias", folder / "list.csv", transfer="copy")
    other.certify("other/calib", ["bias"], ["other/bias"], "20190401..")
    other.export_calibrations(folder / "export", ["other/calib"])
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(made, tmp_path / "made"))
    connect(monkeypatch, copy / "repo", tmp_path)
    connection = json.dumps({"conn_type": "butler", "host": str(copy / "other")})
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_OTHER", connection)
    return copy


def run(operator: FacilityOperator, **params: Any) -> Any:
    """Fill in the templates and execute, as a task does."""
    filled = context(**(NIGHT | {"source": "other"} | params))
    operator.render_template_fields(filled)
    return operator.execute(filled)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_dry_run_touches_nothing_and_twice_is_once(folder: Path, name: str) -> None:
    before = snapshot(folder)
    planned = run(OPERATORS[name](folder), dry_run=True)
    assert snapshot(folder) == before
    first = run(OPERATORS[name](folder))
    after = content(folder / "repo"), files(folder)
    assert (snapshot(folder) == before) == (name in {"visits", "instrument"})
    second = run(OPERATORS[name](folder))
    assert (content(folder / "repo"), files(folder)) == after
    for report in (planned, first, second):
        json.dumps(report)
    if name not in {"skymap", "instrument"}:
        assert planned.keys() == first.keys() == second.keys()
        assert first == planned or name == "chain"


def test_what_each_returns(folder: Path) -> None:
    expected: dict[str, dict[str, Any]] = {
        "register": {"dataset_type": "dark", "registered": True},
        "ingest": {"run": "20190401/nominal", "ingested": 1, "known": 0, "files": 1},
        "associate": {"collection": "20190401/bias/raw", "added": 3, "known": 0},
        "disassociate": {"removed": 3},
        "chain": {"children": (NEW, OLD, "refcats"), "missing": ("DECam/calib",)},
        "certify": {"validity": "20190401..20190415", "certified": 3},
        "decertify": {"touched": 3, "remaining": {"20190402..20190415": 3}},
        "transfer": {"copied": 1, "known": 0},
        "transfer calibrations": {"copied": 0, "known": 1, "certified": {"other/calib": 1}},
        "export": {"datasets": 3, "certifications": {CALIB: 3}, "new": True},
        "import": {"copied": 0, "known": 1, "certified": {"other/calib": 0}},
    }
    for name, values in expected.items():
        result = run(OPERATORS[name](folder))
        assert {key: result[key] for key in values} == values, name


def test_the_data_query_of_the_form_reaches_the_butler(folder: Path) -> None:
    assert run(OPERATORS["associate"](folder), where="detector = 2")["added"] == 1
    assert run(OPERATORS["certify"](folder), where="detector = 2")["certified"] == 1
    assert run(OPERATORS["decertify"](folder), where="detector = 2")["touched"] == 1
    with pytest.raises(AirflowSkipException, match="detector = 60"):
        run(OPERATORS["associate"](folder), where="detector = 60")
    for name in ("associate", "disassociate", "certify", "decertify", "transfer"):
        with pytest.raises(AirflowFailException, match=r"'detektor'.*What to do"):
            run(OPERATORS[name](folder), where="detektor = 2")


def test_what_is_refused_fails_at_once(folder: Path) -> None:
    before = snapshot(folder)
    bias = {"dataset_types": "bias", "sources": OLD}
    refused: list[tuple[type[ButlerOperator], dict[str, Any], str]] = [
        (PruneRunsOperator, {"runs": NEW}, r"marked needs.*What to do"),
        (WriteChainOperator, {"chain": "2019*/bias"}, r"'2019\*'"),
        (CertifyOperator, {"collection": CALIB, "validity": "20190410", **bias}, NEW),
        (CertifyOperator, {"collection": CALIB, "validity": "soon", **bias}, "soon"),
        (RegisterSkymapOperator, {"skymap": "hsc"}, r"'hsc'.*decam_rings"),
        (
            RegisterDatasetTypeOperator,
            {"dataset_type": "bias", "dimensions": "detector", "storage_class": "DataFrame"},
            "another form",
        ),
        (ImportCalibrationsOperator, {"folder": str(folder / "nowhere")}, "no export"),
        (IngestFilesOperator, {"dataset_type": "bias", "run": "mine", "table": "no.csv"}, "no such table"),
        (DefineVisitsOperator, {"where": "exposre = 1"}, "'exposre'"),
        (DefineVisitsOperator, {"conn_id": "butler_nowhere"}, "butler_nowhere"),
        (
            TransferDatasetsOperator,
            {"source_conn_id": "butler_gone", "dataset_types": "bias", "collections": "x"},
            "butler_gone",
        ),
    ]
    for kind, arguments, says in refused:
        with pytest.raises(AirflowFailException, match=says):
            run(kind(task_id="t", **arguments))
    assert snapshot(folder) == before


def test_a_repository_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "new"
    connect(monkeypatch, repository, tmp_path)
    create = CreateRepositoryOperator(task_id="t", registry="{{ params.registry }}")
    with pytest.raises(AirflowFailException, match="no Butler repository"):
        run(RegisterInstrumentOperator(task_id="t"))
    assert run(create, registry="sqlite", dry_run=True) == {"repository": str(repository), "created": True}
    assert not repository.exists()
    with pytest.raises(AirflowFailException, match="no database for the registry"):
        run(CreateRepositoryOperator(task_id="t", registry="postgresql"))
    for created in (True, False):
        assert run(create, registry="sqlite")["created"] is created
        run(RegisterInstrumentOperator(task_id="t"))
    assert content(repository) == content(build_empty(tmp_path / "bootstrapped"))
    steps = run(RegisterSkymapOperator(task_id="t", skymap="decam_rings", circles=[(150.0, 2.0, 0.3)]))[
        "steps"
    ]
    assert "tracts added" in steps["skymap"]


def test_names_are_lists_or_one_string() -> None:
    assert names("a, b ,,c") == names(["a", "b", "", " c "]) == ["a", "b", "c"]
    assert names(None) == names("") == names([]) == []


def test_parsing_a_dag_imports_nothing_heavy() -> None:
    code = (
        "import sys, tololo.operators.butler, tololo.operators.collections, tololo.operators.calibrations, "
        "tololo.operators.datasets; "
        "print([name for name in ('lsst', 'astropy', 'numpy', 'tololo.hooks') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_operator_is_covered() -> None:
    def below(kind: type[ButlerOperator]) -> set[type[ButlerOperator]]:
        return {kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))}

    elsewhere = {CreateRepositoryOperator, CertifyNightOperator, ButlerOperator}
    tested = {type(make(Path())) for make in OPERATORS.values()} | elsewhere
    assert {kind for kind in below(ButlerOperator) if kind.__module__.startswith("tololo.")} == tested


def test_the_example_of_the_docs_does_what_it_says(folder: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "butler.md"
    example = page.read_text().partition("```python\n")[2].partition("```")[0]
    names_there: dict[str, Any] = {}
    exec(compile(example, str(page), "exec"), names_there)
    for _ in range(2):
        for task in ("ingest", "certify", "chain"):
            run(names_there[task], table=f"{folder}/list.csv")
    found = content(folder / "repo")
    assert [row[0] for row in found["associations"]].count("20190401/calib/bias") == 4
    children = found["collections"]["20190401/drp"][1]
    assert children == ("refcats", "skymaps", "20190401/calib/bias")


def test_the_page_names_every_operator() -> None:
    page = (Path(__file__).parents[2] / "docs" / "butler.md").read_text()
    for make in OPERATORS.values():
        assert f"`{type(make(Path())).__name__}`" in page

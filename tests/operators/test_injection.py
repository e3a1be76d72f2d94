from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from conftest import NIGHT, Reduced
from operators.airflow_context import connect, context
from tololo.hooks.butler import ButlerHook
from tololo.operators.injection import IngestInjectionCatalogOperator

CHAIN = "20190401/drp_injected"


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "ring.csv"
    path.write_text("ra,dec,mag,band\n150,2,20,r\n150.1,2,21,Y\n")
    return path


def ingest(injected: str | Path | None, chain: str = CHAIN, **params: Any) -> Any:
    operator = IngestInjectionCatalogOperator(task_id="injection", chain=chain, conn_id="butler_test")
    return operator.execute(context(injected=None if injected is None else str(injected), **params))


def test_a_file_is_ingested_and_then_known_by_its_name(repository: Path, catalogue: Path) -> None:
    expected = {
        "catalogue": "ring",
        "collection": "injection/ring",
        "sources": 2,
        "bands": ["r", "y"],
        "new": True,
    }
    assert ingest(catalogue) == expected
    known = expected | {"new": False}
    assert ingest(catalogue) == known
    assert ingest("ring") == known
    assert ButlerHook(repository).counts("injection/ring") == {"injection_catalog": 2}
    assert ButlerHook(repository).counts(CHAIN) == {"injection_catalog": 2}


@pytest.mark.parametrize("injected", [None, "", "  "])
def test_without_a_catalogue_nothing_is_injected(repository: Path, injected: str | None) -> None:
    with pytest.raises(AirflowSkipException, match="injects no sources"):
        ingest(injected)


def test_a_dry_run_writes_nothing(repository: Path, catalogue: Path) -> None:
    assert ingest(catalogue, dry_run=True)["sources"] == 2
    assert ButlerHook(repository).collections("injection/*") == []
    assert CHAIN not in ButlerHook(repository).collections()


def test_what_is_wrong_is_one_message(repository: Path, catalogue: Path) -> None:
    with pytest.raises(AirflowFailException, match="no injection catalogue 'ring'"):
        ingest("ring")
    with pytest.raises(AirflowFailException, match="no such injection catalogue"):
        ingest(catalogue.with_name("none.csv"))
    with pytest.raises(AirflowFailException, match="use 20190401/drp_injected"):
        ingest(catalogue, chain="20190401/drp")
    ingest(catalogue)
    other = catalogue.with_name("arc.csv")
    other.write_text(catalogue.read_text())
    with ButlerHook(repository).open(writeable=True) as butler:
        butler.collections.register(f"{CHAIN}/nightly_decam/inject/20260101T000000Z")
    with pytest.raises(AirflowFailException, match="holds images with the sources of injection/ring"):
        ingest(other)


def test_difference_images_learn_how_they_are_made(repository: Path, catalogue: Path) -> None:
    returned = ingest(catalogue, chain="20190401/2019/meanclip/diff_drp_injected")
    assert returned["pipeline"] == "injection.yaml"
    assert returned["inputs"] == "injection/ring,20190401/drp"


def test_an_automatic_catalogue_needs_visits(repository: Path) -> None:
    for chain in (CHAIN, "20190401/2019/meanclip/diff_drp_injected"):
        with pytest.raises(AirflowSkipException, match="Night 20190401 has no visits"):
            ingest("auto", chain=chain)


def test_a_night_gets_a_catalogue_of_its_own(
    reduced: Reduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, reduced.copy(tmp_path), tmp_path)
    chain = f"{NIGHT}/2019/meanclip/diff_instcal_injected"
    planned = ingest("auto", chain=chain, dry_run=True)
    made = ingest("auto", chain=chain)
    assert made == planned
    assert (made["catalogue"], made["bands"], made["new"]) == (f"auto_{NIGHT}", ["r"], True)
    assert made["sources"] > 20
    assert made["inputs"] == f"injection/auto_{NIGHT},{NIGHT}/instcal"
    assert ingest("auto", chain=chain) == made | {"new": False}

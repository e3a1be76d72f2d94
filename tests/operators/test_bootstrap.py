from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from lsst.daf.butler import Butler

from operators.airflow_context import connect, context
from tololo.facility.errors import BadInputError
from tololo.operators.bootstrap import BootstrapOperator, reference_catalogues
from tololo.simulation.truth import Truth

STEPS = ["create", "instrument", "skymap", "calibrations", "refcats", "verify"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    connect(monkeypatch, tmp_path / "repository", tmp_path)
    return tmp_path / "repository"


def run(stars: Path | str | None, **params: Any) -> Any:
    defaults = {
        "registry": "sqlite",
        "instrument": "DECam",
        "skymap": "decam_rings",
        "calibrations": None,
        "steps": STEPS,
    }
    chosen = defaults | {"refcats": None if stars is None else str(stars)} | params
    return BootstrapOperator(task_id="bootstrap").execute(context(**chosen))


def content(repository: Path) -> dict[str, Any]:
    with Butler.from_config(str(repository)) as butler:
        elements = ("instrument", "detector", "physical_filter", "skymap", "tract", "patch")
        return {
            **{e: len(butler.query_dimension_records(e, explain=False, limit=None)) for e in elements},
            "datasets": sorted(str(r.id) for r in butler.registry.queryDatasets(..., collections="*")),
            "collections": {i.name: i.children for i in butler.collections.query_info("*")},
        }


def test_twice_adds_nothing(repository: Path, small_nights: Truth) -> None:
    assert run(small_nights.reference, dry_run=True)["steps"] == [*STEPS[:-1], "chains"]
    assert not repository.exists()
    first = run(small_nights.reference)
    assert first["checks"]["detectors"] == "62"
    assert first["checks"]["curated calibrations"] == "3"
    before = content(repository)
    assert before["datasets"]
    second = run(small_nights.reference)
    assert second["checks"] == first["checks"]
    assert second["steps"]["create"] == "was there"
    assert content(repository) == before


def test_what_is_missing_is_named_and_nothing_is_made(
    repository: Path, small_nights: Truth, tmp_path: Path
) -> None:
    wrong = {
        "no reference stars": (tmp_path / "nowhere", {}),
        "no sky map 'hsc'.*decam_rings": (small_nights.reference, {"skymap": "hsc"}),
        "no database.*choose sqlite": (small_nights.reference, {"registry": "postgresql"}),
        "no curated calibrations.*nowhere": (
            small_nights.reference,
            {"calibrations": str(tmp_path / "nowhere")},
        ),
    }
    for says, (stars, params) in wrong.items():
        with pytest.raises(AirflowFailException, match=says):
            run(stars, **params)
    assert not repository.exists()


def test_a_verification_that_fails_names_what_is_wrong(repository: Path, small_nights: Truth) -> None:
    with pytest.raises(AirflowFailException, match=r"instrument DECam.*gaia_dr2: shards"):
        run(small_nights.reference, steps=["create", "verify"])


def test_a_database_that_is_away_is_tried_again(
    repository: Path, small_nights: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tololo.facility.errors import UnavailableError

    url = "postgresql+psycopg://nobody@127.0.0.1:9/butler"
    connection = {"conn_type": "butler", "host": str(repository), "extra": {"registry_url": url}}
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_TEST", json.dumps(connection))
    with pytest.raises(UnavailableError, match="does not answer"):
        run(small_nights.reference, registry="postgresql")
    assert not repository.exists()


def test_several_reference_catalogues_are_named(tmp_path: Path) -> None:
    gaia, better = tmp_path / "gaia", tmp_path / "ps1"
    gaia.mkdir()
    better.mkdir()
    assert reference_catalogues(str(gaia)) == {"gaia_dr2": str(gaia)}
    both = {"gaia_dr2": str(gaia), "ps1": str(better)}
    assert reference_catalogues(f"gaia_dr2={gaia}, ps1={better}") == both
    assert reference_catalogues(f"{gaia},ps1={better}") == both


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no reference stars gaia_dr2"),
        ("ps1={0}", "no reference stars gaia_dr2"),
        ("{0}, ps1={0}/nowhere", "no reference stars ps1"),
        ("{0}, usno={0}", "no use for a reference catalogue 'usno'"),
    ],
)
def test_a_catalogue_that_is_not_there_or_not_known_is_named(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        reference_catalogues(text.format(tmp_path))

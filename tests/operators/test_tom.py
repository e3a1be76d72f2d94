"""Light curves of a night's objects and targets into a real TOM."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from hooks.tom.server import INSTALLED, RealTom
from operators.airflow_context import TEMPLATE, context
from reduction import alert_field as field
from tololo.operators.tom import PublishLightCurvesOperator
from tololo.operators.tom_approval import GatherLightCurvesOperator

from .test_tom_approval import answer

pytestmark = [pytest.mark.services, INSTALLED]

_numbers = count(1)
COLUMNS = "SELECT t.name, r.source_location, r.data_product_id FROM tom_targets_basetarget t"
COLUMNS += " JOIN tom_dataproducts_photometryreduceddatum r ON r.target_id = t.id WHERE t.name LIKE ?"


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> field.AlertField:
    return field.build(tmp_path_factory.mktemp("published"))


@pytest.fixture(autouse=True)
def connections(nights: field.AlertField, tom: RealTom, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"backend": "sqlite", "config_folder": str(nights.apdb_config.parent)}
    butler = {"conn_type": "butler", "host": str(nights.repository)}
    monkeypatch.setenv("AIRFLOW_CONN_APDB_DEFAULT", json.dumps({"conn_type": "apdb", "extra": extra}))
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_TEST", json.dumps(butler))


@pytest.fixture
def two() -> str:
    """Two targets of their own names: one at the star, one on empty sky."""
    number = next(_numbers)
    ra, dec = field.wcs_of(840001).all_pix2world(*([value] for value in field.PLACES[field.STAR]), 0)
    return f"AT{number}star {ra[0]} {dec[0]}\nAT{number}dark 150.0 -30.0"


def run(xcoms: dict[str, Any] | None = None, **params: Any) -> Any:
    return PublishLightCurvesOperator(task_id="publish").execute(context(**_all(params), xcoms=xcoms))


def gather(**params: Any) -> Any:
    return GatherLightCurvesOperator(task_id="gather").execute(context(**_all(params)))


def _all(params: dict[str, Any]) -> dict[str, Any]:
    usual = {"source": "apdb", "apdb": None, "selection": 20, "targets": None, "tom": "tom_test"}
    return TEMPLATE | usual | {"publish": "yes", "create_targets": None} | params


def names(targets: str) -> list[str]:
    return [line.split()[0] for line in targets.splitlines()]


def held(tom: RealTom, name: str) -> list[str]:
    """Where the points of a target in the TOM come from; they are all of one product."""
    rows = tom.sql(COLUMNS, name)
    assert len({row[2] for row in rows}) <= 1
    return sorted(row[1] for row in rows)


def test_objects_and_targets(tom: RealTom, nights: field.AlertField, two: str) -> None:
    assert run(dry_run=True) == {"targets": 2, "points": 3}
    assert run(publish="no") == {"targets": 2, "points": 3}
    assert held(tom, "Tololo-%") == []
    assert run() == {"targets": 2, "created": 2, "unchanged": 0, "points": 3}
    assert run() == {"targets": 2, "created": 0, "unchanged": 2, "points": 3}
    star = nights.object_of(field.STAR)
    forced = [f"visit={visit}&detector=28&diaObjectId={star}" for visit in field.VISITS]
    assert held(tom, f"Tololo-{star}") == forced

    assert run(targets=two) == {"targets": 2, "created": 2, "unchanged": 0, "points": 4}
    assert run(targets=two)["unchanged"] == 2
    for name in names(two):
        assert held(tom, name) == ["visit=840001&detector=28", "visit=840002&detector=28"]


def test_one_that_is_refused_stops_no_other(tom: RealTom, two: str) -> None:
    star, dark = two.splitlines()
    run(targets=dark)
    with pytest.raises(AirflowFailException, match=r"1 of 2 light curves are not published.*no such target"):
        run(targets=two, create_targets="never")
    assert len(held(tom, names(dark)[0])) == 2
    assert held(tom, names(star)[0]) == []


def test_a_login_that_is_refused_is_tried_once(
    tom: RealTom, two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "tom", "host": tom.info.url, "password": "not-the-token"}
    monkeypatch.setenv("AIRFLOW_CONN_TOM_WRONG", json.dumps(connection))
    called: list[str] = []
    request = requests.Session.request
    monkeypatch.setattr(requests.Session, "request", lambda *a, **k: called.append(a[2]) or request(*a, **k))
    with pytest.raises(AirflowFailException, match=r"^The TOM refuses GET: 401 .*connection tom_wrong"):
        run(targets=two, tom="tom_wrong")
    assert len(called) == 1


def test_what_a_person_approves_is_published(tom: RealTom, two: str) -> None:
    asked = {"targets": two, "publish": "after approval"}
    gathered = gather(**asked)
    assert [(curve["points"], curve["detections"]) for curve in gathered["curves"]] == [(2, 1), (2, 0)]
    assert gathered["curves"][0]["brightest"] == pytest.approx(31.4 - 2.5 * 3.69897, abs=0.1)  # 5000 nJy
    json.dumps(gathered, allow_nan=False)
    for given, says in ((None, "Nobody has approved"), (answer("Reject", "clouds"), "by ana: clouds")):
        with pytest.raises(AirflowSkipException, match=says):
            run({"gather": gathered, "approve": given}, **asked)
    assert held(tom, names(two)[0]) == []
    assert run({"gather": gathered, "approve": answer("Approve")}, **asked)["created"] == 2


def test_what_has_changed_since_is_not_published(tom: RealTom, two: str) -> None:
    asked = {"targets": two, "publish": "after approval"}
    gathered = gather(**asked)
    gathered["curves"][0]["content"] = "another"
    with pytest.raises(AirflowFailException, match="not the one that was approved"):
        run({"gather": gathered, "approve": answer("Approve")}, **asked)
    star, dark = names(two)
    assert (held(tom, star), len(held(tom, dark))) == ([], 2)

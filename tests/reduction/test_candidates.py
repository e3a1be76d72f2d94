"""The list of candidates, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from reduction import alert_field as field
from tololo.facility.errors import BadInputError
from tololo.reduction.alert_records import alert_records
from tololo.reduction.alerts import pack
from tololo.reduction.apdb import CampaignApdb, open_apdb
from tololo.reduction.campaign import Campaign, create_apdb
from tololo.reduction.candidates import candidate, candidates

FIRST, SECOND = field.VISITS
STAR = int(field.sources_of(FIRST)["diaSourceId"][0])
EDGE = int(field.sources_of(SECOND)["diaSourceId"][1])


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def apdb(request: Any, tmp_path_factory: pytest.TempPathFactory) -> CampaignApdb:
    folder: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        apdb = field.new_apdb(folder)
    else:
        url = make_url(request.getfixturevalue("registry_url")).set(drivername="postgresql+psycopg2")
        campaign = Campaign("DECam", field.APDB, f"{field.SUBSET}/{field.TYPE}/coadd", "v1")
        text = url.render_as_string(hide_password=False)
        create_apdb(text, "candidates", folder / "apdb.yaml", campaign, "reset")
        apdb = open_apdb(folder / "apdb.yaml")
    field.associate(apdb, folder, *field.VISITS)
    return apdb


def test_the_order_is_the_database_s(apdb: CampaignApdb) -> None:
    for order, expected in (("newest", [STAR, EDGE]), ("significant", [EDGE, STAR])):
        found = candidates(apdb, order)
        assert [row["diaObjectId"] for row in found] == expected
        pieces = [candidates(apdb, order, limit=1, offset=n) for n in range(3)]
        assert [row["diaObjectId"] for piece in pieces for row in piece] == expected
    star = candidates(apdb)[0]
    assert (star["sources"], star["bands"], star["psfFlux"]) == (2, {"r": 2}, -3000.0)
    assert star["significance"] == pytest.approx(1000 * 2**0.5 / field.ERROR)


def test_there_are_two_orders(apdb: CampaignApdb) -> None:
    with pytest.raises(BadInputError, match="no order"):
        candidates(apdb, "loudest")
    with pytest.raises(BadInputError, match="no diaObject 5"):
        candidate(apdb, 5)


def test_a_candidate_has_its_last_detections(apdb: CampaignApdb) -> None:
    star = candidate(apdb, STAR)
    assert [row["visit"] for row in star["detections"]] == [SECOND, FIRST]
    assert star["detections"][0]["x"] == pytest.approx(field.pixel_of(SECOND, field.STAR)[0], abs=1e-3)
    assert len(star["light_curve"]) == 4


def test_alerts_are_the_same_from_both(apdb: CampaignApdb) -> None:
    records = pack(alert_records(apdb, SECOND, field.DETECTOR)).records()
    assert [record["diaSourceId"] for record in records] == field.sources_of(SECOND)["diaSourceId"].tolist()
    star = records[0]
    assert [row["visit"] for row in star["prvDiaForcedSources"]] == [FIRST, SECOND]
    assert [row["visit"] for row in star["prvDiaSources"]] == [FIRST]
    assert star["diaSource"]["glint_trail"] is None
    (early,) = pack(alert_records(apdb, FIRST, field.DETECTOR)).records()
    assert early["diaObject"]["nDiaSources"] == 1

"""The LSST schema with Tololo's extension: wide bands go in, and LSST's own code reads and writes."""

from __future__ import annotations

import pandas
import pytest
import sqlalchemy
import yaml
from astropy.table import Column
from astropy.time import Time
from lsst.dax.apdb import Apdb
from lsst.dax.apdb.scripts import create_sql
from lsst.dax.apdb.sql import ApdbSql
from lsst.resources import ResourcePath

from tololo.facility.errors import BadInputError
from tololo.reduction.apdb import open_apdb
from tololo.reduction.apdb_schema import extended_schema, read_extension
from tololo.reduction.association import associate_visit
from tololo.reduction.instrument.filters import FILTERS

from .sky import NAME, SELECTION, forced, polygon, run, sources, visit_info, visit_time

WIDE = [f.band for f in FILTERS if len(f.band) > 1 and f.band != "opaque"]


def in_band(band, visit=1001, detector=1):
    rows = sources(visit, detector)
    rows.replace_column("band", Column([band] * len(rows)))
    return visit_info(visit, detector, band=band), rows, forced(visit, detector)


def test_the_extension_widens_the_bands_and_nothing_else():
    stock = yaml.safe_load(ResourcePath(read_extension()["base"]).read())
    with extended_schema() as path:
        ours = yaml.safe_load(ResourcePath(path).read())
    changed = []
    for table in stock["tables"]:
        other = next(t for t in ours["tables"] if t["name"] == table["name"])
        for column in table["columns"]:
            mine = next(c for c in other["columns"] if c["name"] == column["name"])
            changed += [(table["name"], column["name"])] if mine != column else []
        assert [c["name"] for c in other["columns"]] == [c["name"] for c in table["columns"]]
        assert {k: v for k, v in other.items() if k != "columns"} == {
            k: v for k, v in table.items() if k != "columns"
        }
    assert changed == [("DiaSource", "band"), ("DiaForcedSource", "band")]
    assert {k: v for k, v in ours.items() if k != "tables"} == {
        k: v for k, v in stock.items() if k != "tables"
    }
    assert "VR" in WIDE
    assert max(map(len, WIDE)) <= 8


@pytest.mark.parametrize("band", ["VR", "N964"])
def test_a_wide_band_is_stored_and_read_by_stock_dax_apdb(hook, apdb, band):
    associate_visit(apdb, *in_band(band), selection=SELECTION)
    assert set(apdb.read("DiaForcedSource", ["band"])["band"]) == {band}
    assert apdb.read("DiaObject", ["z_psfFluxNdata"])["z_psfFluxNdata"].tolist() == [0]
    stock = Apdb.from_uri(str(hook.config_path(NAME)))
    assert type(stock) is ApdbSql
    assert stock.schema.schemaVersion() == open_apdb(hook.config_path(NAME)).schema.schemaVersion()
    objects = stock.getDiaObjects(polygon(1))
    found = stock.getDiaSources(polygon(1), None, visit_time(1001))
    points = stock.getDiaForcedSources(polygon(1), objects["diaObjectId"], visit_time(1001))
    assert len(objects) == len(found) == len(points) == 1
    assert set(found["band"]) == set(points["band"]) == {band}
    assert stock.containsVisitDetector(1001, 1)


def test_what_stock_dax_apdb_stores_in_a_wide_band_is_associated_with(hook, apdb):
    run(apdb, 1001)
    stock = Apdb.from_uri(str(hook.config_path(NAME)))
    objects = stock.getDiaObjects(polygon(1))
    rows = stock.getDiaSources(polygon(1), None, visit_time(1001))
    rows = rows.assign(diaSourceId=rows["diaSourceId"] + 7, visit=1002, band="VR", midpointMjdTai=58162.2)
    stock.store(Time(58162.2, format="mjd", scale="tai"), objects, rows, pandas.DataFrame(columns=[]))
    known = apdb.objects(polygon(1), 1.0)
    assert known["diaObjectId"].tolist() == objects["diaObjectId"].tolist()
    history, _ = apdb.history(known["diaObjectId"])
    assert history["band"].tolist() == ["z", "VR"]


def test_an_apdb_with_lsst_s_narrow_column_refuses_wide_bands(hook, backend, tmp_path):
    url = hook.place.url or f"sqlite:///{tmp_path}/{NAME}.db"
    create_sql(str(hook.config_path(NAME)), None, db_url=url, namespace=NAME if hook.place.url else None)
    apdb = open_apdb(hook.config_path(NAME))
    if backend == "postgresql":
        with pytest.raises(BadInputError, match="cannot store band VR"):
            associate_visit(apdb, *in_band("VR"))
        assert apdb.is_empty()
        with apdb._engine.begin() as connection:  # as docs/apdb.md says
            for table in ("DiaSource", "DiaForcedSource"):
                widen = f'ALTER TABLE "{NAME}"."{table}" ALTER COLUMN band TYPE varchar(8)'
                connection.execute(sqlalchemy.text(widen))
        apdb = open_apdb(hook.config_path(NAME))
    assert associate_visit(apdb, *in_band("VR"), selection=SELECTION).sources == 1


def test_all_columns_of_a_row_are_read_with_their_nulls(apdb):
    run(apdb, 1001)
    (row,) = apdb.rows("DiaSource", visit=1001)
    assert row["diaSourceId"] == row["diaObjectId"]
    assert row["ssObjectId"] is None
    assert row["timeWithdrawnMjdTai"] is None
    assert row["isDipole"] is False
    assert "pixelId" not in row
    assert [r["diaObjectId"] for r in apdb.rows("DiaObject")] == [row["diaObjectId"]]


def test_the_objects_that_are_valid_now_have_an_index_of_their_own(apdb, backend):
    indexes = sqlalchemy.inspect(apdb._engine).get_indexes("DiaObject", schema=apdb.config.namespace)
    assert "tololo_DiaObject_valid_pixelId" in {index["name"] for index in indexes}

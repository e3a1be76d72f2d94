"""APDBs on SQLite and PostgreSQL: creation, association of nights, killed writers, light curves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy
from astropy.table import Column, Table
from lsst.dax.apdb import Apdb
from lsst.dax.apdb.scripts import create_sql, metadata_set
from lsst.sphgeom import Box, ConvexPolygon, LonLat, UnitVector3d

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.apdb import ApdbHook
from tololo.reduction.apdb import open_apdb
from tololo.reduction.apdb_readers import sources_of
from tololo.reduction.association import (
    DetectorVisit,
    SourceSelection,
    VisitInfo,
    associate_night,
    associate_visit,
)

NAME = "2018_meanclip"
TEMPLATE = {"template": "2018/meanclip/coadd", "template_version": "v1"}
ARCSEC = 1 / 3600.0
MIDPOINTS = {1001: 58161.20, 1002: 58162.21, 1003: 58163.19}
REGIONS = {1: (150.0, 150.1, 2.0, 2.2), 2: (150.3, 150.4, 2.0, 2.2)}
SELECTION = SourceSelection(minimum_reliability=0.5)

# name: ra, dec, detector, flux (nJy) in each visit, whether it is detected
STAR = (150.05, 2.1, 1, {1001: 5000.0, 1002: -3000.0, 1003: 8000.0}, {1001, 1002, 1003})
TRANSIENT = (150.35, 2.05, 2, {1001: 0.0, 1002: 9000.0, 1003: 200.0}, {1002})
GHOST = (150.02, 2.02, 1, {1001: 0.0, 1002: 4000.0, 1003: 0.0}, {1002})
TRUTH = (STAR, TRANSIENT, GHOST)
ERROR = 100.0


def polygon(detector):
    ra0, ra1, dec0, dec1 = REGIONS[detector]
    corners = [(ra0, dec0), (ra1, dec0), (ra1, dec1), (ra0, dec1)]
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])


def visit_info(visit, detector, band="z"):
    return VisitInfo(visit, detector, band, MIDPOINTS[visit], polygon(detector), 60.0)


def sources(visit, detector):
    """What is detected, with an artefact of low reliability; positions scatter by 0.1 arcsec."""
    rng = np.random.default_rng(visit * 100 + detector)
    rows = [
        (ra, dec, flux[visit], 0.95)
        for ra, dec, where, flux, seen in TRUTH
        if where == detector and visit in seen
    ]
    ra0, _, dec0, _ = REGIONS[detector]
    if (visit, detector) != (1001, 2):
        rows.append((ra0 + 0.07, dec0 + 0.07, 700.0, 0.1))
    n = len(rows)
    ra, dec, flux, reliability = np.array(rows, dtype=float).reshape(n, 4).T
    return Table(
        {
            "diaSourceId": np.arange(n, dtype=np.int64) + visit * 1000 + detector * 100,
            "visit": np.full(n, visit),
            "detector": np.full(n, detector, dtype=np.int16),
            "band": np.full(n, "z"),
            "midpointMjdTai": np.full(n, MIDPOINTS[visit]),
            "ra": ra + rng.normal(0, 0.1, n) * ARCSEC,
            "dec": dec + rng.normal(0, 0.1, n) * ARCSEC,
            "raErr": np.full(n, 0.1 * ARCSEC),
            "decErr": np.full(n, 0.1 * ARCSEC),
            "x": rng.uniform(0, 2000, n),
            "y": rng.uniform(0, 4000, n),
            "psfFlux": flux,
            "psfFluxErr": np.full(n, ERROR),
            "apFlux": flux * 0.98,
            "scienceFlux": flux + 1e4,
            "scienceFluxErr": np.full(n, ERROR),
            "snr": flux / ERROR,
            "isNegative": flux < 0,
            "isDipole": np.zeros(n, dtype=bool),
            "reliability": reliability.astype(np.float32),
            "trailLength": np.full(n, 0.3, dtype=np.float32),
            "pixelFlags": np.zeros(n, dtype=bool),
            "pixelFlags_bad": np.arange(n) == 0,
            "notInTheSchema": np.zeros(n),
        }
    )


def forced(visit, detector):
    def measure(ra, dec):
        flux = np.zeros(len(ra))
        for true_ra, true_dec, _, fluxes, _ in TRUTH:
            near = np.hypot(ra - true_ra, dec - true_dec) < 1 * ARCSEC
            flux[near] = fluxes[visit]
        error = np.full(len(ra), ERROR)
        return {"psfFlux": flux, "psfFluxErr": error, "scienceFlux": flux + 1e4, "scienceFluxErr": error}

    return measure


def night(*visits, detectors=(1, 2)):
    return [
        DetectorVisit(visit_info(v, d), lambda v=v, d=d: (sources(v, d), forced(v, d)))
        for v in visits
        for d in detectors
    ]


def run(apdb, *visits, **options):
    return associate_night(apdb, night(*visits), selection=SELECTION, **options)


def dump(apdb, *, timeless=False):
    """All rows of all tables of an APDB; without processing times where two runs are compared."""
    tables = sqlalchemy.MetaData(schema=apdb.config.namespace)
    tables.reflect(apdb._engine)
    rows = {}
    for table in tables.sorted_tables:
        columns = [c for c in table.c if not (timeless and c.name == "timeProcessedMjdTai")]
        with apdb._engine.begin() as connection:
            found = [tuple(row) for row in connection.execute(sqlalchemy.select(*columns))]
        if timeless and table.name == "metadata":
            found = [row for row in found if row[0] != "tololo:created"]
        rows[table.name] = sorted(found, key=repr)
    return rows


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    services = pytest.importorskip("tololo.services.postgres")
    from tololo.services.home import Home

    home = Home(
        root=tmp_path_factory.mktemp("facility"), postgres_url=os.environ.get("TOLOLO_POSTGRES_URL", "")
    )
    yield services.start(home)
    services.stop(home)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def backend(request, tmp_path, monkeypatch):
    """A connection of each kind; on PostgreSQL an APDB is dropped after its test."""
    extra = {"backend": request.param, "config_folder": str(tmp_path)}
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    if server is not None:
        extra["db_url"] = server.url("apdb", driver="psycopg2")
    connect(monkeypatch, extra=extra)
    yield request.param
    if server is not None:
        engine = sqlalchemy.create_engine(server.url("apdb", driver="psycopg2"))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f'DROP SCHEMA IF EXISTS "{NAME}" CASCADE'))
        engine.dispose()


def connect(monkeypatch, **fields):
    monkeypatch.setenv("AIRFLOW_CONN_APDB_DEFAULT", json.dumps({"conn_type": "apdb", **fields}))


@pytest.fixture
def hook(backend):
    return ApdbHook()


@pytest.fixture
def apdb(hook):
    hook.create(NAME, **TEMPLATE)
    return open_apdb(hook.config_path(NAME))


def as_child(code, config_path):
    """Run code in a process of its own, with this module as `t` and the APDB open as `apdb`."""
    lines = [
        "import os, signal, sys",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "import test_apdb as t",
        "from tololo.reduction.apdb import CampaignApdb, open_apdb",
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)",
        f"apdb = open_apdb({str(config_path)!r})",
        code,
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )


def test_three_nights_give_the_planted_objects_and_light_curves(hook, apdb):
    results = run(apdb, 1003, 1001, 1002)  # in any order
    assert [(r.visit, r.detector) for r in results] == [(v, d) for v in MIDPOINTS for d in (1, 2)]
    assert [(r.sources, r.rejected, r.new_objects, r.forced) for r in results] == [
        (1, 1, 1, 1),
        (0, 0, 0, 0),
        (2, 1, 1, 2),
        (1, 1, 1, 1),
        (1, 1, 0, 2),
        (0, 1, 0, 1),
    ]
    assert hook.counts(NAME) == {"DiaObject": 3, "DiaSource": 5, "DiaForcedSource": 7}

    for ra, dec, detector, flux, seen in TRUTH:
        objects = hook.objects_near(NAME, ra, dec, 1.0)
        assert len(objects) == 1
        assert objects["nDiaSources"][0] == len(seen)
        curve = hook.light_curve(NAME, int(objects["diaObjectId"][0]))
        assert curve["psfFlux"].unit == "nJy"
        detected = curve[curve["kind"] == "detected"]
        point = curve[curve["kind"] == "forced"]
        expected = [visit for visit in MIDPOINTS if visit >= min(seen)]
        assert point["visit"].tolist() == expected
        assert detected["visit"].tolist() == sorted(seen)
        for table in (detected, point):
            assert table["psfFlux"].tolist() == [flux[v] for v in table["visit"]]
            assert table["scienceFlux"].tolist() == [flux[v] + 1e4 for v in table["visit"]]
            assert table["midpointMjdTai"].tolist() == [MIDPOINTS[v] for v in table["visit"]]
            assert set(table["band"]) == {"z"}
            assert set(table["detector"]) == {detector}
            assert table["psfFluxErr"].tolist() == [ERROR] * len(table)
        assert curve["midpointMjdTai"].tolist() == sorted(curve["midpointMjdTai"])

    star = hook.objects_near(NAME, STAR[0], STAR[1], 1.0)[0]
    assert star["diaObjectId"] == 1001 * 1000 + 100  # the id of its first source
    assert star["separation"] < 0.3
    assert star["raErr"] == pytest.approx(0.1 * ARCSEC / 3**0.5, rel=1e-5)
    fluxes = [5000.0, -3000.0, 8000.0]
    assert star["z_psfFluxNdata"] == 3
    assert star["r_psfFluxNdata"] == 0
    assert star["z_psfFluxMean"] == pytest.approx(np.mean(fluxes), rel=1e-6)
    assert star["z_fpFluxMean"] == pytest.approx(np.mean(fluxes), rel=1e-6)
    assert star["z_scienceFluxMean"] == pytest.approx(np.mean(fluxes) + 1e4, rel=1e-6)
    assert star["z_psfFluxSigma"] == pytest.approx(np.std(fluxes, ddof=1), rel=1e-6)
    assert star["z_psfFluxMin"] == -3000
    assert star["z_psfFluxMax"] == 8000
    assert star["z_psfFluxMaxSlope"] == pytest.approx(11000 / 0.98, rel=1e-5)
    assert star["firstDiaSourceMjdTai"] == MIDPOINTS[1001]
    assert star["lastDiaSourceMjdTai"] == MIDPOINTS[1003]
    assert star["validityStartMjdTai"] == pytest.approx(MIDPOINTS[1003], abs=1e-9)
    assert [o["diaObjectId"] for o in hook.objects(NAME, minimum_sources=2)] == [star["diaObjectId"]]
    with pytest.raises(BadInputError, match="no diaObject 77"):
        hook.light_curve(NAME, 77)


def test_rows_are_those_of_the_schema(apdb):
    run(apdb, 1001)
    frame = Apdb.from_uri(str(apdb_config(apdb))).getDiaSources(polygon(1), None, visit_time(1001))
    assert len(frame) == 1
    row, given = frame.iloc[0], sources(1001, 1)[0]
    for name in given.colnames:
        if name == "notInTheSchema":
            assert name not in frame.columns
        elif isinstance(given[name], (float, np.floating)):
            assert row[name] == pytest.approx(given[name], rel=1e-6)
        else:
            assert row[name] == given[name], name
    assert row["exposureTime"] == 60
    assert row["diaObjectId"] == given["diaSourceId"]
    assert row["psfNdata"] == row["bboxSize"] == row["trailNdata"] == 0
    associations, points = sources_of(apdb, 1001, 1)
    assert associations["diaObjectId"].tolist() == [row["diaObjectId"]]
    assert points["diaForcedSourceId"][0] > 0


def apdb_config(apdb):
    path = Path(apdb._engine.url.database.removeprefix("file:")).parent / f"{NAME}.yaml"
    return path if path.exists() else ApdbHook().config_path(NAME)


def visit_time(visit):
    from astropy.time import Time

    return Time(MIDPOINTS[visit], format="mjd", scale="tai")


def test_a_stored_visit_is_left_as_it_is(apdb):
    first = run(apdb, 1001, 1002, 1003)
    before = dump(apdb)
    never = [DetectorVisit(item.info, lambda: pytest.fail("rows were loaded")) for item in night(1001, 1003)]
    again = associate_night(apdb, never, selection=SELECTION)
    assert [r.already_stored for r in again] == [True] * 4
    assert [(r.sources, r.new_objects, r.forced) for r in again] == [
        (r.sources, r.new_objects, r.forced) for r in first if r.visit != 1002
    ]
    other = associate_visit(apdb, visit_info(1001, 1), sources(1002, 1), forced(1002, 1))
    assert other.already_stored
    assert dump(apdb) == before


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
def test_killed_while_storing_then_run_again(hook, apdb, tmp_path, moment):
    run(apdb, *MIDPOINTS)
    undisturbed = dump(apdb, timeless=True)
    hook.create(NAME, policy="reset", **TEMPLATE)
    kill = {
        # the fourth detector: all its rows are inserted, none is committed
        "before commit": """
insert, seen = apdb.ledger.insert, []
def fourth(*args):
    insert(*args); seen.append(1)
    if len(seen) == 4: die()
apdb.ledger.insert = fourth""",
        "after commit": """
store, seen = CampaignApdb.store, []
def fourth(*args):
    store(*args); seen.append(1)
    if len(seen) == 4: die()
CampaignApdb.store = fourth""",
    }[moment]
    done = as_child(f"{kill}\nt.run(apdb, 1001, 1002, 1003)", hook.config_path(NAME))
    assert done.returncode == -9, done.stderr
    apdb = open_apdb(hook.config_path(NAME))
    assert hook.describe(NAME)["detectors"] == (3 if moment == "before commit" else 4)
    results = run(apdb, *MIDPOINTS)
    assert sum(r.already_stored for r in results) == (3 if moment == "before commit" else 4)
    assert dump(apdb, timeless=True) == undisturbed


def test_an_earlier_night_is_refused_unless_allowed(apdb):
    run(apdb, 1001, 1003)
    before = dump(apdb)
    with pytest.raises(BadInputError) as caught:
        run(apdb, 1002)
    assert "night 20180212" in str(caught.value)
    assert "night 20180213" in str(caught.value)
    assert dump(apdb) == before
    results = run(apdb, 1002, out_of_order=True)
    assert [r.already_stored for r in results] == [False, False]
    assert apdb.counts() == {"DiaObject": 3, "DiaSource": 5, "DiaForcedSource": 5}


def test_a_late_detector_of_the_latest_visit_is_welcome(apdb):
    associate_night(apdb, night(1002, detectors=(2,)), selection=SELECTION)
    assert run(apdb, 1002)[0].new_objects == 2


def test_two_detectors_that_see_the_same_object(apdb):
    info = VisitInfo(1001, 2, "z", MIDPOINTS[1001], polygon(1))
    rows = sources(1001, 1)
    associate_visit(apdb, visit_info(1001, 1), rows, forced(1001, 1), selection=SELECTION)
    rows["diaSourceId"] += 5000
    rows["detector"] = 2
    result = associate_visit(apdb, info, rows, forced(1001, 2), selection=SELECTION)
    assert (result.matched, result.new_objects) == (1, 0)
    assert apdb.counts()["DiaObject"] == 1


def test_an_id_that_is_taken_stores_nothing(apdb):
    run(apdb, 1001)
    before = dump(apdb)
    rows = sources(1002, 1)
    rows["diaSourceId"][0] = sources(1001, 1)["diaSourceId"][0]
    with pytest.raises(BadInputError, match="nothing of them is stored"):
        associate_visit(apdb, visit_info(1002, 1), rows, forced(1002, 1))
    assert dump(apdb) == before


@pytest.mark.parametrize("step", ["_storeDiaSources", "_storeDiaForcedSources"])
def test_a_database_that_goes_down_while_storing(apdb, backend, monkeypatch, step):
    if backend == "sqlite":
        pytest.skip("a SQLite file has no server that could go down")
    run(apdb, 1001)
    before = dump(apdb)
    plain = getattr(type(apdb), step)

    def cut_off(self, rows, chunk, connection):
        if len(rows):
            monkeypatch.undo()
            with apdb._engine.connect() as other:
                own = connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar_one()
                other.execute(sqlalchemy.text(f"SELECT pg_terminate_backend({own}, 5000)"))
        plain(self, rows, chunk, connection)

    monkeypatch.setattr(type(apdb), step, cut_off)
    with pytest.raises(UnavailableError, match="run again"):
        run(apdb, 1002)
    assert dump(apdb) == before
    assert [r.already_stored for r in run(apdb, 1002)] == [False, False]
    assert apdb.counts() == {"DiaObject": 3, "DiaSource": 4, "DiaForcedSource": 4}


def test_positions_off_the_image_get_no_forced_row(apdb):
    def off(ra, dec):
        return {**forced(1001, 1)(ra, dec), "on_image": np.zeros(len(ra), dtype=bool)}

    result = associate_visit(apdb, visit_info(1001, 1), sources(1001, 1), off)
    assert (result.sources, result.forced) == (2, 0)
    assert apdb.counts()["DiaForcedSource"] == 0


def test_a_wide_band_goes_where_the_schema_takes_it(apdb, backend):
    rows = sources(1001, 1)
    rows.replace_column("band", Column(["VR"] * len(rows)))
    info = visit_info(1001, 1, band="VR")
    if backend == "postgresql":
        with pytest.raises(BadInputError, match="band VR"):
            associate_visit(apdb, info, rows, forced(1001, 1))
        assert apdb.is_empty()
    else:
        associate_visit(apdb, info, rows, forced(1001, 1), selection=SELECTION)
        assert set(apdb.read("DiaForcedSource", ["band"])["band"]) == {"VR"}
        assert apdb.read("DiaObject", ["z_psfFluxNdata"])["z_psfFluxNdata"].tolist() == [0]


def test_another_writer_is_waited_for(hook, apdb):
    other = open_apdb(hook.config_path(NAME))
    with ExitStack() as held:
        held.enter_context(apdb.exclusive())
        with pytest.raises(UnavailableError, match="Another run writes"), other.exclusive(timeout=0.3):
            pass
    with other.exclusive(timeout=0.3):
        assert other.is_empty()


def test_creation_is_recorded_and_repeated(hook, tmp_path):
    made = hook.create(NAME, **TEMPLATE)
    assert made["outcome"] == "created"
    assert made["config"] == str(tmp_path / f"{NAME}.yaml")
    assert (made["instrument"], made["template"], made["template_version"]) == ("DECam", *TEMPLATE.values())
    assert made["schema_version"].split(".")[0].isdecimal()
    plain = Apdb.from_uri(made["config"])  # what every tool made for an APDB does
    assert plain.metadata.get("instrument") == "DECam"
    text = Path(made["config"]).read_bytes()
    again = hook.create(NAME, **TEMPLATE)
    assert again == made | {"outcome": "used"}
    assert Path(made["config"]).read_bytes() == text
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_policies_with_an_existing_apdb(hook, apdb):
    with pytest.raises(BadInputError, match="The APDB exists"):
        hook.create(NAME, policy="refuse", **TEMPLATE)
    run(apdb, 1001)
    before = dump(apdb)
    for change in ({"instrument": "LSSTCam"}, {"template_version": "v2"}, {"template": "2019/median/coadd"}):
        with pytest.raises(BadInputError, match="was made for"):
            hook.create(NAME, **(TEMPLATE | change))
    assert dump(apdb) == before
    reset = hook.create(NAME, policy="reset", **(TEMPLATE | {"template_version": "v2"}))
    assert reset["outcome"] == "reset"
    assert reset["template_version"] == "v2"
    assert reset["counts"] == {"DiaObject": 0, "DiaSource": 0, "DiaForcedSource": 0}
    assert reset["detectors"] == 0
    assert run(open_apdb(hook.config_path(NAME)), 1001)[0].new_objects == 1
    with pytest.raises(BadInputError, match="no APDB policy 'keep'"):
        hook.create(NAME, policy="keep")


def test_a_killed_creation_is_completed(hook, tmp_path):
    hook.create(NAME, **TEMPLATE)
    whole = dump(open_apdb(hook.config_path(NAME)), timeless=True)
    config = hook.config_path(NAME).read_bytes()
    for step in (1, 5):  # tables without a version; an APDB without its instrument
        hook.create(NAME, policy="reset", **TEMPLATE)
        hook.config_path(NAME).unlink()
        url = hook.place.url or f"sqlite:///{tmp_path}/{NAME}.db"
        space = NAME if hook.place.url else None
        child = f"""
import os, signal
from pathlib import Path
from lsst.dax.apdb.sql.apdbMetadataSql import ApdbMetadataSql
from tololo.reduction.campaign import Campaign, create_apdb
plain, seen = ApdbMetadataSql.set, []
def counted(self, *args, **kwargs):
    seen.append(1)
    if len(seen) == {step}: os.kill(os.getpid(), signal.SIGKILL)
    plain(self, *args, **kwargs)
ApdbMetadataSql.set = counted
campaign = Campaign("DECam", {NAME!r}, **{TEMPLATE!r})
create_apdb({url!r}, {space!r}, Path({str(hook.config_path(NAME))!r}), campaign, "reset")
"""
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=False)
        assert done.returncode == -9, done.stderr
        assert not hook.config_path(NAME).exists()
        hook.create(NAME, **TEMPLATE)
        assert dump(open_apdb(hook.config_path(NAME)), timeless=True) == whole
        assert hook.config_path(NAME).read_bytes() == config


def test_bad_names_and_absent_apdbs(hook):
    for name in ("", "a b", "x" * 64, "2018/meanclip", 'a"b', "pg_apdb"):
        with pytest.raises(BadInputError, match="cannot be the name"):
            hook.create(name)
    with pytest.raises(BadInputError, match="no usable APDB configuration"):
        hook.counts("nothing")


def test_a_database_that_is_away(tmp_path, monkeypatch):
    fields = {"host": "127.0.0.1", "port": 9, "login": "tololo", "password": "s3cret-s3cret"}
    connect(monkeypatch, **fields, extra={"config_folder": str(tmp_path)})
    hook = ApdbHook()
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        hook.create(NAME)
    assert "s3cret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    answered, reason = hook.test_connection()
    assert not answered
    assert "127.0.0.1:9" in reason


def test_what_the_connection_says_becomes_the_place(tmp_path, monkeypatch):
    folder = {"config_folder": str(tmp_path)}
    urls = {
        "postgresql+psycopg2://me@db.example.org:5433/alerts?sslmode=require": {
            "host": "db.example.org",
            "port": 5433,
            "login": "me",
            "password": "s3cret",
            "schema": "alerts",
            "extra": folder | {"sslmode": "require"},
        },
        "postgresql+psycopg2://me@db.example.org/apdb?passfile=%2Fhome%2Fme%2Fpgpass": {
            "extra": folder
            | {"db_url": "postgresql+psycopg://me@db.example.org/apdb?passfile=/home/me/pgpass"}
        },
        "postgresql+psycopg2:///apdb?host=%2Frun%2Fpostgresql": {"host": "/run/postgresql", "extra": folder},
    }
    for url, fields in urls.items():
        connect(monkeypatch, **fields)
        place = ApdbHook().place
        assert place.url == url
        assert place.folder == tmp_path
        expected = {"url": "postgresql://db.example.org:5433/alerts", "username": "me", "password": "s3cret"}
        assert place.credentials == (expected if "password" in fields else {})
    for fields, words in [
        ({"extra": {}}, "names no database"),
        ({"extra": {"db_url": "mysql://me@db/apdb"}}, "not PostgreSQL"),
        ({"extra": {"db_url": "nonsense"}}, "not a database URL"),
    ]:
        connect(monkeypatch, **fields)
        with pytest.raises(BadInputError, match=words):
            _ = ApdbHook().place
    with pytest.raises(BadInputError, match="no such connection"):
        _ = ApdbHook("apdb_elsewhere").place


def test_an_apdb_file_that_went_away(tmp_path, monkeypatch):
    connect(monkeypatch, extra={"backend": "sqlite", "config_folder": str(tmp_path)})
    hook = ApdbHook()
    hook.create(NAME)
    (tmp_path / f"{NAME}.db").unlink()
    with pytest.raises(BadInputError, match="There is no APDB"):
        hook.counts(NAME)


@pytest.mark.services
def test_the_password_of_the_connection_reaches_the_database_and_no_file(postgres, tmp_path, monkeypatch):
    password = postgres.passfile.read_text().strip().split(":")[-1]
    monkeypatch.delenv("LSST_DB_AUTH", raising=False)
    fields = {"host": postgres.host, "port": postgres.port, "login": postgres.user, "schema": "apdb"}
    connect(monkeypatch, **fields, password=password, extra={"config_folder": str(tmp_path)})
    hook = ApdbHook()
    assert hook.test_connection() == (True, hook.test_connection()[1])
    try:
        assert hook.create("with_password")["outcome"] == "created"
        assert hook.counts("with_password")["DiaObject"] == 0
        assert password not in hook.config_path("with_password").read_text()
        assert "LSST_DB_AUTH_CREDENTIALS" not in os.environ
        with pytest.raises(UnavailableError):
            open_apdb(hook.config_path("with_password"))
        with hook.authorised():
            assert open_apdb(hook.config_path("with_password")).is_empty()
    finally:
        with postgres.connect("apdb") as connection:
            connection.execute("DROP SCHEMA IF EXISTS with_password CASCADE")


def test_an_apdb_of_other_tools_is_taken_only_when_it_says_what_it_is(tmp_path, monkeypatch):
    connect(monkeypatch, extra={"backend": "sqlite", "config_folder": str(tmp_path)})
    hook, config = ApdbHook(), tmp_path / f"{NAME}.yaml"
    # what `apdb-cli create-sql` and `apdb-cli metadata set` call
    create_sql(str(config), None, db_url=f"sqlite:///{tmp_path}/{NAME}.db")
    apdb = open_apdb(config)
    run(apdb, 1001, 1002)
    apdb.ledger.drop()  # as if another program had stored them
    with pytest.raises(BadInputError, match="no record of its instrument"):
        hook.create(NAME)
    for key, value in (("instrument", "DECam"), ("tololo:campaign", NAME)):
        metadata_set(str(config), key, value, force=False)
    assert hook.create(NAME)["outcome"] == "used"
    apdb = open_apdb(config)
    assert apdb.latest().visit == 1002
    assert apdb.stored(1001, 1).already_stored
    with pytest.raises(BadInputError, match="earlier than visit 1002"):
        run(apdb, 1001)  # its detector 2 stored nothing, so that only its order speaks against it


def test_box_regions_will_do(tmp_path, monkeypatch):
    connect(monkeypatch, extra={"backend": "sqlite", "config_folder": str(tmp_path)})
    hook = ApdbHook()
    hook.create(NAME)
    box = Box.fromDegrees(150.0, 2.0, 150.1, 2.2)
    info = VisitInfo(1001, 1, "z", MIDPOINTS[1001], box)
    apdb = open_apdb(hook.config_path(NAME))
    assert associate_visit(apdb, info, sources(1001, 1), forced(1001, 1), selection=SELECTION).forced == 1

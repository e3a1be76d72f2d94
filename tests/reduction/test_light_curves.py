"""Light curves in files that others read, and the command that writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import sqlalchemy
from astropy.table import Table
from astropy.time import Time

from reduction import alert_field as field
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.apdb import CampaignApdb
from tololo.reduction.light_curves import main, nearest_object, object_light_curve, write_table

FIRST, SECOND = field.VISITS
STAR = int(field.sources_of(FIRST)["diaSourceId"][0])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An APDB of two visits."""
    folder = tmp_path_factory.mktemp("light_curves")
    field.associate(field.new_apdb(folder), folder, *field.VISITS)
    return folder / f"{field.APDB}.yaml"


@pytest.fixture(scope="module")
def apdb(config: Path) -> CampaignApdb:
    return field.open_apdb(config)


def place_of(visit: int, name: str) -> dict[str, float]:
    row = field.sources_of(visit)[list(field.FLUXES[visit]).index(name)]
    return {"ra": float(row["ra"]), "dec": float(row["dec"])}


def test_a_light_curve_has_what_was_detected_and_what_was_forced(apdb: CampaignApdb) -> None:
    table = object_light_curve(apdb, STAR)
    rows = list(zip(table["visit"], table["kind"], table["psfFlux"], strict=True))
    assert rows == [
        (FIRST, "detected", 5000.0),
        (FIRST, "forced", 12.5),
        (SECOND, "detected", -3000.0),
        (SECOND, "forced", 12.5),
    ]
    middle = [field.context_of(visit).midpoint_mjd_tai for visit in table["visit"]]
    assert table["mjd_tai"].tolist() == pytest.approx(middle, abs=1e-9)
    seconds = (Time(middle, format="mjd", scale="tai").utc.mjd - table["mjd_utc"]) * 86400
    assert seconds == pytest.approx(0, abs=1e-3)
    assert (table["mjd_tai"] - table["mjd_utc"])[0] * 86400 == pytest.approx(37, abs=1e-3)
    assert table["mag"][0] == pytest.approx(31.4 - 2.5 * np.log10(35000.0))
    assert table["magErr"][0] == pytest.approx(1.0857 * 100 / 35000, rel=1e-4)


@pytest.mark.parametrize("number", [STAR + 1, 0, -1, 2**63, 10**20])
def test_an_object_that_is_not_there_is_one_message(apdb: CampaignApdb, number: int) -> None:
    with pytest.raises(BadInputError, match=f"There is no diaObject {number}"):
        object_light_curve(apdb, number)


def test_the_nearest_object_of_a_position_is_found(apdb: CampaignApdb) -> None:
    place = place_of(FIRST, field.STAR)
    assert nearest_object(apdb, place["ra"], place["dec"] + 0.5 / 3600) == STAR
    with pytest.raises(NothingToDoError, match="no diaObject"):
        nearest_object(apdb, place["ra"], place["dec"] + 5 / 3600)
    # A known body is no object.
    with pytest.raises(NothingToDoError, match="no diaObject"):
        nearest_object(apdb, **place_of(SECOND, field.BODY))
    with pytest.raises(BadInputError, match="no place"):
        nearest_object(apdb, 400.0, 0.0)


@pytest.mark.parametrize("name", ["star.parquet", "star.csv", "star.ecsv"])
def test_a_file_keeps_units_and_numbers(apdb: CampaignApdb, tmp_path: Path, name: str) -> None:
    table = object_light_curve(apdb, STAR)
    write_table(table, tmp_path / name)
    read = Table.read(tmp_path / name, **({} if name.endswith("parquet") else {"format": "ascii.ecsv"}))
    assert read.colnames == table.colnames
    for column in table.colnames:
        assert read[column].unit == table[column].unit
        assert read[column].tolist() == table[column].tolist()
    assert read.meta["diaObjectId"] == STAR
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_others_read_the_files_as_well(apdb: CampaignApdb, tmp_path: Path) -> None:
    table = object_light_curve(apdb, STAR)
    for name in ("star.parquet", "star.csv"):
        write_table(table, tmp_path / name)
    frame = pandas.read_csv(tmp_path / "star.csv", comment="#")
    assert frame["psfFlux"].tolist() == table["psfFlux"].tolist()
    assert pyarrow.parquet.read_table(tmp_path / "star.parquet")["mjd_tai"].to_pylist() == list(
        table["mjd_tai"]
    )


def test_withdrawn_rows_are_left_out(tmp_path: Path) -> None:
    apdb = field.new_apdb(tmp_path)
    field.associate(apdb, tmp_path, *field.VISITS)
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / field.APDB}.db")
    with engine.begin() as connection:
        for name in ("DiaSource", "DiaForcedSource"):
            table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=engine)
            withdrawn = table.update().where(table.c.visit == FIRST).values(timeWithdrawnMjdTai=60000.0)
            connection.execute(withdrawn)
    assert set(object_light_curve(apdb, STAR)["visit"]) == {SECOND}


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tololo.reduction.light_curves", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_command_writes_the_light_curve_of_an_object(config: Path, tmp_path: Path) -> None:
    done = run("--apdb", config, "--object", STAR, "--output", tmp_path / "star.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"diaObject {STAR}: 2 detections, 2 forced" in done.stdout
    assert len(Table.read(tmp_path / "star.csv", format="ascii.ecsv")) == 4


def test_the_command_finds_an_object_by_its_place(config: Path, tmp_path: Path) -> None:
    place = place_of(SECOND, field.EDGE)
    given = ["--apdb", config, "--ra", place["ra"], "--dec", place["dec"], "--radius", 2]
    assert main([*map(str, given), "--output", str(tmp_path / "edge.parquet")]) == 0
    assert Table.read(tmp_path / "edge.parquet")["psfFlux"][0] == 9000.0


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--object", "5", "--output", "o.csv"], "There is no diaObject 5"),
        (["--object", "5", "--output", "o.fits"], "'.fits' is no kind of light curve"),
        (["--object", str(STAR), "--output", "nowhere/o.csv"], "cannot be written"),
        (["--ra", "1", "--dec", "1", "--output", "o.csv"], "There is no diaObject in the APDB"),
        (["--ra", "-1", "--dec", "1", "--output", "o.csv"], "no place to look at"),
    ],
)
def test_what_cannot_be_is_one_message(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    wrong: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--apdb", str(config), *arguments]) == 1
    assert wrong in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--ra", "1"], ["--object", "1", "--ra", "1", "--dec", "1"]])
def test_an_object_or_a_place_must_be_given(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--apdb", "a.yaml", "--output", "o.csv", *arguments])


def test_an_apdb_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "o.csv"
    assert main(["--apdb", str(tmp_path / "a.yaml"), "--object", "1", "--output", str(path)]) == 1
    assert "no usable APDB configuration" in capsys.readouterr().err
    assert not path.exists()

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.refcat import htm_index
from tololo.reduction.injection_catalog import content_hash, injection_shards, read_injection_catalog

ROWS = {
    "RA": [150.0, 150.2, 359.9999, 150.1],
    "DEC": [2.0, 2.2, -30.0, 2.1],
    "MAG": [20.0, 21.5, 22.0, 19.25],
    "BAND": ["r", "Y", "VR", "r"],
    "EXPNUM": [840001, 840002, 840001, 840003],
}


def as_parquet(table: Table, path: Path) -> None:
    table.to_pandas().to_parquet(path)


WRITERS: dict[str, Callable[[Table, Path], None]] = {
    "csv": lambda table, path: table.write(path, format="ascii.csv"),
    "ecsv": lambda table, path: table.write(path, format="ascii.ecsv"),
    "fits": lambda table, path: table.write(path),
    "parquet": as_parquet,
}


def write(folder: Path, text: str = "", name: str = "fakes.csv", **columns: Any) -> Path:
    """Write a catalogue: a text as it is, else the rows above with other columns."""
    path = folder / name
    if text:
        path.write_text(text)
    else:
        Table(ROWS | columns).write(path, format="ascii.csv")
    return path


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_every_format_and_case_gives_the_same_catalogue(
    tmp_path: Path, suffix: str, case: Callable[[str], str]
) -> None:
    path = tmp_path / f"fakes.{suffix}"
    WRITERS[suffix](Table({case(name): values for name, values in ROWS.items()}), path)
    sources = read_injection_catalog(path)
    assert sources["ra"].tolist() == ROWS["RA"]
    assert sources["dec"].tolist() == ROWS["DEC"]
    assert sources["mag"].tolist() == ROWS["MAG"]
    assert sources["band"].tolist() == ["r", "y", "VR", "r"]
    assert sources["visit"].tolist() == ROWS["EXPNUM"]
    assert sources["injection_id"].tolist() == [1, 2, 3, 4]
    assert set(sources["source_type"]) == {"DeltaFunction"}
    assert content_hash(sources) == content_hash(read_injection_catalog(write(tmp_path, name="other.csv")))


def test_the_exposure_may_be_left_open(tmp_path: Path) -> None:
    without = {name: values for name, values in ROWS.items() if name != "EXPNUM"}
    Table(without).write(tmp_path / "all.csv", format="ascii.csv")
    assert read_injection_catalog(tmp_path / "all.csv")["visit"].tolist() == [0, 0, 0, 0]
    some = "RA,DEC,MAG,BAND,EXPNUM,ID\n1,2,20,r,,7\n1,2,20,r,840001,8\n1,2,20,r,840002,8\n"
    sources = read_injection_catalog(write(tmp_path, some))
    assert sources["visit"].tolist() == [0, 840001, 840002]
    assert sources["injection_id"].tolist() == [7, 8, 8]
    with pytest.raises(BadInputError, match=r"1 of 3 .* row 3: 7 as in row 1"):
        read_injection_catalog(write(tmp_path, some.replace("840002,8", "840002,7")))


def test_galaxies_have_a_shape_and_points_have_none(tmp_path: Path) -> None:
    text = (
        "ra,dec,mag,band,source_type,half_light_radius,n,q\n"
        "1,2,20,r,Star,,,\n1,2,20,r,Exponential,1.5,,0.5\n1,2,20,r,Sersic,2,4,1\n"
    )
    sources = read_injection_catalog(write(tmp_path, text.replace("Exponential,1.5,,", "Exponential,1.5,9,")))
    assert sources["source_type"].tolist() == ["Star", "Exponential", "Sersic"]
    np.testing.assert_array_equal(sources["n"], [np.nan, 1.0, 4.0])
    np.testing.assert_array_equal(sources["half_light_radius"], [np.nan, 1.5, 2.0])
    np.testing.assert_array_equal(sources["pa"], [np.nan, 0.0, 0.0])
    with pytest.raises(BadInputError, match=r"1 of 3 sources have no usable n\..* row 3: nothing"):
        read_injection_catalog(write(tmp_path, text.replace("Sersic,2,4", "Sersic,2,")))
    with pytest.raises(BadInputError, match="no column half_light_radius"):
        read_injection_catalog(write(tmp_path, "ra,dec,mag,band,source_type\n1,2,20,r,Sersic\n"))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"DEC": [2.0, 95.2, 3.0, -91.0]}, r"2 of 4 .* usable DEC.* row 2: 95.2; row 4: -91.0"),
        ({"RA": [1.0, 2.0, 361.0, -1.0]}, r"usable RA.* row 3: 361.0; row 4: -1.0"),
        ({"RA": ["1", "12:30:00", "3", "4"]}, r"usable RA.* row 2: 12:30:00"),
        ({"MAG": [20.0, np.nan, 99.0, 21.0]}, r"usable MAG.* row 2: nan; row 3: 99.0"),
        ({"BAND": ["r", "w", "Y", "R"]}, r"usable BAND.* row 2: w; row 4: R.*use u, g, r"),
        ({"EXPNUM": [1, -2, 3, 4]}, r"usable EXPNUM.* row 2: -2"),
        ({"EXPNUM": [1.0, 2.5, 3.0, 4.0]}, r"usable EXPNUM.* row 2: 2.5"),
        ({"source_type": ["Star", "Star", "Planet", "Star"]}, r"source_type.* row 3: Planet.*use DeltaFunc"),
        ({"injection_id": [5, 6, 7, 5], "BAND": ["r"] * 4, "EXPNUM": [1] * 4}, r"row 4: 5 as in row 1"),
        ({"ra": [1.0, 2.0, 3.0, 4.0]}, r"the column ra twice.*columns RA and ra"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    path = write(tmp_path, **columns)
    with pytest.raises(BadInputError, match=reason) as caught:
        read_injection_catalog(path)
    assert str(path) in str(caught.value)
    assert "What to do:" in str(caught.value)


def test_many_bad_rows_are_one_short_message(tmp_path: Path) -> None:
    rows = "\n".join(f"1,{value},20,r" for value in range(85, 100))
    with pytest.raises(BadInputError, match=r"9 of 15 .* row 7: 91; .*; and 4 more"):
        read_injection_catalog(write(tmp_path, f"RA,DEC,MAG,BAND\n{rows}\n"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("no_mag.csv", "RA,DEC,BAND\n1,2,r\n", "no column MAG.*columns RA, DEC, BAND"),
        ("nothing.csv", "RA,DEC,MAG,BAND\n", "has no rows"),
        ("blank.csv", "\n", "no column RA, DEC, MAG, BAND.*columns none"),
        ("fakes.txt", "RA DEC\n", "no table in a known form.*ecsv"),
        ("cut.fits", "SIMPLE  =", "cannot be read"),
        ("cut.parquet", "PAR1", "cannot be read"),
    ],
)
def test_a_file_that_is_no_catalogue_is_one_message(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    with pytest.raises(BadInputError, match=reason):
        read_injection_catalog(write(tmp_path, content, name))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"no such injection catalogue. Where: {tmp_path}/none.csv"):
        read_injection_catalog(tmp_path / "none.csv")


def test_shards_hold_each_source_once(tmp_path: Path) -> None:
    sources = read_injection_catalog(write(tmp_path))
    shards = injection_shards(sources)
    assert sorted(i for shard in shards.values() for i in shard["injection_id"].tolist()) == [1, 2, 3, 4]
    for (trixel, band), shard in shards.items():
        assert set(shard["band"]) == {band}
        assert set(htm_index(shard["ra"], shard["dec"])) == {trixel}

"""Known solar-system bodies: predicted places against a known path, and which sources they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import Angle, SkyCoord
from astropy.table import Table
from astropy.time import Time

from tololo.facility.errors import BadInputError
from tololo.reduction.ephemerides import (
    designation_of,
    match_ephemerides,
    predicted,
    read_ephemerides,
    ss_object_id,
)

ARCSEC = 1 / 3600
EPOCH = 58000.0


def path(time, start=(359.95, -30.0)):
    """A body that crosses the meridian at 25 arcsec per hour, and bends with the observer's rotation."""
    days = np.asarray(time) - EPOCH
    sky = 25 * 24 * ARCSEC * days
    bend = 4 * ARCSEC * np.sin(2 * np.pi * days)
    dec = start[1] + 0.3 * sky + bend
    return (start[0] + sky / np.cos(np.radians(start[1]))) % 360, dec


def grid(name="K19A01B", step=0.125, n=25, **columns):
    time = EPOCH + step * np.arange(n)
    ra, dec = path(time)
    return {"name": np.full(n, name), "mjd_tai": time, "ra": ra, "dec": dec, **columns}


def written(folder: Path, columns, name="known.csv") -> Path:
    Table(columns).write(folder / name, overwrite=True)
    return folder / name


@pytest.mark.parametrize("name", ["known.csv", "known.ecsv", "known.parquet"])
def test_a_body_is_found_where_it_is_between_epochs(tmp_path: Path, name: str) -> None:
    table = read_ephemerides(written(tmp_path, grid(), name))
    for time in EPOCH + np.array([0.01, 0.51, 1.77, 2.99]):
        ra, dec = path(time)
        ids, places = predicted(table, time)
        found = SkyCoord(*places[0], representation_type="cartesian")
        assert ids.tolist() == [ss_object_id("K19A01B")]
        off = found.separation(SkyCoord(ra, dec, unit="deg", representation_type="unitspherical"))
        assert off.arcsec < 0.1
        assert match_ephemerides(ra, dec, time, table, 0.2).tolist() == ids.tolist()


def test_motions_make_few_epochs_do(tmp_path: Path) -> None:
    step, n = 0.5, 5
    time = EPOCH + step * np.arange(n)
    ahead, behind = path(time + 1e-4), path(time - 1e-4)
    dec_rate = (ahead[1] - behind[1]) / 2e-4 / ARCSEC / 24
    ra_rate = Angle(ahead[0] - behind[0], "deg").wrap_at("180d").deg / 2e-4 / ARCSEC / 24
    ra_rate *= np.cos(np.radians(path(time)[1]))
    table = read_ephemerides(written(tmp_path, grid(step=step, n=n, ra_rate=ra_rate, dec_rate=dec_rate)))
    without = read_ephemerides(written(tmp_path, grid(step=step, n=n)))
    moments = {"between": EPOCH + 0.6, "after": EPOCH + 2.02}
    places = {name: path(moment) for name, moment in moments.items()}
    assert match_ephemerides(*places["between"], moments["between"], table, 0.5)[0] != 0
    assert match_ephemerides(*places["between"], moments["between"], without, 0.5)[0] == 0
    assert match_ephemerides(*places["after"], moments["after"], table, 0.5)[0] != 0
    assert match_ephemerides(*path(EPOCH + 2.7), EPOCH + 2.7, table, 3600)[0] == 0


def test_a_gap_or_the_end_of_the_epochs_predicts_nothing(tmp_path: Path) -> None:
    columns = grid(step=3.0, n=3)
    table = read_ephemerides(written(tmp_path, columns))
    for time in (EPOCH - 0.01, EPOCH + 1.5, EPOCH + 6.01):
        assert len(predicted(table, time)[0]) == 0
        assert match_ephemerides(*path(time), time, table, 3600).tolist() == [0]


def test_each_body_is_one_source_and_the_nearest(tmp_path: Path) -> None:
    columns = grid("AAA")
    other = grid("BBB") | {"dec": grid()["dec"] + 3 * ARCSEC}
    both = {name: np.concatenate([columns[name], other[name]]) for name in columns}
    table = read_ephemerides(written(tmp_path, both))
    time = EPOCH + 0.3
    ra, dec = path(time)
    sources = dec + ARCSEC * np.array([0.9, 0.2, 2.4, 40.0])
    ids = match_ephemerides(np.full(4, ra), sources, time, table, 2.0)
    assert [designation_of(number) if number else "" for number in ids] == ["", "AAA", "BBB", ""]
    assert match_ephemerides([], [], time, table, 2.0).tolist() == []
    assert match_ephemerides([ra], [dec], time, table[:0], 2.0).tolist() == [0]


def test_times_in_utc_are_meant(tmp_path: Path) -> None:
    columns = grid()
    tai = columns.pop("mjd_tai")
    columns["mjd_utc"] = Time(tai, format="mjd", scale="tai").utc.mjd
    assert read_ephemerides(written(tmp_path, columns))["mjd_tai"].tolist() == pytest.approx(tai, abs=1e-9)


def test_numbers_of_bodies_are_those_of_lsst() -> None:
    assert ss_object_id("J95X00A") == 0x4A393558303041
    assert designation_of(0x4A393558303041) == "J95X00A"
    long = ss_object_id("(134340) Pluto")
    assert 0 < long < 2**63
    assert designation_of(long) is None
    assert long == ss_object_id("(134340) Pluto") != ss_object_id("(136199) Eris")
    assert designation_of(7) is None


def test_own_numbers_are_kept(tmp_path: Path) -> None:
    table = read_ephemerides(written(tmp_path, grid(ssObjectId=np.full(25, 42))))
    assert set(table["ssObjectId"]) == {42}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"dec": np.full(25, 91.0)}, "dec are not within"),
        ({"ra": np.full(25, np.nan)}, "25 values of ra are no numbers, the first in row 1"),
        ({"ra": np.full(25, "12:00:00")}, "ra are no numbers"),
        ({"mjd_tai": np.full(25, EPOCH)}, "two rows of one epoch"),
        ({"ssObjectId": np.zeros(25, int)}, "not positive"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, change: dict, wrong: str) -> None:
    with pytest.raises(BadInputError, match=wrong):
        read_ephemerides(written(tmp_path, grid() | change))


@pytest.mark.parametrize("cell", ["", "Ceres", "1e30"])
def test_a_number_of_a_body_that_is_none_is_refused(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "known.csv"
    path.write_text(f"name,mjd_tai,ra,dec,ssObjectId\nA,58000,1,2,7\nB,58000,1,2,{cell}\n")
    with pytest.raises(BadInputError, match=r"ssObjectId are no.*known.csv"):
        read_ephemerides(path)


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no column mjd_tai, ra"):
        read_ephemerides(written(tmp_path, {"name": ["a"], "dec": [1.0]}))
    with pytest.raises(BadInputError, match="cannot be read"):
        read_ephemerides(tmp_path / "nothing.csv")

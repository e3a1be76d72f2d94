from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tololo.facility.errors import BadInputError
from tololo.facility.lco import clean_name, frame_of, instrument_folder, proposals_in, read_time, stem_of

RECORD: dict[str, Any] = {
    "id": 7,
    "filename": "cpt1m012-fa06-20240502-0001-e91.fits.fz",
    "url": "https://archive-lco-global.s3.amazonaws.com/x?signature",
    "version_set": [{"md5": "ABC"}, {"md5": "older"}],
    "target_name": "OGLE-2024-BLG-0034",
    "instrument_id": "fa06",
    "primary_optical_element": "ip",
    "proposal_id": "P",
    "reduction_level": 91,
    "configuration_type": "EXPOSE",
}


def test_a_record() -> None:
    frame = frame_of(RECORD)
    assert frame.dataset == "OGLE-2024-BLG-0034/sinistro/ip"
    assert frame.md5 == "abc"
    assert frame.stem == "cpt1m012-fa06-20240502-0001-e91"
    assert frame.objection() == ""


@pytest.mark.parametrize(
    ("changes", "objection"),
    [
        ({"reduction_level": 11}, "not reduced, its level is 11"),
        ({"reduction_level": None}, "not reduced, its level is 0"),
        ({"configuration_type": "SPECTRUM"}, "no exposure of a target but SPECTRUM"),
        ({"configuration_type": None}, "no exposure of a target but of an unknown kind"),
        ({"filename": "x-e91.fits.gz"}, "not a FITS file"),
    ],
)
def test_what_is_not_fetched(changes: dict[str, Any], objection: str) -> None:
    assert frame_of(RECORD | changes).objection() == objection


@pytest.mark.parametrize("name", ["target_name", "instrument_id", "primary_optical_element"])
@pytest.mark.parametrize("value", ["", None, " N/A ", "UNKNOWN"])
def test_what_belongs_to_no_dataset(name: str, value: str | None) -> None:
    assert frame_of(RECORD | {name: value}).dataset == ""


@pytest.mark.parametrize("versions", [None, [], ["x"], [None], {"md5": "abc"}, "abc", [{"md5": None}]])
def test_a_record_without_a_checksum(versions: Any) -> None:
    assert frame_of(RECORD | {"version_set": versions}).md5 == ""


def test_the_former_field_counts_where_the_new_one_is_empty() -> None:
    assert frame_of(RECORD | {"target_name": "", "OBJECT": "MOA-2024-BLG-001"}).target == "MOA-2024-BLG-001"


@pytest.mark.parametrize("filename", ["", "../x.fits", "a/b.fits", ".hidden.fits", "a b.fits"])
def test_a_file_name_that_is_none(filename: str) -> None:
    with pytest.raises(BadInputError, match=r"cannot be that of a file.*/frames/7/"):
        frame_of(RECORD | {"filename": filename})


def test_a_record_without_an_id() -> None:
    with pytest.raises(BadInputError, match="without 'id'"):
        frame_of({})


@pytest.mark.parametrize(
    ("instrument", "folder"),
    [
        ("fa03", "sinistro"),
        ("fl12", "sinistro"),
        ("FA07", "sinistro"),
        ("sq31", "qhy"),
        ("ep05", "muscat"),
        ("kb29", "sbig"),
        ("fs02", "spectral"),
        ("xx01", "xx01"),
        ("GHTS_RED", "GHTS_RED"),
    ],
)
def test_folders_of_instruments(instrument: str, folder: str) -> None:
    assert instrument_folder(instrument) == folder


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("2010 NY65", "2010_NY65"),
        (" C/2023 A3 ", "C_2023_A3"),
        ("..", "_."),
        ("a\\b\tc\x00d", "a_b_c_d"),
        ("Gaia24amo", "Gaia24amo"),
    ],
)
def test_clean_names(name: str, clean: str) -> None:
    assert clean_name(name) == clean


@pytest.mark.parametrize("ending", [".fits", ".fits.fz", ".fts", ".FITS", ".fits.gz", ".fits.fz.bad"])
def test_stems(ending: str) -> None:
    assert stem_of(f"cpt1m012-e91{ending}") == "cpt1m012-e91"


@pytest.mark.parametrize("name", ["cpt1m012-e91.parquet", "reduction_config.yaml", "outfits"])
def test_other_files_are_no_frames(name: str) -> None:
    assert stem_of(name) == name


def test_times() -> None:
    day = datetime(2024, 5, 2, tzinfo=UTC)
    assert read_time("2024-05-02", "x") == day
    assert read_time("2024-05-02", "x", end=True) == datetime(2024, 5, 3, tzinfo=UTC)
    assert read_time(" 2024-05-02 10:30 ", "x", end=True) == datetime(2024, 5, 2, 10, 30, tzinfo=UTC)
    assert read_time("2024-05-02T01:00:00+02:00", "x") == datetime(2024, 5, 1, 23, tzinfo=UTC)
    with pytest.raises(BadInputError, match=r"'2024-13-01' is no time.*param end"):
        read_time("2024-13-01", "param end")
    with pytest.raises(BadInputError, match="is no time"):
        read_time("9999-12-31", "param end", end=True)


def test_proposals() -> None:
    assert proposals_in("A, B;C\nA") == ("A", "B", "C")
    assert proposals_in([" A ", "B", ""]) == ("A", "B")
    assert proposals_in(None) == ()

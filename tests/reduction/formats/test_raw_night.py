from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reduction.raw_files import EVENING, NIGHT, write_raw
from tololo.reduction.formats.raw_night import possible_nights
from tololo.reduction.formats.raw_search import find_raws

NEXT = EVENING + timedelta(days=1)
LATE = datetime(2019, 4, 2, 13, 0, tzinfo=UTC)  # 10:00 in Chile: a calibration of NIGHT, or the sky's next


@pytest.mark.parametrize(
    ("when", "name", "change", "nights"),
    [
        (EVENING, "", {}, {NIGHT}),
        (LATE, "", {}, {NIGHT, NIGHT + 1}),
        (EVENING, "c4d_190403_013000_ori.fits.fz", {}, {NIGHT}),  # the header goes before the name
        (EVENING, "", {"DATE-OBS": "yesterday"}, {NIGHT}),
        (EVENING, "", {"DATE-OBS": "2019-13-41T00:00:00"}, {NIGHT}),
        (EVENING, "a.fits.fz", {"DATE-OBS": None, "MJD-OBS": 58575.0625}, {NIGHT}),
        (EVENING, "a.fits.fz", {"DATE-OBS": None, "MJD-OBS": -1.0}, set()),
        (EVENING, "c4d_199999_999999_ori.fits.fz", {"DATE-OBS": None}, set()),
    ],
)
def test_the_nights_that_a_file_may_be_of(
    tmp_path: Path, when: datetime, name: str, change: dict[str, Any], nights: set[int]
) -> None:
    path = write_raw(tmp_path, 841_001, when=when, ccds=[2], name=name, change=change)
    assert possible_nights(path) == nights


@pytest.mark.parametrize("content", [b"", b"SIMPLE  = but", b"<html>", None])
def test_where_the_header_cannot_be_read_the_name_counts(tmp_path: Path, content: bytes | None) -> None:
    for name, nights in (("c4d_190402_013000_ori.fits.fz", {NIGHT}), ("DECam_00841001.fits.fz", set())):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert possible_nights(tmp_path / name) == nights


def test_a_bad_file_is_named_in_its_own_night_only(tmp_path: Path) -> None:
    write_raw(tmp_path, 841_001)
    good = write_raw(tmp_path, 841_002, when=NEXT)
    cut = write_raw(tmp_path, 841_003, when=NEXT + timedelta(minutes=1))
    cut.write_bytes(cut.read_bytes()[:-4000])
    unknown = write_raw(tmp_path, 841_004, when=NEXT + timedelta(minutes=2), change={"FILTER": None})
    twice = write_raw(tmp_path, 841_002, when=EVENING + timedelta(minutes=3), name="second.fits.fz")
    nobodys = tmp_path / "nobodys.fits.fz"
    nobodys.write_bytes(b"no fits")
    search = find_raws(tmp_path)

    def named(night: int) -> set[str]:
        one = search.of_night(night)
        assert one.of_night(night) == one
        return {path.name for path in tmp_path.iterdir() if any(str(path) in e.where for e in one.rejected)}

    assert named(NIGHT + 1) == {cut.name, unknown.name, nobodys.name}
    assert named(NIGHT) == {twice.name, nobodys.name}
    assert named(NIGHT - 1) == {nobodys.name}
    assert [exposure.path for exposure in search.of_night(NIGHT + 1).exposures] == [good]

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tololo.facility.disk import DiskError
from tololo.facility.lco_journal import FILE, Downloaded, Journal

FRAME = Downloaded(7, "a-e91.fits.fz", "abc", 17, "T/sinistro/ip")
MAY = [datetime(2024, 5, day, tzinfo=UTC) for day in range(1, 20)]


def test_the_last_line_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert not journal.frames
    journal.note(FRAME)
    journal.note(replace(FRAME, delivered=True))
    for read in (journal, Journal(tmp_path)):
        assert read.frames == {7: replace(FRAME, delivered=True)}
    assert len((tmp_path / FILE).read_text().splitlines()) == 2


def test_a_window_that_leaves_a_gap_moves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note_complete("P", MAY[1], MAY[3])
    journal.note_complete("P", MAY[5], MAY[7])  # a gap
    journal.note_complete("P", MAY[0], MAY[2])  # of the past
    assert Journal(tmp_path).complete == {"P": MAY[3]}
    journal.note_complete("P", MAY[3], MAY[8])
    journal.note_complete("Q", MAY[5], MAY[6])
    assert Journal(tmp_path).complete == {"P": MAY[8], "Q": MAY[6]}


@pytest.mark.parametrize("torn", [b'{"id": 8, "filena', b"{}", b"\xff\xfe", b"[]", b'{"id": 8}'])
def test_a_torn_line_is_passed_over(tmp_path: Path, torn: bytes) -> None:
    Journal(tmp_path).note(FRAME)
    with open(tmp_path / FILE, "ab") as file:
        file.write(torn)
    journal = Journal(tmp_path)
    assert journal.frames == {7: FRAME}
    journal.note(replace(FRAME, id=9))
    assert set(Journal(tmp_path).frames) == {7, 9}


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / FILE).mkdir()
    with pytest.raises(DiskError, match=r"\.lco_archive\.jsonl cannot be written"):
        journal.note(FRAME)

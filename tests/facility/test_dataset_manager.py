from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tololo.facility.dataset_manager import ManagerConfig, read_manager_config
from tololo.facility.errors import BadInputError

USUAL = """\
log_dir: '/path/to/logging/directory/'
data_reduction_dir: '/path/to/top-level/reduction/directory/'
software_dir: '/path/to/software/installation/directory/'
instrument_list: ['sinistro', 'qhy']
dataset_selection:
  group: 'file'
  file: '/path/to/datasets/file/reduce_datasets.txt'
  start_date: 'None'
  end_date: 'None'
  ndays: 0
max_parallel: 5
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "reduction_manager_config.yaml"
    path.write_text(text)
    return path


def test_the_file_that_users_have(tmp_path: Path) -> None:
    config = read_manager_config(written(tmp_path, USUAL))
    assert config == ManagerConfig(
        root=Path("/path/to/top-level/reduction/directory"),
        instruments=("sinistro", "qhy"),
        group="file",
        list_file=Path("/path/to/datasets/file/reduce_datasets.txt"),
        max_parallel=5,
        log_folder=Path("/path/to/logging/directory"),
    )
    assert config.window(datetime(2024, 5, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize("quote", ["'", ""])
def test_both_days_of_a_date_range_are_whole(tmp_path: Path, quote: str) -> None:
    text = USUAL.replace("'file'", "'Date'").replace(
        "start_date: 'None'", f"start_date: {quote}2024-04-30{quote}"
    )
    text = text.replace("end_date: 'None'", f"end_date: {quote}2024-05-02{quote}")
    config = read_manager_config(written(tmp_path, text))
    assert (config.start, config.end) == (date(2024, 4, 30), date(2024, 5, 2))
    window = config.window(datetime.now(UTC))
    assert window is not None
    assert datetime(2024, 4, 30, tzinfo=UTC) in window
    assert datetime(2024, 5, 2, 23, 59, 59, 999999, tzinfo=UTC) in window
    assert datetime(2024, 5, 3, tzinfo=UTC) not in window


def test_recent_counts_days_back_from_now(tmp_path: Path) -> None:
    text = USUAL.replace("'file'", "recent").replace("ndays: 0", "ndays: 1.5")
    window = read_manager_config(written(tmp_path, text)).window(datetime(2024, 5, 3, 12, tzinfo=UTC))
    assert window is not None
    assert datetime(2024, 5, 2, tzinfo=UTC) in window
    assert datetime(2024, 5, 1, 23, 59, 59, tzinfo=UTC) not in window
    assert datetime(2024, 5, 3, 12, tzinfo=UTC) in window


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "says"),
    [
        ("'file'\n", "'night'\n", 6, "dataset_selection.group", "all, date, recent, file"),
        ("'file'\n", "date\n", 8, "dataset_selection.start_date", "YYYY-MM-DD"),
        ("'file'\n", "recent\n", 10, "dataset_selection.ndays", "number of days"),
        (
            "  file: '/path/to/datasets/file/reduce_datasets.txt'\n",
            "",
            5,
            "dataset_selection",
            "needs a file",
        ),
        ("max_parallel: 5", "max_parallel: 0", 11, "max_parallel", "minimum"),
        ("max_parallel", "max_paralel", 11, "max_paralel", "max_parallel"),
        ("['sinistro', 'qhy']", "[]", 4, "instrument_list", "sinistro"),
        ("['sinistro', 'qhy']", "sinistro", 4, "instrument_list", "['sinistro', 'qhy']"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, key: str, says: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        read_manager_config(written(tmp_path, USUAL.replace(old, new)))
    assert f"line {line}, key {key}" in caught.value.where
    assert says in str(caught.value)


@pytest.mark.parametrize("days", ["'1.5'", "1.5"])
def test_days_may_be_text_and_are_looked_at_with_their_group_alone(tmp_path: Path, days: str) -> None:
    text = USUAL.replace("ndays: 0", f"ndays: {days}")
    assert read_manager_config(written(tmp_path, text.replace("'file'", "recent"))).ndays == 1.5
    assert read_manager_config(written(tmp_path, USUAL.replace("ndays: 0", "ndays: 'None'"))).group == "file"


@pytest.mark.parametrize("days", ["-1", "none", ".nan", "[1]"])
def test_what_is_no_number_of_days(tmp_path: Path, days: str) -> None:
    text = USUAL.replace("'file'", "recent").replace("ndays: 0", f"ndays: {days}")
    with pytest.raises(BadInputError, match=r"line 10, key dataset_selection\.ndays"):
        read_manager_config(written(tmp_path, text))


@pytest.mark.parametrize("days", ["800000", "1.0e+9", ".inf"])
def test_more_days_than_the_calendar_has_are_all(tmp_path: Path, days: str) -> None:
    text = USUAL.replace("'file'", "recent").replace("ndays: 0", f"ndays: {days}")
    window = read_manager_config(written(tmp_path, text)).window(datetime(2024, 5, 3, tzinfo=UTC))
    assert window is not None
    assert datetime(1950, 1, 1, tzinfo=UTC) in window


def test_a_range_without_end_and_a_day_of_one_digit(tmp_path: Path) -> None:
    text = USUAL.replace("'file'\n", "date\n").replace("start_date: 'None'", "start_date: 2024-5-3")
    config = read_manager_config(written(tmp_path, text.replace("end_date: 'None'", "end_date: 9999-12-31")))
    window = config.window(datetime.now(UTC))
    assert window is not None
    assert datetime(2024, 5, 3, tzinfo=UTC) in window
    assert datetime(2024, 5, 2, 23, 59, tzinfo=UTC) not in window


def test_dates_that_are_none_or_the_wrong_way_round(tmp_path: Path) -> None:
    text = USUAL.replace("'file'\n", "date\n").replace("start_date: 'None'", "start_date: 2024-05-03")
    with pytest.raises(BadInputError, match=r"before start_date.*end_date"):
        read_manager_config(written(tmp_path, text.replace("end_date: 'None'", "end_date: 2024-05-02")))
    with pytest.raises(BadInputError, match=r"'2024-13-01' is no date"):
        read_manager_config(written(tmp_path, text.replace("end_date: 'None'", "end_date: '2024-13-01'")))

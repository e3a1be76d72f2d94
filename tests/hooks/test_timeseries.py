from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hooks.datasets import FRAMES, make_root, manager
from tololo.engine.dataset_process import DatasetProcess
from tololo.engine.locks import process_owner
from tololo.facility.dataset_manager import read_manager_config
from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.locks import LOCK_FILE, LockOwner, Policy
from tololo.hooks import reduction_manager
from tololo.hooks.locks import LockHook
from tololo.hooks.timeseries import (
    DatasetLockedError,
    DatasetReduction,
    Selection,
    lock_name,
    named_datasets,
    select_datasets,
)

NOW = datetime(2024, 5, 4, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Datasets of headers alone: A of 2 May, B of 3 May late, C of 4 May."""
    for name, dates in {
        "A/sinistro/ip": ("2024-05-02T01:00:00", "2024-05-02T02:00:00.5"),
        "B/sinistro/gp": ("2024-05-03T23:59:59.999",),
        "C/qhy/w": ("2024-05-04T11:00:00", "2024-04-01T00:00:00.000"),
    }.items():
        folder = tmp_path / "root" / name
        folder.mkdir(parents=True)
        for number, date in enumerate(dates):
            (folder / f"frame-{number}.fits").write_bytes(header(date))
    return tmp_path / "root"


def header(date: str) -> bytes:
    cards = (
        "SIMPLE  =                    T",
        "BITPIX  =                    8",
        "NAXIS   =                    0",
    )
    return "".join(card.ljust(80) for card in (*cards, f"DATE-OBS= '{date}'", "END")).ljust(2880).encode()


def hook(name: str = "me", ttl: float = 300.0) -> LockHook:
    return LockHook(process_owner(name), ttl=ttl)


def select(path: Path, policy: Policy = "never") -> Selection:
    return select_datasets(read_manager_config(path), hook(), policy, NOW)


def names(found: Selection) -> list[str]:
    return [folder.parts[-3] for folder in found.chosen]


@pytest.mark.parametrize(
    ("group", "keys", "expected"),
    [
        ("all", {}, "ABC"),
        ("'All'", {}, "ABC"),
        ("date", {"start": "'2024-05-02'", "end": "'2024-05-03'"}, "AB"),  # the end's whole day
        ("date", {"start": "2024-05-03", "end": "2024-05-03"}, "B"),
        ("date", {"start": "2023-05-03", "end": "2023-05-03"}, ""),
        ("recent", {"ndays": 1}, "BC"),
        ("recent", {"ndays": 0.1}, "C"),
        ("recent", {"ndays": 3}, "ABC"),
    ],
)
def test_groups(root: Path, group: str, keys: dict[str, Any], expected: str) -> None:
    found = select(manager(root, group, **keys))
    assert names(found) == list(expected)
    assert found.outside == 3 - len(expected)
    assert not found.undated


def test_a_list_in_its_order_whatever_the_instruments(root: Path) -> None:
    path = manager(root, "file")
    path.write_text(path.read_text().replace("['sinistro', 'qhy']", "['muscat']"))
    (root / "reduce_datasets.txt").write_text("# tonight\nC/qhy/w  # the odd one\n\nA/sinistro/ip\n")
    assert names(select(path)) == ["C", "A"]
    (root / "reduce_datasets.txt").write_text("C/qhy/w\nD/qhy/w\n")
    with pytest.raises(BadInputError, match="There is no dataset D/qhy/w") as caught:
        select(path)
    assert "line 2" in caught.value.where


def test_locked_datasets_are_named_and_left_out(root: Path) -> None:
    (root / "A/sinistro/ip" / LOCK_FILE).write_text("2024-05-01T00:00:00")  # as other tools write it
    hook("someone").acquire([lock_name(root / "B/sinistro/gp")])
    for policy in ("never", "if_stale"):
        found = select(manager(root), policy)
        assert names(found) == ["C"]
        told = {folder.parts[-3]: line for folder, line in found.locked.items()}
        assert list(told) == ["A", "B"]
        assert told["A"].startswith("held by another tool")
        assert told["B"].startswith("held by someone ")
    assert str(found) == "1 datasets to be reduced, 2 locked by others"


def test_a_stale_lock_counts_where_the_policy_breaks_it(root: Path) -> None:
    hook("someone", ttl=0.01).acquire([lock_name(root / "B/sinistro/gp")])
    time.sleep(0.1)
    assert names(select(manager(root))) == ["A", "C"]
    assert names(select(manager(root), "if_stale")) == ["A", "B", "C"]


def test_what_the_own_run_holds_is_free(root: Path) -> None:
    mine = LockHook(LockOwner("photometry_to_tom", "manual__1", "reduce"))
    mine.acquire([lock_name(root / "A/sinistro/ip")])
    again = LockHook(LockOwner("photometry_to_tom", "manual__1", "select"))
    assert names(select_datasets(read_manager_config(manager(root)), again, "never", NOW)) == ["A", "B", "C"]


def test_frames_without_a_time_are_named(root: Path) -> None:
    (root / "A/sinistro/ip" / "frame-9.fits").write_bytes(b"not a frame")
    found = select(manager(root, "recent", ndays=1))
    assert names(found) == ["B", "C"]
    assert list(found.undated) == [root / "A/sinistro/ip/frame-9.fits"]


def test_folders_by_name(root: Path) -> None:
    found = named_datasets([str(root / "C/qhy/w"), "A/sinistro/ip", "C/qhy/w"], root, hook(), "never")
    assert names(found) == ["C", "A"]
    for name in ("A/sinistro/ip", str(root / "D/qhy/w")):
        with pytest.raises(BadInputError, match="There is no dataset"):
            named_datasets([name], None, hook(), "never")


def test_a_dataset_is_reduced_once_until_something_changes(tmp_path: Path) -> None:
    (folder,) = make_root(tmp_path, "A")
    last = sorted(folder.glob("*.fits"))[-1]
    last.rename(tmp_path / last.name)

    def measured() -> int:
        made = DatasetReduction(folder, hook(), "never").run(lambda line: None)
        told = made["folder"], made["target"], made["filter"], made["upload"]
        assert told == (str(folder), "A", "ip", True)
        assert Path(made["light_curve"]).is_file()
        assert not (folder / LOCK_FILE).exists()
        return int(made["measured"])

    assert measured() == FRAMES - 1
    assert measured() == 0
    (tmp_path / last.name).rename(last)
    assert measured() == 1

    known = DatasetProcess(folder).known()
    assert known is not None
    assert (known["frames"], known["measured"]) == (FRAMES, 0)
    assert DatasetProcess(folder, again=True).known() is None
    assert DatasetProcess(folder, reference_catalog=str(tmp_path / "other.ecsv")).known() is None
    config = folder / "reduction_config.yaml"
    before = config.read_text()
    config.write_text(before.replace("2.0", "2.5"))
    assert DatasetProcess(folder).known() is None
    config.write_text(before)
    assert DatasetProcess(folder).known() == known
    aside = Path(known["light_curve"]).rename(tmp_path / "aside.csv")
    assert DatasetProcess(folder).known() is None
    aside.rename(known["light_curve"])
    for name in ("star_catalog.ecsv", "frames", "photometry.parquet", "reduction_summary.json"):
        (folder / name).rename(tmp_path / "aside")
        assert DatasetProcess(folder).known() is None, name
        (tmp_path / "aside").rename(folder / name)
    assert DatasetProcess(folder).known() == known
    last.touch()
    assert DatasetProcess(folder).known() is None


def test_a_reduction_that_breaks_off_leaves_nothing_known(tmp_path: Path) -> None:
    """Part of the files may be of another configuration, also when the one before comes back."""
    (folder,) = make_root(tmp_path, "A")
    DatasetProcess(folder).run(lambda line: None)
    config = folder / "reduction_config.yaml"
    before = config.read_text()
    config.write_text(before.replace("2.0", "3.0"))
    (folder / ".photometry.parquet.part").mkdir()
    with pytest.raises(UnavailableError, match="broke off"):
        DatasetProcess(folder).run(lambda line: None)
    (folder / ".photometry.parquet.part").rmdir()
    config.write_text(before)
    assert DatasetProcess(folder).known() is None
    assert DatasetProcess(folder).run(lambda line: None)["frames"] == FRAMES


def test_a_full_disk_under_one_dataset_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def run(reduction: DatasetReduction, say: Any) -> dict[str, Any]:
        if reduction.folder.parts[-3] == "A":
            raise OSError(errno.ENOSPC, "No space left on device")
        time.sleep(0.2)
        done.append(reduction.folder.parts[-3])
        return {"frames": 1, "measured": 1}

    monkeypatch.setattr(DatasetReduction, "run", run)
    monkeypatch.setattr(reduction_manager, "_log_to_stderr", lambda: None)
    make_root(tmp_path / "root", "A", "B", "C")
    assert reduction_manager.main([str(manager(tmp_path / "root", group="all", max_parallel=1))]) == 1
    assert done == ["B", "C"]


def test_errors_come_back_in_their_own_class(tmp_path: Path) -> None:
    empty, wrong, held = make_root(tmp_path, "A", "B", "C")
    for path in empty.glob("*.fits"):
        path.unlink()
    (wrong / "reduction_config.yaml").write_text("target: {}\n")
    (held / LOCK_FILE).write_text("2024-05-01T00:00:00")
    for folder, kind, says in (
        (empty, NothingToDoError, "has no frames"),
        (wrong, BadInputError, "key photometry"),
        (held, NothingToDoError, "held by another tool"),
    ):
        with pytest.raises(kind, match=says):
            DatasetReduction(folder, hook(), "if_stale").run(lambda line: None)
    assert [(folder / LOCK_FILE).exists() for folder in (empty, wrong, held)] == [False, False, True]


def test_a_reduction_that_is_killed_gives_its_lock_back(tmp_path: Path) -> None:
    (folder,) = make_root(tmp_path, "A")
    reduction = DatasetReduction(folder, hook(), "never")
    threading.Timer(0.2, reduction.kill).start()
    with pytest.raises(UnavailableError, match="was killed"):
        reduction.run(lambda line: None)
    assert not (folder / LOCK_FILE).exists()
    hook("someone").acquire([lock_name(folder)])
    with pytest.raises(DatasetLockedError, match="held by someone"):
        DatasetReduction(folder, hook(), "if_stale").run(lambda line: None)


class Manager:
    """A manager of its own in a process, and what it says."""

    def __init__(self, path: Path) -> None:
        command = ["-m", "tololo.hooks.reduction_manager", str(path), "--policy", "if_stale", "--ttl", "3"]
        self.log = path.with_name(f"manager-{time.monotonic_ns()}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, *command], stderr=log)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.02)


def reducing(folder: Path) -> list[int]:
    """Processes that reduce a dataset."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if "tololo.engine.dataset_process" in command and f'"{folder}"' in command:
            found.append(int(process.name))
    return found


def test_two_managers_of_one_root_and_one_is_killed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    folders = make_root(root, "A", "B")
    path = manager(root, max_parallel=1)
    first, second = Manager(path), Manager(path)
    first.wait_for("stars recognised")
    (held,) = [folder for folder in folders if f"{folder}: Target" in first.said and reducing(folder)][-1:]
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    assert second.process.wait(120) == 0, second.said

    assert "broke the lock" in second.said
    assert not any(reducing(folder) for folder in folders)
    for folder in folders:
        # Whole, and by one of the two; only what the dead one had begun was taken up by the other.
        whole = [manager.said.count(f"{folder}: {FRAMES} frames, ") for manager in (first, second)]
        begun = [manager.said.count(f"{folder}: Target ") for manager in (first, second)]
        assert sum(begun) == (2 if folder == held else 1), (begun, first.said, second.said)
        assert sum(whole) >= 1
        table = pq.read_table(folder / "photometry.parquet").to_pandas()
        assert table["image_id"].nunique() == FRAMES
        assert not table.duplicated(["image_id", "star"]).any()
        left = [path.name for path in folder.iterdir() if "lock" in path.name or path.name.endswith(".part")]
        assert left == []
        assert len(next(folder.glob("*_lc.csv")).read_text().splitlines()) == FRAMES + 1

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tololo.engine import lock_file
from tololo.engine.lock import Lock
from tololo.engine.locks import LockKeeper, lock_for
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.locks import POLICIES, LockLostError, LockOwner, LockRecord, Verdict

from .lock_fight import fight, is_running
from .steps import at_call


def lock_of(folder: Path, run: str = "ours", ttl: float = 900.0) -> Lock:
    return lock_for(f"folder:{folder}", LockOwner("dag", run, facility="ctio"), ttl=ttl)


def held(folder: Path) -> LockRecord:
    record = lock_of(folder).holder()
    assert record is not None
    return record


def run_of(folder: Path) -> str | None:
    record = lock_of(folder).holder()
    return record.owner.run_id if record and record.owner else None


def test_what_the_file_says(tmp_path: Path) -> None:
    owner = LockOwner("nightly_decam", "manual__1", "lock", 2, "ctio")
    before = datetime.now(UTC).replace(microsecond=0)
    lock_for(f"folder:{tmp_path}", owner).acquire()
    first, rest = (tmp_path / "dataset.lock").read_text().split("\n", 1)
    since = datetime.strptime(first, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    assert before <= since <= datetime.now(UTC)
    content = json.loads(rest)
    assert content["owner"] == {
        "dag_id": "nightly_decam",
        "run_id": "manual__1",
        "task_id": "lock",
        "try_number": 2,
        "facility": "ctio",
    }
    assert (content["pid"], content["ttl"], content["kept"]) == (os.getpid(), 900.0, False)
    assert content["host"]
    assert content["token"]
    assert content["heartbeat"].startswith(first)
    lock_of(tmp_path).break_("it is over")
    assert list(tmp_path.iterdir()) == []


def test_a_renewed_file_is_the_same_file_and_as_long(tmp_path: Path) -> None:
    lock, path = lock_of(tmp_path), tmp_path / "dataset.lock"
    lock.acquire()
    before = path.stat()
    lock_of(tmp_path, "ours").acquire()
    lock.renew(kept=True)
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    long = LockOwner("dag", "ours", "task" * 500, facility="ctio")
    lock_for(f"folder:{tmp_path}", long).acquire()
    assert held(tmp_path).owner == long
    lock.renew()
    assert held(tmp_path).owner == lock.owner
    assert lock.release() is True


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (b"", "the file is empty"),
        (b"2026-11-20T12:00:00", "the file has only a time in it"),
        (b"2026-11-20T12:00:00\n", "the file has only a time in it"),
        (b"locked by hand, ask Maria\n", "the file has no time in it"),
        (b"\x00\xff" * 100_000, "the file has no time in it"),
        (b"2026-11-20T12:00:00\n{", "the file cannot be read to its end"),
        (b"2026-11-20T12:00:00\n[1, 2]", "the file cannot be read to its end"),
        (b'2026-11-20T12:00:00\n{"owner": null}', "the file cannot be read to its end"),
        (b"2026-99-20T12:00:00\n", "the file has no time in it"),
    ],
)
def test_the_lock_of_another_tool_is_respected(tmp_path: Path, content: bytes, note: str) -> None:
    path, lock = tmp_path / "dataset.lock", lock_of(tmp_path)
    path.write_bytes(content)
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    os.utime(path, (long_ago.timestamp(),) * 2)
    status = lock.status()
    assert status.verdict is Verdict.FOREIGN
    assert status.record is not None
    assert status.record.since == (
        datetime(2026, 11, 20, 12, tzinfo=UTC) if content.startswith(b"2026-11") else long_ago
    )
    assert f"held by another tool, owner unknown ({note}), since 2026-" in status.line
    for policy in POLICIES:
        assert lock.try_acquire(policy, lambda owner: "failed") is False  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="if not, remove the file"):
        lock.acquire()
    with pytest.raises(BadInputError, match="held by another tool"):
        lock.release()
    assert path.read_bytes() == content
    broken = lock.break_("nobody knows whose it is")
    assert broken is not None
    assert broken.note == note
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_tool_that_changed_is_put_back(tmp_path: Path) -> None:
    path, lock = tmp_path / "dataset.lock", lock_of(tmp_path)
    path.write_text("2026-11-20T12:00:00")
    seen = held(tmp_path)
    path.write_text("2026-11-20T12:00:01")
    assert lock.break_("old", seen) is None
    assert path.read_text() == "2026-11-20T12:00:01"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_cut_short_anywhere_is_held(tmp_path: Path) -> None:
    lock_of(tmp_path).acquire()
    path = tmp_path / "dataset.lock"
    content = path.read_bytes()
    end = len(content.rstrip())
    for length in (*range(0, end, 5), end - 1):
        path.write_bytes(content[:length])
        status = lock_of(tmp_path, "theirs").status()
        assert status.verdict is Verdict.FOREIGN, content[:length]
    path.write_bytes(content[:end])
    assert run_of(tmp_path) == "ours"


def test_other_things_of_its_name_are_locks(tmp_path: Path) -> None:
    path, lock = tmp_path / "dataset.lock", lock_of(tmp_path)
    path.symlink_to(tmp_path / "nowhere")
    assert "a symbolic link to nowhere" in lock.status().line
    assert lock.try_acquire("if_stale") is False
    assert lock.break_("it leads nowhere") is not None
    os.mkfifo(path)
    assert lock.try_acquire("if_stale") is False
    assert lock.break_("a pipe") is not None
    path.mkdir()
    assert "it is a folder" in lock.status().line
    with pytest.raises(BadInputError, match="The lock is a folder"):
        lock.break_("a folder")
    assert path.is_dir()


def test_a_copied_folder_is_locked_and_can_be_freed(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    lock_of(tmp_path / "red").acquire()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "dataset.lock").write_bytes((tmp_path / "red" / "dataset.lock").read_bytes())
    assert lock_of(copy, "theirs").try_acquire() is False
    with pytest.raises(LockLostError):
        lock_of(copy).renew()
    assert lock_of(copy, "theirs").break_("a copy") is not None
    assert list(copy.iterdir()) == []
    assert lock_of(tmp_path / "red").release() is True


def test_a_lock_removed_by_hand_is_lost(tmp_path: Path) -> None:
    lock = lock_of(tmp_path)
    lock.acquire()
    (tmp_path / "dataset.lock").unlink()
    with pytest.raises(LockLostError, match="now it is free"):
        lock.renew()
    lock_of(tmp_path, "theirs").acquire()
    with pytest.raises(LockLostError, match="now it is held by dag theirs"):
        lock.renew()
    with pytest.raises(LockLostError):
        lock.release()
    assert run_of(tmp_path) == "theirs"


Act = Callable[[Path, LockRecord], bool]


def _break(folder: Path, seen: LockRecord) -> bool:
    return lock_of(folder, "breaker").break_("stale", seen) is not None


def _release(folder: Path, seen: LockRecord) -> bool:
    try:
        return lock_of(folder, "dead").release()
    except (LockLostError, BadInputError):
        return False


def _renew(folder: Path, seen: LockRecord) -> bool:
    try:
        lock_of(folder, "dead").renew()
    except LockLostError:
        return False
    return True


def _again(folder: Path, seen: LockRecord) -> bool:
    return lock_of(folder, "dead").try_acquire()


@pytest.mark.parametrize("act", [_break, _release, _renew, _again])
def test_another_breaks_and_takes_it_between_any_two_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    """Whatever one process is in the midst of, the lock that another takes meanwhile is never touched."""
    monkeypatch.setattr(lock_file, "_PATIENCE", 0.05)
    number, met = 0, set()
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        lock_of(folder, "dead").acquire()
        seen = held(folder)
        third, did = lock_of(folder, "third"), {"broke": False, "took": False}

        def come_between() -> None:
            did["broke"] = third.break_("stale", seen) is not None  # noqa: B023
            did["took"] = third.try_acquire()  # noqa: B023

        with at_call(number, come_between) as count:
            went_well = act(folder, seen)
        if count.calls < number:
            assert went_well
            break
        met.add((did["broke"], did["took"]))
        if did["took"]:
            third.renew()
            assert run_of(folder) == "third"
            assert third.release() is True
            assert list(folder.iterdir()) == []
        else:
            assert went_well, f"at call {number} both were refused"
            assert run_of(folder) == (None if act in (_break, _release) else "dead")
    assert (True, True) in met
    assert (False, False) in met


def test_an_owner_renews_between_any_two_calls_of_a_breaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the owner keeps its lock, or it is told that it lost it."""
    monkeypatch.setattr(lock_file, "_PATIENCE", 0.05)
    number, met = 0, set()
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        owner = lock_of(folder)
        owner.acquire()
        # the clock of a file system ticks slowly; a lock that is judged stale is older than a tick
        record = held(folder)
        past = record.heartbeat - timedelta(seconds=1)
        path = folder / "dataset.lock"
        text = path.read_text().replace(past_of(record.heartbeat), past_of(past))
        path.write_text(text)
        seen, renewed = held(folder), []

        def renew() -> None:
            try:
                owner.renew()  # noqa: B023
            except LockLostError:
                renewed.append(False)  # noqa: B023
            else:
                renewed.append(True)  # noqa: B023

        with at_call(number, renew) as count:
            broke = lock_of(folder, "breaker").break_("stale", seen) is not None
        if count.calls < number:
            assert broke
            break
        met.add((renewed[0], broke))
        assert not (renewed[0] and broke)
        assert run_of(folder) == (None if broke else "ours")
    assert {(True, False), (False, True)} <= met


def past_of(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat("T", "milliseconds")


def _acquire(folder: Path) -> None:
    lock_of(folder, "killed").acquire()


def _acquire_and_release(folder: Path) -> None:
    lock = lock_of(folder, "killed")
    lock.acquire()
    lock.renew()
    lock.release()


def _break_another(folder: Path) -> None:
    lock_of(folder, "victim").acquire()
    lock_of(folder, "killed").break_("stale", held(folder))
    lock_of(folder, "killed").acquire()


@pytest.mark.parametrize("work", [_acquire, _acquire_and_release, _break_another])
def test_killed_at_any_call_it_leaves_nothing_that_cannot_be_freed(
    tmp_path: Path, work: Callable[[Path], None]
) -> None:
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            with at_call(number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                work(folder)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        after = lock_of(folder, "after")
        after.acquire("if_run_ended", lambda owner: "failed")
        after.renew()
        assert run_of(folder) == "after"
        assert after.release() is True
        assert not (folder / "dataset.lock").exists()
        if status == 0:
            break
    assert number > 10


def test_the_same_run_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_file, "_PATIENCE", 0.05)
    number, status = 0, 1
    while status:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        pid = os.fork()
        if pid == 0:
            with at_call(number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                _acquire_and_release(folder)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        again = lock_of(folder, "killed")
        again.acquire()
        again.renew()
        assert again.release() is True


@pytest.mark.parametrize(("call", "error"), [("link", FileExistsError), ("rename", FileNotFoundError)])
def test_a_request_whose_answer_was_lost_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: type[OSError]
) -> None:
    """NFS repeats it, and the server reports that it cannot be done, since it has been done."""
    real = getattr(os, call)

    def repeated(*args: Any) -> None:
        real(*args)
        raise error(errno.EEXIST if error is FileExistsError else errno.ENOENT, "repeated")

    lock = lock_of(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, repeated)
        lock.acquire()
        assert lock_of(tmp_path, "theirs").try_acquire() is False
        lock.renew()
        assert lock.release() is True
    assert list(tmp_path.iterdir()) == []


def test_the_clock_is_the_file_server_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose clock is two hours off sees the same heartbeat as any other."""
    real = lock_file._touched
    with monkeypatch.context() as patched:
        patched.setattr(lock_file, "_touched", lambda file: real(file) + timedelta(hours=2))
        lock = lock_of(tmp_path, ttl=60)
        lock.acquire()
        status = lock_of(tmp_path, "theirs").status()
        assert status.record is not None
        assert status.record.heartbeat > datetime.now(UTC) + timedelta(hours=1)
        assert status.verdict is Verdict.HELD
        assert "heartbeat 0 s ago" in status.line


def test_a_keeper_outlives_a_folder_that_goes_away_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, away = tmp_path / "mount", tmp_path / "away"
    folder.mkdir()
    lock = lock_of(folder, ttl=0.3)
    lock.acquire()
    with LockKeeper([lock]) as keeper:
        folder.rename(away)
        while "was not renewed and will be tried again" not in caplog.text:
            time.sleep(0.02)
        away.rename(folder)
        before = held(folder).heartbeat
        while held(folder).heartbeat == before:
            time.sleep(0.02)
        keeper.check()
    assert lock.release() is True


def test_folders_that_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        lock_of(tmp_path / "absent").acquire()
    with pytest.raises(BadInputError, match="does not exist"):
        lock_of(tmp_path / "absent").holder()  # a disk that is away frees no lock
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="no folder"):
        lock_of(tmp_path / "file").acquire()


def said_by_a_child(work: Callable[[], object]) -> str:
    """Do something in a process of its own, and return what it returned or raised."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            said = str(work())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.wait()
    return said


def test_a_folder_that_this_user_may_not_write(tmp_path: Path) -> None:
    free, locked = tmp_path / "free", tmp_path / "locked"
    free.mkdir()
    locked.mkdir()
    lock_of(locked, "theirs").acquire()
    for folder in (free, locked):
        folder.chmod(0o555)

    def as_an_ordinary_user(folder: Path, work: Callable[[Lock], object]) -> str:
        def inside() -> object:
            os.chdir(folder)
            if os.geteuid() == 0:
                os.setuid(65534)
            return work(lock_of(Path("/proc/self/cwd")))

        return said_by_a_child(inside)

    taken = as_an_ordinary_user(free, lambda lock: lock.acquire())
    assert taken.startswith("BadInputError: The lock cannot be written: Permission denied")
    assert "let this user write into the folder" in taken
    assert list(free.iterdir()) == []
    assert "cannot be written" in as_an_ordinary_user(locked, lambda lock: lock.break_("I want it"))
    assert "held by dag theirs on" in as_an_ordinary_user(locked, lambda lock: lock.status().line)
    for folder in (free, locked):
        folder.chmod(0o755)
    lock_of(locked, "theirs").renew()


def test_a_full_disk(tmp_path: Path) -> None:
    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    def take() -> None:
        fill()
        lock_of(tmp_path).acquire()

    said = said_by_a_child(take)
    assert said.startswith("UnavailableError: The lock cannot be used: File too large")
    assert "mend the disk" in said
    assert list(tmp_path.iterdir()) == []
    lock = lock_of(tmp_path)
    lock.acquire()

    def renew() -> None:
        fill()
        lock.renew()

    assert "UnavailableError" in said_by_a_child(renew)
    lock.renew()
    assert lock.release() is True


def test_what_the_killed_left_behind_is_swept_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".dataset.lock.now-12345678"
    left.touch()
    (tmp_path / ".dataset.locked").touch()
    lock = lock_of(tmp_path)
    lock.acquire()
    assert lock.release() is True
    assert left.exists()
    monkeypatch.setattr(lock_file, "_LEFTOVER", -1.0)
    lock.acquire()
    lock.renew()
    assert lock.release() is True
    assert [path.name for path in tmp_path.iterdir()] == [".dataset.locked"]


def _fight_slowly(folder: Path, processes: int, seconds: float) -> None:
    (folder / "red").mkdir()
    (folder / "witness").mkdir()
    seen = fight(
        lambda owner: lock_for(f"folder:{folder}/red", owner, ttl=0.2),
        folder / "witness",
        processes=processes,
        seconds=seconds,
        policy="if_run_ended",
        kills_per_second=10.0,
        jitter=0.003,
    )
    assert seen.violations == []
    assert seen.killed_holding
    last = lock_for(f"folder:{folder}/red", LockOwner("last", "1-1-1", facility="ring"))
    last.acquire("if_run_ended", is_running)
    assert last.release() is True


def test_processes_that_dawdle_between_all_calls(tmp_path: Path) -> None:
    _fight_slowly(tmp_path, 8, 5.0)


@pytest.mark.long
def test_many_processes_that_dawdle_between_all_calls(tmp_path: Path) -> None:
    _fight_slowly(tmp_path, 30, 60.0)

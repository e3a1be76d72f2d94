"""Processes that fight for one lock, and a witness who knows nothing of locks.

Whoever holds the lock makes the witness's file, which only one process can make, and writes when it began and
ended. A process that is killed while it holds the lock leaves both behind; whoever comes next must find it
dead.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tololo.engine.attempt import process_started
from tololo.engine.lock import Lock
from tololo.facility.locks import LockOwner, Policy

Make = Callable[[LockOwner], Lock]

ENOUGH, PATIENCE = 20, 300.0
_REAL = {name: getattr(os, name) for name in ("symlink", "readlink", "unlink", "write", "open", "kill")}
STEPS = ("open", "read", "pwrite", "fsync", "link", "rename", "unlink", "stat", "scandir", "utime")


@dataclass(frozen=True)
class Fight:
    """What the witness saw."""

    holdings: int
    killed_holding: int
    violations: list[str]


def fight(
    make: Make,
    folder: Path,
    *,
    processes: int,
    seconds: float,
    policy: Policy = "never",
    kills_per_second: float = 0.0,
    jitter: float = 0.0,
    pause: float = 0.01,
) -> Fight:
    """Let processes fight so long, and until the lock has been held a few times; then all are gone.

    ``jitter`` is the most that a process sleeps before each call to the file system, seconds, so that others
    come between any two of them; ``pause`` is the most that it waits before it tries again.
    """
    began = time.monotonic()

    def fork() -> int:
        return _fork(folder, jitter, lambda: _contend(make, folder, policy, pause))

    fighters = {fork() for _ in range(processes)}
    kills, killed = 0, set[int]()
    chance = random.Random(1)
    while (spent := time.monotonic() - began) < seconds or (_holdings(folder) < ENOUGH and spent < PATIENCE):
        time.sleep(0.005)
        while kills < kills_per_second * spent:
            # mostly the one that holds the lock: that is what must be survived
            victim = _holder(folder) if chance.random() < 0.7 else chance.choice(sorted(fighters))
            if victim in fighters:
                _REAL["kill"](victim, signal.SIGKILL)
                os.waitpid(victim, 0)
                fighters.remove(victim)
                killed.add(victim)
                fighters.add(fork())
            kills += 1
    (folder / "stop").touch()
    for fighter in fighters:
        _, status = os.waitpid(fighter, 0)
        if status:
            _say(folder / "violations", f"process {fighter} ended with status {status}")
    return _verdict(folder, killed)


def is_running(owner: LockOwner) -> str:
    """The state of a fighter's run, as Airflow would tell it."""
    return "running" if _lives(owner.run_id) else "failed"


def _lives(run: str) -> bool:
    pid, started, _ = run.split("-")
    return process_started(int(pid)) == started


def _holder(folder: Path) -> int:
    try:
        return int(_REAL["readlink"](folder / "witness").split("-")[0])
    except FileNotFoundError:
        return 0


def _fork(folder: Path, jitter: float, contend: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            random.seed(os.getpid())
            if jitter:
                _dawdle(jitter)
            contend()
            code = 0
        except BaseException:
            _say(folder / "violations", traceback.format_exc().replace("\n", " | "))
        finally:
            os._exit(code)
    return pid


def _contend(make: Make, folder: Path, policy: Policy, pause: float) -> None:
    this, count = f"{os.getpid()}-{process_started(os.getpid())}", 0
    while not os.path.lexists(folder / "stop"):
        count += 1
        run = f"{this}-{count}"
        lock = make(LockOwner("fight", run, facility="ring"))
        if not lock.try_acquire(policy, is_running):
            time.sleep(random.uniform(0, pause))
            continue
        _enter(folder, run)
        for _ in range(random.choice((0, 0, 1, 3))):
            time.sleep(random.uniform(0, 0.004))
            lock.renew()
        _say(folder / "log", f"{time.monotonic_ns()} end {run}")
        _REAL["unlink"](folder / "witness")
        lock.release()


def _enter(folder: Path, run: str) -> None:
    while True:
        try:
            _REAL["symlink"](run, folder / "witness")
        except FileExistsError:
            other = _REAL["readlink"](folder / "witness")
            if _lives(other):
                _say(folder / "violations", f"{run} holds the lock, and so does {other}")
                os._exit(0)
            _REAL["unlink"](folder / "witness")  # killed while it held the lock
        else:
            _say(folder / "log", f"{time.monotonic_ns()} begin {run}")
            return


def _dawdle(longest: float) -> None:
    for name in STEPS:
        setattr(os, name, _late(getattr(os, name), longest))


def _late(real: Callable[..., object], longest: float) -> Callable[..., object]:
    def call(*args: object, **options: object) -> object:
        time.sleep(random.uniform(0, longest) if random.random() < 0.5 else 0)
        return real(*args, **options)

    return call


def _say(path: Path, line: str) -> None:
    file = _REAL["open"](path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _REAL["write"](file, f"{line}\n".encode())
    os.close(file)


def _holdings(folder: Path) -> int:
    log = folder / "log"
    return log.read_text().count(" end ") if log.exists() else 0


def _verdict(folder: Path, killed: set[int]) -> Fight:
    noted = folder / "violations"
    violations = noted.read_text().splitlines() if noted.exists() else []
    events = [line.split() for line in (folder / "log").read_text().splitlines()]
    kinds = Counter(event[1] for event in events)
    inside, since = "", 0
    for when, what, run in events:
        if int(when) < since:
            violations.append(f"{run}: {what} at {when} is noted after {since}")
        if what == "begin":
            if inside and int(inside.partition("-")[0]) not in killed:
                violations.append(f"{run} began while {inside} held the lock")
            inside = run
        elif run != inside:
            violations.append(f"{run} ended, but {inside} held the lock")
        else:
            inside = ""
        since = int(when)
    return Fight(kinds["begin"], kinds["begin"] - kinds["end"], violations)

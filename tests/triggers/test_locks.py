from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sensors.waiting import only_event, rebuilt
from tololo.engine.lock import LockStatus
from tololo.engine.locks import lock_for
from tololo.facility.locks import LockOwner
from tololo.hooks.locks import LockHook
from tololo.triggers.locks import LockTrigger
from triggers.loop_lag import control, watched

OWNER = LockOwner("difference_imaging", "manual__1", "wait")
BLOCKED = 0.2
SLOW = 0.5


def trigger(folder: Path, seconds: float, **changes: Any) -> LockTrigger:
    own = {"policy": "never", "fail_when_stale": False, "owner": asdict(OWNER), "poke_interval": 0.1}
    return LockTrigger(**(own | {"locks": [str(folder)], "deadline": time.time() + seconds} | changes))


def test_a_restart_of_the_triggerer_keeps_what_it_waits_for(tmp_path: Path) -> None:
    before = trigger(tmp_path, 9.0, policy="if_stale", missing=["this"])
    path, arguments = before.serialize()
    assert path == "tololo.triggers.locks.LockTrigger"
    assert (arguments["locks"], arguments["policy"]) == ([str(tmp_path)], "if_stale")
    after = rebuilt(before)
    assert isinstance(after, LockTrigger)
    assert (after.owner, after.missing) == (asdict(OWNER), ["this"])


def test_it_ends_when_the_lock_is_free_or_the_time_is_up(tmp_path: Path) -> None:
    free = asyncio.run(only_event(trigger(tmp_path, 9.0)))
    assert free == {"outcome": "ready", "found": 1, "message": ""}
    lock_for(f"folder:{tmp_path}", LockOwner("other", "manual__2")).acquire()
    held = asyncio.run(only_event(trigger(tmp_path, 0.3)))
    assert held["outcome"] == "timeout"
    assert "held by other manual__2" in held["message"]


def test_a_slow_disk_does_not_hold_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = LockHook.status

    def slow(hook: LockHook, name: str) -> LockStatus:
        time.sleep(SLOW)
        return quick(hook, name)

    async def together() -> list[float]:
        async with watched() as lags:
            await asyncio.gather(*(only_event(trigger(tmp_path, 60.0)) for _ in range(4)))
        return lags

    monkeypatch.setattr(LockHook, "status", slow)
    with control() as greatest:
        lags = asyncio.run(together())
    assert max(lags) < BLOCKED + greatest[0]

"""How late an event loop is for a tick of 20 ms: in this loop, and in a process with nothing else to do.

``python loop_lag.py`` prints the greatest lag in seconds when its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from subprocess import PIPE, Popen

TICK = 0.02


async def watch(lags: list[float]) -> None:
    """Note how late each tick is, until cancelled."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(TICK)
        lags.append(time.monotonic() - began - TICK)


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Watch this loop; give the list of lags."""
    lags: list[float] = []
    task = asyncio.create_task(watch(lags))
    try:
        yield lags
    finally:
        task.cancel()


@contextlib.contextmanager
def control() -> Iterator[list[float]]:
    """Watch a loop of another process meanwhile; the list holds its greatest lag afterwards."""
    greatest: list[float] = []
    with Popen([sys.executable, __file__], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        yield greatest
        output, _ = process.communicate()
        greatest.append(float(output))


async def _control() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, lambda: None if os.read(0, 1) else ended.set())
    async with watched() as lags:
        sys.stdout.write("watching\n")
        sys.stdout.flush()
        await ended.wait()
    sys.stdout.write(str(max(lags, default=0.0)))


if __name__ == "__main__":
    asyncio.run(_control())

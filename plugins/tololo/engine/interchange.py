"""Parsl's interchange, which ends with the driver that started it.

Parsl leaves it behind when the driver is killed: it would go on handing queued jobs to the blocks, and the
blocks would then wait on it until their time is over. Without it they end by themselves.
"""

from __future__ import annotations

import runpy
import signal

from tololo.engine.local.worker import tell_when_parent_dies

if __name__ == "__main__":
    tell_when_parent_dies(signal.SIGKILL)
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__", alter_sys=True)

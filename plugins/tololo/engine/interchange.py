"""Parsl's interchange, which ends with the driver that started it.

Parsl leaves it behind when the driver is killed: it would go on handing queued jobs to the blocks, and the
blocks would then wait on it until their time is over. Without it they end by themselves.
"""

from __future__ import annotations

import ctypes
import runpy
import signal

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__", alter_sys=True)

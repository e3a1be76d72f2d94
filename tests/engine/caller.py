"""What stands for the operator's task in the kill campaign: ``caller.py FOLDER REQUEST`` follows a run.

It is started again whenever it dies, as Airflow does with a task.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tololo.engine.attempt import ENDED
from tololo.facility.run import RunRequest
from tololo.hooks.bps import BpsHook


def follow(folder: Path, request: RunRequest) -> None:
    """Start or take up the run, and look after it until it has ended; the task remembers which it is."""
    hook = BpsHook(folder)
    latest = hook.latest()
    if latest is not None and latest.state.phase in ENDED:
        return
    attempt = hook.attach_or_start(request)
    while True:
        alive = attempt.is_alive()
        if attempt.state.phase in ENDED:
            return
        if not alive:
            attempt = hook.attach_or_start(request)
        time.sleep(0.05)


if __name__ == "__main__":
    follow(Path(sys.argv[1]), RunRequest.read(Path(sys.argv[2])))

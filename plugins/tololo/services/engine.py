"""The engine server as a service of the facility, and the runs that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping

from tololo.engine.attempt import LIVE, Attempt
from tololo.engine.client import COLD_START, SERVER, is_up, job_environment, stop_server
from tololo.engine.local.runner import pid_of
from tololo.services.home import Home
from tololo.services.process import Daemon


def start(home: Home, environment: Mapping[str, str]) -> None:
    """Start the server unless it runs, and wait until it answers.

    Parameters
    ----------
    home : `Home`
        The facility.
    environment : mapping
        What the facility's tasks find in their environment.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        It does not start; the message ends with the last lines of its log.
    """
    daemon = _daemon(home)
    if not daemon.running():
        stop_server(home.root)  # one that was started on demand would go when it is idle
    daemon.start([*SERVER, "--stay"], {**job_environment(), **environment}, home.root)
    daemon.wait(lambda: is_up(home.root), COLD_START)


def stop(home: Home) -> bool:
    """Stop the server, and halt the runs of this machine; tell whether anything ran.

    A run that is halted so is gone on with when the facility is up again and its task asks for it.
    """
    halted = [attempt for attempt in _live_attempts(home) if _halt(attempt)]
    return _daemon(home).stop() or bool(halted)


def running(home: Home) -> bool:
    """Tell whether the server runs."""
    return _daemon(home).running()


def _daemon(home: Home) -> Daemon:
    return Daemon(home, "engine")


def _live_attempts(home: Home) -> list[Attempt]:
    attempts = [Attempt(path.parent) for path in (home.root / "runs").glob("*/*/*/*/state.json")]
    return [attempt for attempt in attempts if attempt.state.phase in LIVE]


def _halt(attempt: Attempt) -> bool:
    """Kill the driver first, since it would start the runner of the jobs again."""
    ran = attempt.is_alive()
    if ran:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(attempt.state.pid, signal.SIGKILL)
    if pid := pid_of(attempt.submit_path):
        os.kill(pid, signal.SIGKILL)
    return ran or bool(pid)

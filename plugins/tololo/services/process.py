"""A small supervisor: start a server detached, know it again, wait for it, stop it.

A server is known by its process id together with the moment that process started, so that a process id
which the system has given to somebody else since is never mistaken for the server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tololo.facility.errors import UnavailableError
from tololo.services.home import Home, write_private

POLL_SECONDS = 0.1
KILL_SECONDS = 10.0
ORPHAN_SECONDS = 2.0


@dataclass(frozen=True)
class ProcessState:
    """What the system says about one process: its session, and the moment it started."""

    session: int
    started: str


def process_state(pid: int) -> ProcessState | None:
    """Look a process up in ``/proc``; `None` if it is gone or only waits to be collected (a zombie).

    The moment of start is the boot's id with the clock ticks since that boot: unlike a wall-clock time it
    does not move when the clock is set.
    """
    try:
        # the command's name in parentheses may hold spaces and parentheses itself
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ProcessState(session=int(fields[3]), started=f"{boot}:{fields[19]}")


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


@dataclass(frozen=True)
class Daemon:
    """One server of the facility, by name.

    Parameters
    ----------
    home : `Home`
        Where its log and its record are.
    name : `str`
        Names ``logs/<name>.log`` and ``run/<name>.json``.
    """

    home: Home
    name: str

    @property
    def log(self) -> Path:
        """Output of the server, appended to at each start."""
        return self.home.logs / f"{self.name}.log"

    @property
    def record_file(self) -> Path:
        """Process id, moment of start and port of the server started last."""
        return self.home.run / f"{self.name}.json"

    def start(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        port: int = 0,
    ) -> None:
        """Start the server in a session of its own, or leave it alone if it runs.

        Parameters
        ----------
        command : sequence of `str`
            Program and arguments. No secrets: every user of the machine can read a command line.
        environment : mapping, optional
            Its whole environment; by default that of this process.
        folder : `pathlib.Path`, optional
            Its working directory.
        port : `int`, optional
            Kept in the record, for `port`.

        Raises
        ------
        tololo.facility.errors.UnavailableError
            The program cannot be executed.
        """
        if self.running():
            return
        self.stop(grace=0)  # members that outlived a leader
        with open(self.log, "ab") as log:
            try:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd=folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise UnavailableError(
                    f"{self.name} cannot be started: {error.strerror}", str(command[0]), "run `bin/install`"
                ) from error
        self.adopt(process.pid, port)

    def adopt(self, pid: int, port: int = 0) -> None:
        """Take a running process for this server from now on."""
        state = process_state(pid)
        record = {"pid": pid, "started": state.started if state else "", "port": port}
        write_private(self.record_file, json.dumps(record) + "\n")

    def pid(self) -> int | None:
        """Return the process id of the running server, or `None`."""
        pid, started, _ = self._record()
        state = process_state(pid) if pid else None
        return pid if state and state.started == started else None

    def running(self) -> bool:
        """Tell whether the server's first process is alive."""
        return self.pid() is not None

    def port(self) -> int:
        """Return the port that the running server was started with; 0 if it does not run or has none."""
        return self._record()[2] if self.running() else 0

    def stop(
        self, first_signal: signal.Signals = signal.SIGTERM, grace: float = 20.0, leader_only: bool = False
    ) -> bool:
        """Stop the server with everything in its session.

        Parameters
        ----------
        first_signal : `signal.Signals`, optional
            The polite one; SIGKILL follows.
        grace : `float`, optional
            Seconds between the two.
        leader_only : `bool`, optional
            Send the polite signal to the first process only, for a server that ends its children itself.

        Returns
        -------
        stopped : `bool`
            Whether there was anything to stop.

        Raises
        ------
        tololo.facility.errors.UnavailableError
            Something survives SIGKILL, as a process stuck in a dead file system does.
        """
        members = self._members()
        leader = self.pid()
        if leader is None:
            grace = min(grace, ORPHAN_SECONDS)  # what a dead server left does not end itself in good order
        _signal([leader] if leader_only and leader else members, first_signal)
        deadline = time.monotonic() + grace
        remaining = members
        while remaining and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            remaining = self._members()
        deadline = time.monotonic() + KILL_SECONDS
        while remaining:
            if time.monotonic() > deadline:
                raise UnavailableError(f"{self.name} survives SIGKILL", f"processes {remaining}")
            _signal(remaining, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
            remaining = self._members()
        self.record_file.unlink(missing_ok=True)
        return bool(members)

    def wait(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait until the server answers.

        Parameters
        ----------
        ready : callable
            Asks the server; `False` while it does not answer yet.
        timeout : `float`
            Seconds to wait.

        Raises
        ------
        tololo.facility.errors.UnavailableError
            It ended, or did not answer in time; the message ends with the last lines of its log.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running():
                raise UnavailableError(f"{self.name} ended while starting", str(self.log), tail(self.log))
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{self.name} does not answer after {timeout:.0f} s", str(self.log), tail(self.log)
                )
            time.sleep(POLL_SECONDS)

    def _record(self) -> tuple[int, str, int]:
        try:
            record = json.loads(self.record_file.read_text())
            return int(record["pid"]), str(record["started"]), int(record["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, "", 0

    def _members(self) -> list[int]:
        """Every process of the server's session, the leader first, also when the leader is gone."""
        pid, started, _ = self._record()
        if not pid:
            return []
        members = [p for p in _all_pids() if (state := process_state(p)) and state.session == pid]
        leader = process_state(pid)
        if leader and leader.started == started:
            return [pid, *(p for p in members if p != pid)]
        # The leader is gone. The system keeps its number from others as long as its session has members,
        # so one member that still writes to our log proves that all of them are ours.
        return members if any(self._writes_our_log(p) for p in members) else []

    def _writes_our_log(self, pid: int) -> bool:
        for descriptor in (1, 2):
            try:
                if os.path.samefile(f"/proc/{pid}/fd/{descriptor}", self.log):
                    return True
            except OSError:
                continue
        return False


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def run_once(
    home: Home,
    name: str,
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout: float = 300.0,
) -> None:
    """Run a command to its end, its output appended to ``logs/<name>.log``.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        It failed or took longer than `timeout` seconds; the message ends with the last lines of its log.
    """
    log = home.logs / f"{name}.log"
    program = Path(command[0]).name
    with open(log, "ab") as output:
        try:
            code = subprocess.run(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=folder,
                timeout=timeout,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(
                f"{program} did not end within {timeout:.0f} s", str(log), tail(log)
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"{program} cannot be started: {error.strerror}", str(command[0]), "run `bin/install`"
            ) from error
    if code:
        raise UnavailableError(f"{program} failed with status {code}", str(log), tail(log))


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log, introduced, for the end of an error's message."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 16384))
            text = file.read().decode(errors="replace")
    except OSError:
        return "the log is not there"
    return "read the log, which ends with\n" + "\n".join(text.rstrip().splitlines()[-lines:])

"""How other processes talk to the engine server: one line of JSON there, one line back.

Nothing here imports the stack: the triggerer and the tasks of Airflow use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tololo.facility.errors import UnavailableError, retold

SERVER = [sys.executable, "-m", "tololo.engine.server"]
"""The command line of the server."""

COLD_START = 120.0
"""Seconds that a server may take to import the stack on a busy machine."""

LONGEST_LINE = 2**26
"""Bytes of the longest answer; asyncio's own limit is 64 KiB, less than a plot."""


def engine_folder(home: Path | None = None) -> Path:
    """Return the folder of this machine's engine server below a facility's home."""
    return (home or _home()) / "engine" / socket.gethostname()


def ask(question: str, timeout: float = 60.0, **arguments: Any) -> Any:
    """Ask the process that keeps Butlers open; start the engine server if there is none.

    Parameters
    ----------
    question : `str`
        A name in `tololo.engine.questions.QUESTIONS`.
    timeout : `float`, optional
        Seconds to wait for the answer.
    **arguments
        Arguments of the question; JSON.

    Returns
    -------
    answer
        What the question returns; JSON.

    Raises
    ------
    TololoError
        The error that the question raised, in its own class.
    UnavailableError
        The server does not answer.
    """
    return call({"do": "ask", "question": question, "arguments": arguments}, timeout)


def call(message: dict[str, Any], timeout: float = 60.0) -> Any:
    """Send any message and return the answer; see `ask`."""
    deadline = time.monotonic() + timeout + COLD_START
    while True:
        ensure_server()
        try:
            reply = _exchange(message, timeout)
        except (ConnectionError, FileNotFoundError, BlockingIOError):
            reply = None
        if reply is not None and not reply.get("again"):
            return _unpack(reply)
        # The server was about to go, or to renew itself because the code has changed.
        if time.monotonic() > deadline:
            raise _silent("it closes the connection without an answer")
        time.sleep(0.05)


async def ask_async(question: str, timeout: float = 60.0, **arguments: Any) -> Any:
    """Ask as `ask`, and never hold the event loop."""
    message = {"do": "ask", "question": question, "arguments": arguments}
    deadline = time.monotonic() + timeout + COLD_START
    while True:
        with contextlib.suppress(ConnectionError, FileNotFoundError):
            reply = await _exchange_async(message, timeout)
            if not reply.get("again"):
                return _unpack(reply)
        if time.monotonic() > deadline:
            raise _silent("it closes the connection without an answer")
        await asyncio.to_thread(ensure_server)
        await asyncio.sleep(0.05)


def is_up(home: Path | None = None) -> bool:
    """Tell whether a server listens."""
    try:
        with _connected(1.0, home):
            return True
    except OSError:
        return False


def stop_server(home: Path | None = None) -> None:
    """End the server and wait until it is gone; the drivers that it has forked live on."""
    with contextlib.suppress(OSError):
        _exchange({"do": "stop"}, 10.0, home)
    deadline = time.monotonic() + 10.0
    while is_up(home) and time.monotonic() < deadline:
        time.sleep(0.02)


def ensure_server() -> None:
    """Start a server unless one listens, and wait until it does.

    Raises
    ------
    UnavailableError
        It does not come up; the message has the end of its log.
    """
    if is_up():
        return
    folder = engine_folder()
    log = folder / "server.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        output = open(log, "ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UnavailableError(
            f"The engine server has no place: {error.strerror}", str(folder), "set TOLOLO_HOME"
        ) from error
    with output:
        # Of several that start at once all but one end by themselves.
        process = subprocess.Popen(
            SERVER,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=job_environment(),
        )
    deadline = time.monotonic() + COLD_START
    while not is_up():
        code = process.poll()
        if code or time.monotonic() > deadline:
            tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
            process.kill()
            raise UnavailableError(f"The engine server does not start: {tail}", str(log), "read its log")
        time.sleep(0.02)


def job_environment() -> dict[str, str]:
    """Return the environment of jobs: one thread each, this installation's commands first in the path."""
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # Fresh pages for each large array cost a fifth of the time; keep what was freed.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
    # Absolute, since these processes work in folders of their own.
    return os.environ | threads | malloc | {"PATH": path, "TOLOLO_HOME": str(_home())}


def _home() -> Path:
    return Path(os.environ.get("TOLOLO_HOME") or "var").resolve()


@contextlib.contextmanager
def _address(home: Path | None = None) -> Iterator[str]:
    """Give the socket's path in a form that is short enough for any folder."""
    folder = os.open(engine_folder(home), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/server.sock"
    finally:
        os.close(folder)


@contextlib.contextmanager
def _connected(timeout: float, home: Path | None = None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        with _address(home) as address:
            connection.connect(address)
        yield connection


def _exchange(message: dict[str, Any], timeout: float, home: Path | None = None) -> dict[str, Any]:
    with _connected(timeout, home) as connection:
        connection.sendall(json.dumps(message).encode() + b"\n")
        try:
            with connection.makefile("rb") as answer:
                line = answer.readline()
        except TimeoutError:
            raise _silent(f"no answer within {timeout:.0f} s") from None
    if not line:
        raise ConnectionResetError
    return dict(json.loads(line))


async def _exchange_async(message: dict[str, Any], timeout: float) -> dict[str, Any]:
    with _address() as address:
        reader, writer = await asyncio.open_unix_connection(address, limit=LONGEST_LINE)
    try:
        writer.write(json.dumps(message).encode() + b"\n")
        try:
            line = await asyncio.wait_for(reader.readline(), timeout)
        except TimeoutError:
            raise _silent(f"no answer within {timeout:.0f} s") from None
    finally:
        writer.close()
    if not line:
        raise ConnectionResetError
    return dict(json.loads(line))


def _unpack(reply: dict[str, Any]) -> Any:
    if error := reply.get("error"):
        raise retold(error)
    return reply.get("answer")


def _silent(why: str) -> UnavailableError:
    return UnavailableError(
        f"The engine server does not answer: {why}", str(engine_folder() / "server.log"), "read its log"
    )

"""The engine server: one warm process that has imported the stack once, and forks whoever needs it.

``python -m tololo.engine.server [--stay]``. It opens no Butler and starts no thread itself, so that what it
forks begins clean: the detached drivers of attempts, and one process that answers questions of sensors.
A driver lives on when the server goes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tololo.engine import warm
from tololo.engine.client import SERVER, engine_folder, is_up
from tololo.facility.errors import TololoError, UnavailableError

IDLE = 600.0
"""Seconds without a request after which a server that was started on demand goes."""

HANGING = 120.0
"""Seconds after which a question that is not answered ends the process that holds all others up with it."""

_log = logging.getLogger("tololo.server")


class Server:
    """The server's loop.

    Parameters
    ----------
    folder : `pathlib.Path`
        Holds ``server.sock``, ``server.log`` and ``server.lock``.
    lock : `int`
        File descriptor of the lock that makes it the only one.
    stay : `bool`
        Do not go when idle.
    """

    def __init__(self, folder: Path, lock: int, stay: bool) -> None:
        self._folder = folder
        self._lock = lock
        self._stay = stay
        self._asked = time.monotonic()
        self._running = True
        self._questions: tuple[int, socket.socket] | None = None

    def listen(self) -> socket.socket:
        """Make the socket."""
        os.chdir(self._folder)  # a socket's path must be short
        Path("server.sock").unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("server.sock")
        os.chmod("server.sock", 0o600)
        listener.listen(4096)
        return listener

    def serve(self, listener: socket.socket) -> None:
        """Answer until told to stop, idle for long, or the folder is gone."""
        path = self._folder / "server.sock"
        with listener:
            listener.set_inheritable(False)
            inode = path.stat().st_ino
            signal.signal(signal.SIGTERM, self._stop)
            _log.info("ready, pid %d", os.getpid())
            steps = warm.steps()
            warming = True
            while self._running:
                ready, _, _ = select.select([listener], [], [], 0.0 if warming else 1.0)
                self._reap()
                if ready:
                    self._asked = time.monotonic()
                    connection, _ = listener.accept()
                    self._answer(connection, listener)
                elif self._is_over(path, inode):
                    break
                warming = warming and _take(steps)
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()
        if self._questions:
            os.kill(self._questions[0], signal.SIGKILL)

    def _stop(self, *_: object) -> None:
        self._running = False

    def _is_over(self, path: Path, inode: int) -> bool:
        try:
            lost = path.stat().st_ino != inode
        except OSError:
            lost = True
        return lost or (not self._stay and time.monotonic() - self._asked > IDLE)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                if self._questions and pid == self._questions[0]:
                    self._questions[1].close()
                    self._questions = None

    def _answer(self, connection: socket.socket, listener: socket.socket) -> None:
        with connection:
            connection.settimeout(5.0)
            try:
                with connection.makefile("rb") as lines:
                    line = lines.readline()
                if not line:
                    return  # somebody looked whether there is a server
                message = json.loads(line)
                if warm.has_changed() and message["do"] != "stop":
                    _log.info("the code has changed: starting anew")
                    self._reply(connection, {"again": True})
                    self._renew(listener)
                self._reply(connection, {"answer": self._do(message, connection, listener, line)})
            except _AnsweredElsewhere:
                return
            except TololoError as error:
                with contextlib.suppress(OSError):
                    self._reply(connection, {"error": error.told()})
            except Exception:  # whatever somebody sends, the others' server goes on
                _log.exception("a request failed")

    def _do(
        self, message: dict[str, Any], connection: socket.socket, listener: socket.socket, line: bytes
    ) -> Any:
        match message["do"]:
            case "drive":
                return self._fork_driver(message, connection, listener)
            case "ask":
                self._hand_over(line, connection, listener)
                raise _AnsweredElsewhere
            case "stop":
                self._running = False
                return "stopping"
            case "ping":
                return {"pid": os.getpid()}
            case other:
                raise ValueError(f"unknown request {other!r}")

    @staticmethod
    def _reply(connection: socket.socket, reply: dict[str, Any]) -> None:
        connection.sendall(json.dumps(reply).encode() + b"\n")

    def _fork_driver(
        self, message: dict[str, Any], connection: socket.socket, listener: socket.socket
    ) -> int:
        gc.freeze()  # what is there stays; a child need not look through it
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            self._leave(connection, listener)
            warm.become(message["log"], message["environment"], message["folder"])
            from tololo.engine.attempt import Attempt
            from tololo.engine.driver import drive

            code = 0 if drive(Attempt(Path(message["folder"]))).phase != "error" else 1
        except BaseException:
            traceback.print_exc()
        finally:
            warm.leave(code)
        return 0

    def _hand_over(self, line: bytes, connection: socket.socket, listener: socket.socket) -> None:
        if self._questions is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    ours.close()
                    self._leave(connection, listener)
                    warm.detach(str(self._folder / "questions.log"), "questions")
                    code = _answer_questions(theirs)
                except BaseException:
                    traceback.print_exc()
                finally:
                    warm.leave(code)
            theirs.close()
            self._questions = pid, ours
        try:
            socket.send_fds(self._questions[1], [line], [connection.fileno()], socket.MSG_DONTWAIT)
        except BlockingIOError:
            log = str(self._folder / "questions.log")
            raise UnavailableError(
                "Too many questions wait for an answer, as if one hung", log, "try again"
            ) from None
        except OSError:
            # It has just died; whoever asked sees the closed connection and asks again.
            _log.warning("the process that answers questions is gone")

    def _leave(self, connection: socket.socket, listener: socket.socket) -> None:
        """Let go, in a forked process, of what is the server's."""
        connection.close()
        listener.close()
        if self._questions:
            self._questions[1].close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _renew(self, listener: socket.socket) -> None:
        """Become a new server; who asks meanwhile waits at the same socket."""
        if self._questions:
            os.kill(self._questions[0], signal.SIGKILL)
        kept = (self._lock, listener.fileno())
        for number in kept:
            os.set_inheritable(number, True)
        stay = ["--stay"] if self._stay else []
        os.execv(sys.executable, [*SERVER, *stay, "--inherit", *map(str, kept)])


def _take(steps: Iterator[Callable[[], Any]]) -> bool:
    """Take one step of warming up; false when there is no more. One that fails concerns whoever needs it."""
    try:
        if (step := next(steps, None)) is None:
            return False
        step()
    except Exception:
        _log.exception("this is not held warm")
    return True


class _AnsweredElsewhere(Exception):
    """The connection was handed to the process that answers questions."""


def _answer_questions(inbox: socket.socket) -> int:
    """Answer questions one after another until the server is gone."""
    from tololo.engine.questions import QUESTIONS

    while True:
        line, files, _, _ = socket.recv_fds(inbox, 1 << 20, 1)
        if not line:
            return 0
        with socket.socket(fileno=files[0]) as connection:
            reply: dict[str, Any]
            message = json.loads(line)
            if _has_hung_up(connection):
                continue
            signal.setitimer(signal.ITIMER_REAL, HANGING)
            try:
                reply = {"answer": QUESTIONS[message["question"]](**message["arguments"])}
            except TololoError as error:
                reply = {"error": error.told()}
            except Exception as error:
                traceback.print_exc()
                what = f"The question {message['question']!r} failed: {type(error).__name__}: {error}"
                log = str(engine_folder() / "questions.log")
                reply = {"error": TololoError(what, log, "read it").told()}
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            with contextlib.suppress(OSError):
                connection.settimeout(5.0)
                connection.sendall(json.dumps(reply).encode() + b"\n")


def _has_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _is_ours(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> int:
    """Become the one server of this home on this machine; end quietly if there is one already."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stay", action="store_true", help="do not go when nobody asks anything")
    parser.add_argument("--inherit", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    folder = engine_folder()
    folder.mkdir(parents=True, exist_ok=True)
    inherited = arguments.inherit
    # The kernel releases the lock however the process ends; a forked child gives its copy back.
    lock = inherited[0] if inherited else os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o644)
    while not _is_ours(lock):
        if is_up():
            return 0
        time.sleep(0.1)  # the other one starts, or goes
    os.set_inheritable(lock, False)
    warm.KEPT_FROM_CHILDREN.append(lock)
    warm.write_to(str(folder / "server.log"))
    warm.up()
    gc.collect()
    server = Server(folder, lock, arguments.stay)
    server.serve(socket.socket(fileno=inherited[1]) if inherited else server.listen())
    return 0


if __name__ == "__main__":
    sys.exit(main())

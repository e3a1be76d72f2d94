"""A process of the pool: forked from one that holds the stack, it runs one job after another."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from tololo.engine import warm

_PR_SET_PDEATHSIG = 1
_SHELL = set("|&;<>()$`*?[]#~\n")
_GUARD = 'trap "kill -KILL 0" USR1; /bin/bash -c "$1" & wait $!'
"""A shell that takes all of a worker's group along when it hears of the worker's death."""


def tell_when_parent_dies(sign: signal.Signals) -> None:
    """Ask the kernel for a signal to this process when its parent dies, so that no job goes on unwatched."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sign)


def work(inbox: socket.socket, parent: int) -> None:
    """Run jobs until the runner closes the connection.

    Each message is a line of JSON with ``commands``, ``log`` and ``environment``; the answer has ``exit``,
    ``memory`` if a `MemoryError` made it fail, and ``said`` if the log cannot be written.
    """
    tell_when_parent_dies(signal.SIGKILL)
    if os.getppid() != parent:
        return
    os.setpgrp()
    setproctitle("tololo worker")
    # Where memory is short the kernel is to kill a job, not the database or the scheduler.
    Path("/proc/self/oom_score_adj").write_text("800")
    inherited = dict(os.environ)
    with inbox.makefile("rwb") as lines:
        for line in lines:
            job = json.loads(line)
            os.environ.clear()
            os.environ.update(inherited | job["environment"])
            try:
                answer = perform(job["commands"], Path(job["log"]))
            except OSError as error:
                answer = {"exit": 1, "said": f"{type(error).__name__}: {error}"}
            lines.write(json.dumps(answer).encode() + b"\n")
            lines.flush()


def perform(commands: list[str], log: Path) -> dict[str, Any]:
    """Run command lines, until one fails, with their output in a file.

    The commands of the middleware are called in this process, which has imported what they need; anything
    else is given to a shell.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = log.stat().st_size if log.exists() else 0
    warm.write_to(str(log))
    code = 0
    for command in commands:
        print(f"$ {command}", flush=True)  # noqa: T201 - this is the job's log
        if (code := _run(command)) != 0:
            break
    sys.stdout.flush()
    sys.stderr.flush()
    answer: dict[str, Any] = {"exit": code}
    if code != 0 and _ran_out_of_memory(log, start):
        answer["memory"] = True
    return answer


def _run(command: str) -> int:
    words = [] if _SHELL & set(command) else shlex.split(command)
    name = os.path.basename(words[0]) if words else ""
    if name in ("pipetask", "butler"):
        return _call(name, words[1:])
    guarded = ["/bin/bash", "-c", _GUARD, "bash", command]
    told = functools.partial(tell_when_parent_dies, signal.SIGUSR1)
    return subprocess.run(guarded, check=False, stdin=subprocess.DEVNULL, preexec_fn=told).returncode


def _call(name: str, arguments: list[str]) -> int:
    import click

    if name == "pipetask":
        from lsst.ctrl.mpexec.cli.pipetask import cli
    else:
        from lsst.daf.butler.cli.butler import cli
    try:
        # An exit with a code is returned so; any other return value means nothing to a shell either.
        code = cli.main(arguments, prog_name=name, standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except click.ClickException as error:
        error.show()
        return int(error.exit_code)
    except BaseException:
        traceback.print_exc()
        return 1
    return code if isinstance(code, int) else 0


def _ran_out_of_memory(log: Path, start: int) -> bool:
    """Look into what the job has just written: the executor of quanta tells of an exception only there."""
    with open(log, "rb") as text:
        text.seek(start)
        output = text.read()
    return b"MemoryError" in output or b"std::bad_alloc" in output

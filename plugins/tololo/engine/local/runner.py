"""The process that runs a workflow: it forks the pool, hands out jobs, watches their memory, keeps a journal.

It holds no state that the journal does not hold: killed at any moment, it is started again and goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import getpass
import json
import logging
import os
import select
import shutil
import signal
import socket
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tololo.engine import warm
from tololo.engine.attempt import process_started
from tololo.engine.client import engine_folder
from tololo.engine.local.journal import JobRecord, Journal, RunRecord, prune
from tololo.engine.local.machine import Machine
from tololo.engine.local.worker import work
from tololo.engine.local.workflow import FINAL, Job, Workflow

LOCK = "runner.lock"
MEMORY_WATCH = 0.1
"""Seconds between looks at the memory of running jobs."""

_log = logging.getLogger("tololo.runner")


@dataclass
class Worker:
    """One process of the pool and what it does."""

    pid: int
    connection: socket.socket
    job: Job | None = None
    number: int = 0
    began: float = 0.0
    limit: int = 0
    peak: int = 0
    verdict: str = ""
    kernel_kills: int = 0
    part: list[int] = field(default_factory=list)


class Runner:
    """Runs what lies in a submit folder to its end.

    Parameters
    ----------
    folder : `pathlib.Path`
        The submit folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workflow = Workflow.read(folder)
        self.journal = Journal(folder)
        self.record = RunRecord({})
        self.machine = Machine(engine_folder() / "machine.lock", self.workflow.cores)
        self._pool: list[Worker] = []
        self._children: dict[str, list[str]] = {}
        for name, job in self.workflow.jobs.items():
            for parent in job.parents:
                self._children.setdefault(parent, []).append(name)

    def begin(self) -> None:
        """Write itself into the journal: from then on it can be found, and told to end."""
        signal.signal(signal.SIGTERM, self._end)
        self.journal.append("runner", pid=os.getpid(), started=process_started(os.getpid()))
        self.record = self.journal.replay(self.workflow)
        prune(self.workflow, self.record)

    def run(self) -> None:
        """Run the jobs that are not done, then the final one."""
        if self.record.cancelled:
            return
        self._run_all([name for name in self.workflow.jobs if name != FINAL])
        if FINAL in self.workflow.jobs:
            self._run_all([FINAL])
        self.journal.append("ended", failed=len(self.record.failed))
        for worker in self._pool:
            worker.connection.close()  # it ends by itself

    def _end(self, *_: object) -> None:
        for worker in self._pool:
            _kill(worker.pid)
        warm.leave(1)

    def _run_all(self, names: list[str]) -> None:
        waiting = {name for name in names if self._waits(name)}
        order = {name: number for number, name in enumerate(names)}
        missing = {name: self._unmet(name) for name in waiting}
        ready = sorted((name for name in waiting if not missing[name]), key=order.__getitem__)
        running = 0
        while ready or running:
            while ready:
                job = self.workflow.jobs[ready[0]]
                if self._waits(job.name):  # else one that ended the workflow has pruned it
                    if (worker := self._place(job)) is None:
                        break
                    self._start(worker, job)
                    running += 1
                ready.pop(0)
            for worker in self._ended():
                assert worker.job is not None
                job, worker.job = worker.job, None
                self.machine.give_back(worker.part)
                running -= 1
                state = self.record.jobs[job.name].state
                if state == "waiting":
                    ready.append(job.name)
                elif state == "done":
                    for child in waiting.intersection(self._children.get(job.name, [])):
                        missing[child] -= 1
                        if missing[child] == 0:
                            ready.append(child)
                else:
                    prune(self.workflow, self.record)
            ready.sort(key=order.__getitem__)

    def _waits(self, name: str) -> bool:
        return self.record.jobs[name].state == "waiting"

    def _unmet(self, name: str) -> int:
        parents = self.workflow.jobs[name].parents
        return sum(self.record.jobs[parent].state != "done" for parent in parents)

    def _place(self, job: Job) -> Worker | None:
        """Find or fork a worker for a job, if there are cores and memory for it."""
        wanted = self.record.jobs[job.name].memory
        part = self.machine.take(job.cpus, wanted)
        if part is None:
            return None
        worker = self._idle(wanted) or self._fork()
        worker.part = part
        return worker

    def _idle(self, wanted: int) -> Worker | None:
        """Find a worker that does nothing, and is small enough for a job that wants so much memory."""
        for worker in list(self._pool):
            if worker.job is None:
                if not process_started(worker.pid):
                    self._dismiss(worker)  # somebody has killed it
                    continue
                # What an earlier job left behind must not count against this one.
                if not wanted or _memory(worker.pid) < wanted // 2:
                    return worker
                self._dismiss(worker)
                break
        return None

    def _fork(self) -> Worker:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                ours.close()
                for number in warm.KEPT_FROM_CHILDREN:
                    os.close(number)
                for other in self._pool:
                    other.connection.close()
                work(theirs, parent)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                warm.leave(code)
        theirs.close()
        worker = Worker(pid, ours)
        self._pool.append(worker)
        return worker

    def _dismiss(self, worker: Worker) -> None:
        worker.connection.close()
        _kill(worker.pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(worker.pid, 0)
        self._pool.remove(worker)

    def _start(self, worker: Worker, job: Job) -> None:
        record = self.record.jobs[job.name]
        worker.job, worker.number, worker.began = job, record.tries + 1, time.monotonic()
        worker.limit, worker.peak, worker.verdict = record.memory, 0, ""
        worker.kernel_kills = _kernel_kills()
        record.state = "running"
        self.journal.append(
            "start", job=job.name, pid=worker.pid, memory=record.memory, **{"try": worker.number}
        )
        order = {
            "commands": job.commands,
            "log": f"{job.log}.{worker.number}.log" if job.log else os.devnull,
            "environment": job.environment,
        }
        with contextlib.suppress(OSError):  # if it is dead already, it is noticed like any that dies
            worker.connection.sendall(json.dumps(order).encode() + b"\n")

    def _ended(self) -> list[Worker]:
        """Wait for a moment, and return the workers whose job has ended, with the end in the record."""
        busy = {worker.connection.fileno(): worker for worker in self._pool if worker.job}
        ready, _, _ = select.select(list(busy), [], [], MEMORY_WATCH)
        ended = []
        for number in ready:
            worker = busy.pop(number)
            answer = b""
            with contextlib.suppress(OSError):
                while not answer.endswith(b"\n") and (part := worker.connection.recv(4096)):
                    answer += part
            self._record_end(worker, json.loads(answer) if answer.endswith(b"\n") else None)
            ended.append(worker)
        for worker in busy.values():
            self._watch(worker)
        return ended

    def _watch(self, worker: Worker) -> None:
        """Kill a job that uses more memory or time than it may; the dead connection is seen next time."""
        assert worker.job is not None
        worker.peak = max(worker.peak, _memory(worker.pid))
        if worker.limit and worker.peak > worker.limit:
            worker.verdict = "memory"
        elif worker.job.walltime and time.monotonic() - worker.began > worker.job.walltime:
            worker.verdict = "timeout"
        else:
            return
        _log.warning("%s: killed for %s (%d MiB)", worker.job.name, worker.verdict, worker.peak)
        _kill(worker.pid)

    def _record_end(self, worker: Worker, answer: dict[str, Any] | None) -> None:
        job = worker.job
        assert job is not None
        code, number = None, None
        if answer is None:  # the process died
            worker.connection.close()
            self._pool.remove(worker)
            _kill(worker.pid)  # what it may have started
            _, status = os.waitpid(worker.pid, 0)
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
            else:
                code = os.WEXITSTATUS(status)
            reason = worker.verdict or ("memory" if _kernel_kills() > worker.kernel_kills else "lost")
        else:
            code = answer["exit"]
            reason = "memory" if answer.get("memory") else "lost" if "said" in answer else "exit"
            if code != 0:
                self._dismiss(worker)  # the next job finds a clean process
        record = self.record.jobs[job.name]
        record.tries = worker.number
        if answer is not None and code == 0:
            record.state, reason = "done", ""
        else:
            self._decide(job, record, reason, code)
        self.journal.append(
            "end",
            job=job.name,
            state=record.state,
            exit=code,
            signal=number,
            reason=reason,
            peak=worker.peak,
            memory=worker.limit,
            next_memory=record.memory,
            seconds=round(time.monotonic() - worker.began, 3),
            said=answer.get("said", "") if answer else "",
            **{"try": worker.number},
        )
        if job.abort_on is not None and code == job.abort_on:
            self._abort()

    def _decide(self, job: Job, record: JobRecord, reason: str, code: int | None) -> None:
        """Say whether a job that did not succeed is tried again, as bps configures it."""
        record.state = "waiting"
        if reason == "memory":
            ceiling = min(job.memory_max or self.machine.memory, self.machine.memory)
            grown = min(int(record.memory * job.multiplier), ceiling)
            if grown <= record.memory and job.multiplier > 1:
                record.state = "failed"  # there is no more to give
            record.memory = max(grown, record.memory)
        elif reason == "exit" and code in job.no_retry:
            record.state = "failed"
        if record.tries > job.retries:
            record.state = "failed"

    def _abort(self) -> None:
        for name, record in self.record.jobs.items():
            if name != FINAL and record.state == "waiting":
                record.state = "pruned"


def start(folder: Path) -> None:
    """Fork a detached runner for a submit folder, and return when it has begun.

    Of several runners for one folder all but the first end at once.
    """
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        gc.freeze()  # else it would tidy up, and so close, what its parent has thrown away
        os.close(reader)
        if os.fork():
            os._exit(0)
        _main(folder, writer)
    os.close(writer)
    os.waitpid(middle, 0)
    os.read(reader, 1)
    os.close(reader)


def is_running(folder: Path) -> bool:
    """Tell whether a runner holds the submit folder."""
    try:
        with open(folder / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def cancel(folder: Path) -> tuple[bool, str]:
    """End the runner of a submit folder and its jobs; what they have finished stays.

    Returns
    -------
    ended : `bool`
        Whether nothing runs any more.
    message : `str`
        What there is to say about it.
    """
    Journal(folder).append("cancelled", by=getpass.getuser())
    if not is_running(folder):
        return True, "nothing was running"
    for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if pid := pid_of(folder):  # it may only just begin
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
            if not is_running(folder):
                return True, ""
            time.sleep(0.02)
    return False, f"the runner (pid {pid_of(folder)}) does not end"


def pid_of(folder: Path) -> int:
    """Return the pid of the runner that wrote itself into the journal last, 0 if it is gone."""
    runners = [event for event in Journal(folder) if event["event"] == "runner"]
    if not runners or process_started(runners[-1]["pid"]) != runners[-1]["started"]:
        return 0
    return int(runners[-1]["pid"])


def _main(folder: Path, started: int) -> None:
    code = 1
    try:
        warm.detach(str(folder / "runner.log"), f"runner {folder}")
        # The kernel releases it, however the process ends; workers give their copy back.
        with open(folder / LOCK, "w") as lock:
            if _take(lock):
                warm.KEPT_FROM_CHILDREN.append(lock.fileno())
                os.chdir(folder)
                # One cache of the datastore for all jobs, else each leaves a folder behind.
                cache = folder / "cache"
                os.environ.setdefault("DAF_BUTLER_CACHE_DIRECTORY_IF_UNSET", str(cache))
                runner = Runner(folder)
                runner.begin()
                os.close(started)
                runner.run()
                shutil.rmtree(cache, ignore_errors=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        warm.leave(code)


def _take(lock: IO[str]) -> bool:
    """Take the lock of a submit folder; somebody who looks whether it is taken holds it for a moment."""
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def _kill(pid: int) -> None:
    """Kill a worker and what it started."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _memory(pid: int) -> int:
    """Memory of a worker and what it started, in MiB; each has its share of what they have in common."""
    kib, waiting = 0, [pid]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        with contextlib.suppress(OSError):
            kib += _proportional(process)
            waiting += map(int, (process / "task" / process.name / "children").read_text().split())
    return kib // 1024


def _proportional(process: Path) -> int:
    """Memory of a process, in KiB: what it shares with others counts in part."""
    with contextlib.suppress(PermissionError, FileNotFoundError):  # not every kernel has it
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    pages = int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _kernel_kills() -> int:
    """Count the processes that the kernel has killed because memory was short."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0

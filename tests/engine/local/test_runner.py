"""The runner with jobs of shell commands: what it promises of any job, without the stack."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from pathlib import Path

import pytest

from tololo.engine.attempt import process_started
from tololo.engine.local import runner
from tololo.engine.local.journal import Journal
from tololo.engine.local.machine import memory_of_machine
from tololo.engine.local.workflow import FINAL

from .jobs import events, job, processes_with, record, run, runner_pid, start, until, write


def eat(mib: int) -> str:
    """A command that holds memory for a second."""
    code = (
        f"import time; held = bytearray({mib} << 20); held[::4096] = bytes(len(held[::4096])); time.sleep(1)"
    )
    return f"{sys.executable} -c '{code}'"


WORKER = "$(ps -o pgid= $$)"
"""In a command: the process that runs the job."""


def fail_before(tries: int, code: int = 3) -> str:
    """A command that succeeds when it has run so many times."""
    return f"echo >> $COUNT; test $(wc -l < $COUNT) -ge {tries} || exit {code}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "submit"


def test_each_job_waits_for_its_parents_and_the_final_one_for_all(folder: Path) -> None:
    say = "echo $NAME >> order"
    jobs = [job(folder, name, say, environment={"NAME": name}, parents=[*parents]) for name, parents in
            {"a": "", "b": "", "c": "ab", "d": "c", "e": "a"}.items()]  # fmt: skip
    write(folder, *jobs, cores=3, final="echo final >> order")
    done = run(folder)
    order = (folder / "order").read_text().split()
    assert sorted(order) == ["a", "b", "c", "d", "e", "final"]
    assert order[-1] == "final"
    for before, after in ("ac", "bc", "cd", "ae"):
        assert order.index(before) < order.index(after)
    assert {one.state for one in done.jobs.values()} == {"done"}
    assert done.ended
    assert (done.failed, [line["failed"] for line in events(folder, "ended")]) == ([], [0])


def test_what_depends_on_a_failure_is_not_run_and_the_final_job_is(folder: Path) -> None:
    write(
        folder,
        job(folder, "a", "exit 7"),
        job(folder, "b", "touch b", parents=["a"]),
        job(folder, "c", "touch c", parents=["b"]),
        job(folder, "d", "touch d"),
        final="touch final",
    )
    done = run(folder)
    assert {name: one.state for name, one in done.jobs.items()} == {
        "a": "failed",
        "b": "waiting",
        "c": "waiting",
        "d": "done",
        FINAL: "done",
    }
    assert (done.ended, done.failed) == (True, ["a"])
    assert {path.name for path in folder.iterdir()} & {"b", "c", "d", "final"} == {"d", "final"}
    last = done.jobs["a"].last
    assert (last["exit"], last["signal"], last["reason"]) == (7, None, "exit")


def test_commands_run_until_one_fails_and_each_try_has_its_log(folder: Path) -> None:
    count = {"COUNT": str(folder / "count")}
    commands = ["echo one $MARK", fail_before(3), "echo three >&2"]
    environment = count | {"MARK": "here and 'there'"}
    write(
        folder,
        job(folder, "a", *commands, retries=2, environment=environment),
        job(folder, "b", "echo [${MARK-none}]", parents=["a"]),
        job(folder, "c", parents=["b"], log=""),  # a node that only orders others
        job(folder, "d", "echo d", parents=["c"]),
    )
    done = run(folder)
    assert (done.jobs["a"].tries, done.jobs["a"].state, done.jobs["d"].state) == (3, "done", "done")
    logs = {path.name: path.read_text() for path in sorted((folder / "logs").iterdir())}
    assert list(logs) == ["a.1.log", "a.2.log", "a.3.log", "b.1.log", "d.1.log"]
    assert [log.count("one here and 'there'\n") for log in logs.values()] == [1, 1, 1, 0, 0]
    assert [log.count("\nthree\n") for log in logs.values()] == [0, 0, 1, 0, 0]
    assert logs["b.1.log"].endswith("\n[none]\n"), "the environment of a job is its own"


def test_retries_are_bounded_and_some_exit_codes_are_final(folder: Path) -> None:
    def of(name: str, code: int, **changes: object) -> object:
        count = {"COUNT": str(folder / name)}
        return job(folder, name, fail_before(99, code), environment=count, no_retry=[1, 2], **changes)

    write(folder, of("a", 3, retries=2), of("b", 2, retries=2), of("c", 3), of("d", 1, retries=1))
    done = run(folder)
    assert {name: one.tries for name, one in done.jobs.items()} == {"a": 3, "b": 1, "c": 1, "d": 1}
    assert {name: len((folder / name).read_text()) for name in done.jobs} == {"a": 3, "b": 1, "c": 1, "d": 1}
    assert done.failed == ["a", "b", "c", "d"]
    assert {name: one.last["exit"] for name, one in done.jobs.items()} == {"a": 3, "b": 2, "c": 3, "d": 1}


def test_a_job_that_needs_more_memory_gets_more_up_to_the_cap(folder: Path) -> None:
    more = {"multiplier": 2.0, "retries": 5}
    write(
        folder,
        job(folder, "a", eat(300), memory=150, **more),
        job(folder, "b", eat(700), memory=150, memory_max=500, **more),
        job(folder, "c", "true", memory=150, **more),
        job(folder, "d", eat(300), memory=150, retries=1),
    )
    done = run(folder)
    ends = {
        name: [(e["reason"], e["memory"], e["signal"]) for e in events(folder, "end", name)]
        for name in "abcd"
    }
    killed = ("memory", 150, signal.SIGKILL)
    assert ends["a"] == [killed, ("memory", 300, signal.SIGKILL), ("", 600, None)]
    assert ends["b"] == [killed, ("memory", 300, signal.SIGKILL), ("memory", 500, signal.SIGKILL)]
    assert ends["c"] == [("", 150, None)]
    assert ends["d"] == [killed, killed], "bps was told of no multiplier"
    assert done.failed == ["b", "d"]
    assert all(e["peak"] > e["memory"] for e in events(folder, "end") if e["reason"] == "memory")
    assert done.jobs["a"].last["peak"] >= 300


def test_a_job_that_says_itself_that_it_had_no_memory_gets_more(folder: Path) -> None:
    """As the middleware does when an array finds no room: it writes so to the log, and exits with 1."""
    command = f"({fail_before(3)}) || {{ echo 'MemoryError: no room' >&2; exit 1; }}"
    changes = {
        "multiplier": 2.0,
        "retries": 3,
        "no_retry": [1],
        "environment": {"COUNT": str(folder / "count")},
    }
    write(folder, job(folder, "a", command, memory=150, **changes))
    done = run(folder)
    assert [(e["reason"], e["memory"]) for e in events(folder, "end")] == [
        ("memory", 150),
        ("memory", 300),
        ("", 600),
    ]
    assert done.failed == []


def test_no_more_jobs_than_cores_and_memory_allow(folder: Path) -> None:
    half = int(0.6 * memory_of_machine())
    jobs = [job(folder, f"a_{n}", "sleep 0.2") for n in range(6)]
    jobs += [job(folder, f"b_{n}", "sleep 0.2", memory=half) for n in range(3)]
    jobs += [job(folder, f"c_{n}", "sleep 0.2", cpus=2) for n in range(3)]
    jobs += [job(folder, "d", "sleep 0.2", cpus=99)]
    write(folder, *jobs, cores=3)
    done = run(folder)
    assert done.failed == []
    running: dict[str, int] = {}
    most = {"cpus": 0, "memory": 0}
    cpus = {one.name: one.cpus for one in jobs}
    for line in Journal(folder):
        if line["event"] == "start":
            running[line["job"]] = line["memory"]
        elif line["event"] == "end":
            del running[line["job"]]
        most["memory"] = max(most["memory"], sum(running.values()))
        if "d" in running:
            assert list(running) == ["d"], "what needs more cores than there are runs alone"
        else:
            most["cpus"] = max(most["cpus"], sum(cpus[name] for name in running))
    assert most == {"cpus": 3, "memory": half}


def test_a_try_that_takes_too_long_is_ended_with_all_that_it_started(folder: Path) -> None:
    mark = f"3{uuid.uuid4().int % 10**9}"
    write(folder, job(folder, "a", f"sleep {mark} & sleep {mark}; true", walltime=1.0, retries=1))
    done = run(folder)
    assert [(e["reason"], e["signal"]) for e in events(folder, "end")] == [("timeout", signal.SIGKILL)] * 2
    assert done.failed == ["a"]
    assert processes_with(mark) == []


def test_a_job_whose_worker_is_lost_is_tried_again(folder: Path) -> None:
    count = {"COUNT": str(folder / "count")}
    write(
        folder,
        job(folder, "a", f"({fail_before(2)}) || kill -KILL {WORKER}", environment=count, retries=1),
        job(folder, "b", f"kill -SEGV {WORKER}"),
    )
    done = run(folder)
    ends = [(e["job"], e["reason"], e["signal"], e["state"]) for e in events(folder, "end")]
    assert sorted(ends, key=str) == [
        ("a", "", None, "done"),
        ("a", "lost", signal.SIGKILL, "waiting"),
        ("b", "lost", signal.SIGSEGV, "failed"),
    ]
    assert done.failed == ["b"]


def test_an_idle_worker_that_dies_costs_no_try(folder: Path) -> None:
    # While c runs alone the worker of b has nothing to do; d and e then need both.
    write(
        folder,
        job(folder, "a", "sleep 0.5"),
        job(folder, "b", f"echo {WORKER} > idle"),
        job(folder, "c", "sleep 0.2; kill -KILL $(cat idle); sleep 0.2", parents=["a", "b"]),
        job(folder, "d", "true", parents=["c"]),
        job(folder, "e", "true", parents=["c"]),
    )
    done = run(folder)
    assert done.failed == []
    assert {line["reason"] for line in events(folder, "end")} == {""}


def test_the_jobs_die_with_their_runner_and_another_goes_on(folder: Path) -> None:
    mark = f"3{uuid.uuid4().int % 10**9}"
    once = "test -e gate || { echo >> cut; "
    write(
        folder,
        job(folder, "a", "echo >> a"),
        # A shell that waits for another, in which something waits in the background.
        job(
            folder,
            "b",
            f"{once} bash -c 'sleep {mark} & sleep {mark}; true'; exit 9; }}; echo >> b",
            parents=["a"],
        ),
        job(folder, "c", f"{once} sleep {mark}; exit 9; }}; echo >> c", parents=["a"]),
        final="echo >> last",
    )
    start(folder)
    until(lambda: (folder / "cut").exists() and len(processes_with(f"sleep\0{mark}")) == 3, "the jobs")
    workers = [line["pid"] for line in events(folder, "start", "b", "c")]
    os.kill(runner_pid(folder), signal.SIGKILL)
    until(lambda: processes_with(mark) == [], "the jobs to die with their runner")
    until(lambda: not any(map(process_started, workers)), "the workers to die with their runner")
    assert not runner.is_running(folder)
    (folder / "gate").touch()
    done = run(folder)
    assert {one.state for one in done.jobs.values()} == {"done"}
    assert {name: one.tries for name, one in done.jobs.items()} == dict.fromkeys(("a", "b", "c", FINAL), 1)
    assert [len((folder / name).read_text()) for name in ("a", "b", "c", "last")] == [1, 1, 1, 1]
    assert len(events(folder, "runner")) == 2


def test_another_runner_goes_on_after_a_failure(folder: Path) -> None:
    """What waits for a job that has failed and for one that has not is still not run."""
    write(
        folder,
        job(folder, "a", "test -e gate || sleep 600"),
        job(folder, "b", "exit 9"),
        job(folder, "c", "touch c", parents=["a", "b"]),
        job(folder, "d", "touch d", parents=["a"]),
        final="touch final",
    )
    start(folder)
    until(lambda: events(folder, "end", "b"), "the failure")
    os.kill(runner_pid(folder), signal.SIGKILL)
    until(lambda: not runner.is_running(folder), "the runner to die")
    (folder / "gate").touch()
    done = run(folder)
    assert (done.ended, done.failed, done.runners) == (True, ["b"], 0)
    assert {path.name for path in folder.iterdir()} & {"c", "d", "final"} == {"d", "final"}
    assert len(events(folder, "runner")) == 2


def test_of_several_runners_one_runs(folder: Path) -> None:
    write(folder, *(job(folder, f"a_{n}", f"echo >> a_{n}; sleep 0.3") for n in range(4)))
    threads = [threading.Thread(target=start, args=(folder,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: not runner.is_running(folder), "the runner to end")
    assert [len((folder / f"a_{n}").read_text()) for n in range(4)] == [1, 1, 1, 1]
    assert len(events(folder, "start")) == 4


def test_looking_whether_one_runs_keeps_none_from_starting(folder: Path) -> None:
    write(folder, job(folder, "a", "sleep 0.1"))
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            runner.is_running(folder)

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(5):
            start(folder)
            # Whoever looks after the start sees it run, or done: never a folder without a runner.
            assert runner.is_running(folder) or record(folder).ended
            until(lambda: record(folder).ended and not runner.is_running(folder), "the end")
            Journal(folder).append("restarted", user="x")
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
    assert len(events(folder, "runner")) == len(events(folder, "ended")) == 5


def test_cancel_leaves_no_process(folder: Path) -> None:
    mark = f"3{uuid.uuid4().int % 10**9}"
    stubborn = f"trap '' TERM INT HUP; sleep {mark} & sleep {mark}; true"
    write(
        folder,
        job(folder, "a", "true"),
        *(job(folder, f"b_{n}", stubborn) for n in range(3)),
        final="touch f",
    )
    start(folder)
    until(lambda: len(processes_with(f"sleep\0{mark}")) == 4, "the jobs")
    assert runner.cancel(folder) == (True, "")
    until(lambda: processes_with(mark) == [], "the jobs to end")
    known = record(folder)
    assert known.cancelled
    assert not known.ended
    assert not (folder / "f").exists()
    assert {name: one.state == "done" for name, one in known.jobs.items()} == {
        "a": True, "b_0": False, "b_1": False, "b_2": False, FINAL: False,
    }  # fmt: skip


def test_cancel_right_after_the_start(folder: Path) -> None:
    mark = f"3{uuid.uuid4().int % 10**9}"
    write(folder, job(folder, "a", f"sleep {mark}"))
    for _ in range(5):
        start(folder)
        assert runner.cancel(folder)[0]
        assert not runner.is_running(folder)
        until(lambda: processes_with(mark) == [], "the job to end")
        Journal(folder).append("restarted", user="x")


def test_cancel_of_what_does_not_run_touches_no_process(folder: Path) -> None:
    write(folder, job(folder, "a", "true"))
    Journal(folder).append("runner", pid=os.getpid(), started="1")
    assert runner.cancel(folder) == (True, "nothing was running")
    with pytest.raises(ProcessLookupError):
        os.kill(2**22 + 1, 0)


def test_a_runner_that_was_told_to_end_is_gone_on_with(folder: Path) -> None:
    """As when the machine goes down: nobody has cancelled the run."""
    mark = f"3{uuid.uuid4().int % 10**9}"
    write(folder, job(folder, "a", f"test -e gate || sleep {mark}"))
    start(folder)
    until(lambda: processes_with(f"sleep\0{mark}"), "the job")
    os.kill(runner_pid(folder), signal.SIGTERM)
    until(lambda: not runner.is_running(folder), "the runner to end")
    until(lambda: processes_with(mark) == [], "the job to end")
    assert not record(folder).cancelled
    (folder / "gate").touch()
    assert run(folder).jobs["a"].state == "done"


def test_an_exit_code_can_end_the_workflow(folder: Path) -> None:
    write(
        folder,
        job(folder, "a", "exit 42", abort_on=42, retries=3, no_retry=[42]),
        *(job(folder, f"b_{n}", "sleep 0.3") for n in range(6)),
        cores=1,
        final="touch final",
    )
    done = run(folder)
    assert [line["job"] for line in events(folder, "start")] == ["a", FINAL]
    assert (done.ended, done.failed, (folder / "final").exists()) == (True, ["a"], True)


def test_jobs_that_write_much_and_read_nothing(folder: Path) -> None:
    write(folder, job(folder, "a", "head -c 3000000 /dev/zero | tr '\\0' 'x'; cat"))
    assert run(folder).jobs["a"].state == "done"
    assert (folder / "logs" / "a.1.log").stat().st_size > 3_000_000


def test_a_log_that_cannot_be_written_is_a_failure_of_the_job(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "logs").touch()  # a file where a folder should be
    write(folder, job(folder, "a", "touch a", retries=1), job(folder, "b", "touch b", log=str(folder / "b")))
    done = run(folder)
    assert (done.failed, done.ended, done.jobs["a"].tries) == (["a"], True, 2)
    assert (folder / "b").exists()
    last = done.jobs["a"].last
    assert (last["reason"], last["exit"]) == ("lost", 1)
    assert f"'{folder}/logs'" in last["said"]


def test_a_run_ends_soon_after_its_last_job(folder: Path) -> None:
    write(folder, job(folder, "a", "true"))
    start(folder)
    until(lambda: record(folder).ended, "the end")
    pids = [line["pid"] for line in events(folder, "start")]
    until(lambda: not runner.is_running(folder), "the runner to end")
    until(lambda: not any(map(process_started, pids)), "its worker to end")

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from tololo.facility.errors import UnavailableError
from tololo.services.process import Daemon, process_state, run_once

# a server whose child outlives it, and which says when both are there
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def daemon(home):
    daemon = Daemon(home, "server")
    yield daemon
    daemon.stop(grace=0)


def start(daemon, source, word):
    daemon.start([sys.executable, "-c", source])
    daemon.wait(lambda: word in daemon.log.read_text(), 20)
    return daemon.pid()


def child_of(daemon):
    return int(daemon.log.read_text().split()[-1])


def gone(pid):
    deadline = time.monotonic() + 10
    while process_state(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process_state(pid) is None


def test_a_second_start_finds_the_first(home, daemon):
    pid = start(daemon, FAMILY, "child")
    again = Daemon(home, "server")
    assert again.running()
    again.start([sys.executable, "-c", "print('second', flush=True)"], port=7)
    assert again.pid() == pid
    assert "second" not in daemon.log.read_text()


def test_it_runs_in_a_session_of_its_own_without_our_terminal(daemon):
    pid = start(daemon, FAMILY, "child")
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert stat.S_IMODE(daemon.record_file.stat().st_mode) == 0o600


def test_stop_takes_the_whole_session(daemon):
    pid = start(daemon, FAMILY, "child")
    child = child_of(daemon)
    assert process_state(child).session == pid
    assert daemon.stop()
    assert gone(pid)
    assert gone(child)
    assert not daemon.running()
    assert not daemon.stop()


def test_who_ignores_the_polite_signal_is_killed(daemon):
    pid = start(daemon, DEAF, "ready")
    assert daemon.stop(grace=0.3)
    assert gone(pid)


def test_children_of_a_killed_server_are_found(daemon):
    pid = start(daemon, FAMILY, "child")
    child = child_of(daemon)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert not daemon.running()
    assert process_state(child)
    start(daemon, DEAF, "ready")  # the next start clears them away
    assert gone(child)


def test_a_recycled_process_id_is_neither_believed_nor_killed(daemon):
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    try:
        daemon.adopt(stranger.pid)
        assert daemon.running()  # the record fits, so what follows is due to the moment of start alone
        record = daemon.record_file.read_text()
        daemon.record_file.write_text(record.replace(process_state(stranger.pid).started, "otherboot:1"))
        assert not daemon.running()
        assert not daemon.stop(grace=0)
        assert stranger.poll() is None
        start(daemon, DEAF, "ready")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_a_spoilt_record_blocks_nothing(daemon, content):
    daemon.record_file.write_text(content)
    assert not daemon.running()
    assert start(daemon, DEAF, "ready")


def test_the_port_is_remembered_while_it_runs(daemon):
    daemon.start([sys.executable, "-c", DEAF], port=4711)
    assert daemon.port() == 4711
    daemon.stop(grace=0)
    assert daemon.port() == 0


def test_a_server_that_ends_is_reported_with_its_last_words(daemon):
    daemon.start([sys.executable, "-c", "print('the disk is full'); raise SystemExit(3)"])
    with pytest.raises(UnavailableError, match="the disk is full") as caught:
        daemon.wait(lambda: False, 20)
    assert str(daemon.log) in str(caught.value)


def test_a_server_that_never_answers_is_reported(daemon):
    start(daemon, DEAF, "ready")
    with pytest.raises(UnavailableError, match=r"does not answer after 0 s"):
        daemon.wait(lambda: False, 0.2)


def test_a_program_that_is_not_there_is_reported(daemon):
    with pytest.raises(UnavailableError, match="/no/such/program"):
        daemon.start(["/no/such/program"])
    assert not daemon.running()


def test_a_command_that_fails_is_reported_with_its_last_words(home):
    run_once(home, "once", [sys.executable, "-c", "print('fine')"])
    with pytest.raises(UnavailableError, match="no such table"):
        run_once(home, "once", [sys.executable, "-c", "raise SystemExit('no such table')"])
    with pytest.raises(UnavailableError, match="did not end"):
        run_once(home, "once", [sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)

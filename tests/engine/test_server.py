"""The engine server and how one talks to it. Most servers here run a copy of the package, to be edited."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import processes_below
from tololo.engine import client
from tololo.engine.attempt import process_started
from tololo.facility.errors import BadInputError, TololoError, UnavailableError
from tololo.simulation.drill import FIRST_VISIT, INPUTS, make_drill_repository

from .local.jobs import until
from .package_copy import PackageCopy

QUESTIONS = """
import os, time

QUESTIONS = {
    "who": lambda: {"pid": os.getpid(), "server": os.getppid(), "version": 1},
    "wait": lambda seconds: time.sleep(seconds),
    "fail": lambda: {}["no such key"],
    "home": lambda: os.environ["TOLOLO_HOME"],
}
"""


def server_pid() -> int:
    return int(client.call({"do": "ping"})["pid"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> PackageCopy:
    return bare_copy(tmp_path_factory.mktemp("bare"))


def bare_copy(folder: Path) -> PackageCopy:
    """A copy that needs nothing of the stack, so that its servers start at once."""
    copy = PackageCopy(folder)
    copy.import_when_needed()
    copy.write("engine/questions.py", QUESTIONS)
    return copy


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own, with no server yet."""
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    client.stop_server()


@pytest.fixture
def bare_home(home: Path, bare: PackageCopy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose servers run the copy of the package."""
    monkeypatch.setenv("PYTHONPATH", str(bare.path))
    return home


@pytest.fixture
def own_copy(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageCopy:
    """A copy of the package for this test alone, which the servers of its home run."""
    copy = bare_copy(tmp_path / "copy")
    monkeypatch.setenv("PYTHONPATH", str(copy.path))
    return copy


def test_of_several_that_start_at_once_one_stays_and_answers(home: Path, tmp_path: Path) -> None:
    """The only test here with the whole warm server."""
    make_drill_repository(tmp_path / "repository", detectors=4)
    question = {"dataset_type": "drill_number", "collections": [INPUTS], "count": 5}
    question |= {
        "repository": str(tmp_path / "repository"),
        "where": f"instrument = 'DECam' AND visit = {FIRST_VISIT}",
    }
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.ask("datasets", **question), range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["found"] == 4
    assert "4 of 5 are there" in answers[0]["missing"][0]
    assert client.ask("datasets", **question | {"count": 4})["missing"] == []
    pid = server_pid()
    # Itself and the process that answers questions.
    until(lambda: len(processes_below(str(tmp_path))) == 2, "the others to end")
    with pytest.raises(BadInputError) as caught:
        client.ask("datasets", **question | {"where": "visit ="})
    assert caught.value.where == str(tmp_path / "repository")
    assert "visit" in caught.value.what
    assert asyncio.run(client.ask_async("datasets", **question))["found"] == 4
    assert server_pid() == pid
    threads = sorted(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/comm"))
    # What a process with threads forks can hang; Arrow's allocator knows how to be forked.
    assert [name for name in threads if name != "jemalloc_bg_thd\n"] == threads[-1:]


def test_errors_of_questions(bare_home: Path) -> None:
    with pytest.raises(TololoError, match=r"The question 'fail' failed: KeyError: 'no such key'") as caught:
        client.ask("fail")
    assert "no such key" in Path(caught.value.where).read_text()
    with pytest.raises(TololoError, match="nosuch"):
        client.ask("nosuch")
    with pytest.raises(TololoError, match="minutes"):
        client.ask("wait", minutes=1)
    with pytest.raises(UnavailableError, match=r"no answer within 1 s"):
        client.ask("wait", timeout=1.0, seconds=3)
    with pytest.raises(UnavailableError, match=r"no answer within 1 s"):
        asyncio.run(client.ask_async("wait", timeout=1.0, seconds=3))
    assert client.ask("who")["server"] == server_pid()


def test_whoever_speaks_nonsense_harms_nobody(bare_home: Path) -> None:
    pid = server_pid()
    for words in (b"", b"\n", b"nonsense\n", b"[1]\n", b'{"do": "dance"}\n', b'{"ask"', b"\xff\xfe\n"):
        with client._connected(5.0) as connection:
            connection.sendall(words)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
    assert server_pid() == pid


def test_after_the_process_that_answers_was_killed_another_answers(bare_home: Path) -> None:
    before = client.ask("who")
    os.kill(before["pid"], signal.SIGKILL)
    after = client.ask("who")
    assert after["server"] == before["server"]
    assert after["pid"] != before["pid"]
    with ThreadPoolExecutor(3) as pool:
        # Killed while one is answered and others wait: all are answered by the next.
        long = pool.submit(client.ask, "wait", seconds=1.0)
        time.sleep(0.3)
        others = [pool.submit(client.ask, "who") for _ in range(2)]
        time.sleep(0.3)
        os.kill(after["pid"], signal.SIGKILL)
        assert long.result() is None
        assert all(other.result()["pid"] != after["pid"] for other in others)


def test_a_question_that_hangs_does_not_hold_up_the_others_for_ever(own_copy: PackageCopy) -> None:
    own_copy.edit("engine/server.py", r"\nHANGING = [0-9.]+\n", "\nHANGING = 2.0\n")
    first = client.ask("who")
    with pytest.raises(UnavailableError, match="no answer"):
        client.ask("wait", timeout=0.5, seconds=3600)
    assert client.ask("who")["pid"] != first["pid"]


def test_a_killed_server_is_replaced(bare_home: Path) -> None:
    before = client.ask("who")
    os.kill(before["server"], signal.SIGKILL)
    after = client.ask("who")
    assert after["server"] != before["server"]
    until(lambda: not process_started(before["pid"]), "the process that answered for it to end")


def test_stop_and_at_once_again(bare_home: Path) -> None:
    client.stop_server()  # there is none
    servers = set()
    for _ in range(3):
        servers.add(client.ask("who")["server"])
        client.stop_server()
        assert not client.is_up()
    servers.add(client.ask("who")["server"])
    assert len(servers) == 4
    until(lambda: sum(process_started(pid) != "" for pid in servers) == 1, "the servers to end")
    os.kill(server_pid(), signal.SIGTERM)
    until(lambda: not client.is_up(), "the server to end")


def test_a_server_whose_code_has_changed_starts_anew(own_copy: PackageCopy) -> None:
    before = client.ask("who")
    own_copy.edit("engine/questions.py", r'"version": 1', '"version": 2')
    after = client.ask("who")
    assert (before["version"], after["version"]) == (1, 2)
    assert asyncio.run(client.ask_async("who"))["server"] == after["server"]
    own_copy.append("facility/another.py", "")
    assert client.ask("who")["pid"] != after["pid"]
    until(lambda: not process_started(before["pid"]), "the process with the old code to end")
    assert len(processes_below(os.environ["TOLOLO_HOME"].removesuffix("/home"))) == 2


def test_one_message_when_it_cannot_start(own_copy: PackageCopy, home: Path) -> None:
    client.ask("who")
    own_copy.append("engine/warm.py", "\nthis is no Python\n")
    for _ in range(2):  # it had changed; there is none
        with pytest.raises(
            UnavailableError, match=r"The engine server does not start: .*this is no Python"
        ) as caught:
            client.ask("who")
        assert Path(caught.value.where).is_file()
        assert caught.value.remedy
    own_copy.edit("engine/warm.py", r"\nthis is no Python\n", "\n")
    assert client.ask("who")["version"] == 1


def test_a_task_that_cannot_be_imported_concerns_only_who_needs_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = PackageCopy(tmp_path / "copy")
    copy.import_nothing_first()
    copy.write("engine/questions.py", QUESTIONS)
    copy.append("reduction/tasks/__init__.py", "\nthis is no Python\n")
    monkeypatch.setenv("PYTHONPATH", str(copy.path))
    client.ask("who")
    until(lambda: "this is no Python" in (client.engine_folder() / "server.log").read_text(), "the import")
    assert client.ask("who")["server"] == server_pid()


def test_it_goes_when_idle_unless_it_is_to_stay(own_copy: PackageCopy) -> None:
    own_copy.edit("engine/server.py", r"\nIDLE = [0-9.]+\n", "\nIDLE = 0.5\n")
    pid = server_pid()
    until(lambda: not process_started(pid), "the idle server to go")
    assert not (client.engine_folder() / "server.sock").exists()
    with subprocess.Popen(
        [*client.SERVER, "--stay"], env=client.job_environment(), start_new_session=True
    ) as process:
        until(client.is_up, "the other server")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(4)
        assert process.returncode is None
        assert server_pid() == process.pid
        # It stays also after it has started anew.
        own_copy.append("facility/another.py", "")
        assert server_pid() == process.pid
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(4)
        assert process.returncode is None
        client.stop_server()


def test_it_ends_when_its_folder_is_gone(bare_home: Path) -> None:
    answering = client.ask("who")
    shutil.rmtree(bare_home)
    for name in ("server", "pid"):
        until(lambda name=name: not process_started(answering[name]), "the server without a folder to end")
    assert client.ask("who")["server"] != answering["server"]


def test_the_path_of_the_home_may_be_long_or_relative(
    bare: PackageCopy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(bare.path))
    long = tmp_path.joinpath(*["a folder with a long name"] * 8)
    long.mkdir(parents=True)
    monkeypatch.chdir(long)
    monkeypatch.setenv("TOLOLO_HOME", "here")
    try:
        assert len(str(client.engine_folder())) > 200
        assert client.ask("home") == str(long / "here")
        assert asyncio.run(client.ask_async("home")) == str(long / "here")
        (bare.path / "tololo" / "__init__.py").touch()
        assert client.ask("home") == str(long / "here")
        assert [path.name for path in long.iterdir()] == ["here"]
        assert list((long / "here").rglob("here")) == []
    finally:
        client.stop_server()


def test_a_home_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match="has no place") as caught:
        client.ask("who")
    assert "TOLOLO_HOME" in caught.value.remedy
    assert not client.is_up()


def test_many_ask_at_once(bare_home: Path) -> None:
    async def ask_all() -> list[dict[str, int]]:
        return list(await asyncio.gather(*(client.ask_async("who") for _ in range(300))))

    answers = asyncio.run(ask_all())  # there is no server yet
    assert len(answers) == 300
    assert len({answer["server"] for answer in answers}) == 1


def test_nothing_of_the_stack_is_imported_by_who_asks(bare_home: Path) -> None:
    code = (
        "import sys; from tololo.engine.client import ask; ask('who');"
        "from tololo.hooks.bps import BpsHook; from tololo.engine.attempt import Attempt;"
        "assert not {'lsst', 'numpy', 'astropy', 'numba'} & {name.partition('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=120)

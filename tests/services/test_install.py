from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tololo.services.home import CHECKOUT


@pytest.fixture
def checkout(tmp_path):
    """A checkout with nothing to install in its locks."""
    (tmp_path / "bin").mkdir()
    for name in ("bin/install", "bin/run", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    for name in ("requirements.txt", "requirements-tom.txt"):
        (tmp_path / name).write_text("")
    return tmp_path


def run(checkout, *words, **environment):
    return subprocess.run(
        [checkout / words[0], *words[1:]],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_interpreter_must_run(checkout):
    python = checkout / "python3.12"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    answer = run(checkout, "bin/install", PYTHON=str(python))
    assert answer.returncode == 1
    assert f"{python} does not run" in answer.stderr
    assert "apt install python3.12 python3.12-venv" in answer.stderr
    assert not (checkout / ".venv").exists()


def test_nothing_is_done_when_nothing_changed(checkout):
    lock = subprocess.run(
        "cat requirements.txt pyproject.toml bin/install | cksum\n"
        "cat requirements-tom.txt bin/install | cksum",
        shell=True,
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name, wanted in zip((".venv", ".venv-tom"), lock, strict=True):
        (checkout / name / "bin").mkdir(parents=True)
        (checkout / name / "bin" / "python").symlink_to(sys.executable)
        (checkout / name / "installed").write_text(f"{checkout}: {wanted}\n")
    answer = run(checkout, "bin/install", PYTHON="/bin/false")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    # another lock: it would have to install, and for that it looks for an interpreter
    (checkout / "requirements-tom.txt").write_text("tomtoolkit==3.1.0\n")
    answer = run(checkout, "bin/install", PYTHON="/bin/false")
    assert answer.returncode == 1
    assert "/bin/false does not run" in answer.stderr


def test_a_command_needs_a_facility(checkout):
    answer = run(checkout, "bin/run", "true")
    assert answer.returncode == 1
    assert "make up" in answer.stderr
    environment = checkout / "var" / "environment"
    environment.parent.mkdir()
    environment.write_text("export AIRFLOW_HOME='/some where'\n")
    assert run(checkout, "bin/run", "sh", "-c", 'echo "$AIRFLOW_HOME"').stdout == "/some where\n"

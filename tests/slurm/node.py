"""A real Slurm for tests: `node.sh` does the work."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NODE = Path(__file__).with_name("node.sh")
COMMANDS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")


def fault() -> str:
    """Install Slurm where that is possible; return why there is none, or nothing."""
    path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
    if all(shutil.which(command, path=path) for command in COMMANDS):
        return ""
    done = subprocess.run([NODE, "install"], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def node(verb: str, folder: Path) -> None:
    """Start or stop the node of a folder."""
    done = subprocess.run([NODE, verb, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def slurm(*command: str) -> str:
    """Ask Slurm something."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def wait_until(what: Callable[[], object], seconds: float = 240) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.2)

"""The blocks of a run in Slurm: which there are, how they ended, and their end by force. Imports no LSST."""

from __future__ import annotations

import getpass
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tololo.facility.errors import BadInputError, UnavailableError

ANNOUNCEMENT = 'echo "Slurm job $SLURM_JOB_ID on $(hostname)" >&2'
"""The first command of a block: it says in the block's stderr which job it is."""

PATIENCE = 120.0
"""Seconds that Slurm is given to answer, and cancelled blocks to go."""

_SIGNS = {
    "OUT_OF_MEMORY": re.compile(r"exceeded (job |step )?memory limit|oom.?kill|out of memory", re.IGNORECASE),
    "TIMEOUT": re.compile(r"DUE TO TIME LIMIT"),
    "PREEMPTED": re.compile(r"DUE TO PREEMPTION"),
    "NODE_FAIL": re.compile(r"DUE TO NODE FAILURE"),
}
"""What slurmstepd writes into a block's stderr: it is there for good, and with any configuration of Slurm."""

_BAD = ("OUT_OF_MEMORY", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "FAILED")
"""States of a block that did not end because the run had ended."""


@dataclass(frozen=True)
class Ending:
    """How a block ended before its time.

    ``job`` and ``state`` are Slurm's, ``said`` is what the block or Slurm said last, ``block`` is Parsl's
    name of it. A block that Slurm refused has neither job nor name.
    """

    job: str
    state: str
    said: str = ""
    block: str = ""

    @property
    def for_memory(self) -> bool:
        """Whether it took more memory than it had asked for."""
        return self.state == "OUT_OF_MEMORY"

    def __str__(self) -> str:
        job = f"Slurm job {self.job}" if self.job else "Slurm"
        return f"{job}: {self.state}" + (f" ({self.said})" if self.said else "")


def job_name(run: str) -> str:
    """Return the name of a run's blocks; it follows from ``include/pipelines/bps/slurm.yaml``."""
    return f"tololo.{run}"


def check(options: list[str]) -> None:
    """Ask Slurm whether it would take a block.

    Parameters
    ----------
    options : `list` [`str`]
        Options of sbatch.

    Raises
    ------
    BadInputError
        It would not.
    UnavailableError
        Slurm does not answer.
    """
    _ask("sinfo", "--noheader")
    answer = _run("sbatch", "--test-only", *options, "--wrap=true")
    if answer.returncode:
        raise BadInputError(
            f"Slurm refuses the blocks of this run: {_joined(answer.stderr)}",
            f"sites.slurm in facility.yaml: sbatch {' '.join(options)}",
            "correct the settings of the site",
        )


def blocks(run: str) -> dict[str, str]:
    """Return the state of each block of a run that waits or runs, by Slurm's id.

    Raises
    ------
    UnavailableError
        Slurm does not answer.
    """
    return _squeue(run)


def cancel(run: str) -> list[str]:
    """Cancel all blocks of a run and wait until they are gone.

    Parameters
    ----------
    run : `str`
        The output RUN.

    Returns
    -------
    jobs : `list` [`str`]
        Slurm's ids of what was cancelled.

    Raises
    ------
    UnavailableError
        Slurm does not answer, or a block does not go.
    """
    cancelled = list(blocks(run))
    if not cancelled:
        return []
    _ask("scancel", "--quiet", f"--user={getpass.getuser()}", f"--name={job_name(run)}")
    deadline = time.monotonic() + PATIENCE
    while left := blocks(run):
        if time.monotonic() > deadline:
            raise UnavailableError(
                "Slurm jobs do not end although they are cancelled",
                f"Slurm jobs {', '.join(left)}, run {run}",
                "look at them with scontrol show job",
            )
        time.sleep(0.5)
    return cancelled


def endings(run: str, folder: Path) -> list[Ending]:
    """Return the blocks of a run that were lost, and refusals of Slurm to take one.

    Parameters
    ----------
    run : `str`
        The output RUN.
    folder : `pathlib.Path`
        Folder in which Parsl ran: its ``runinfo`` has the blocks' output.

    Notes
    -----
    A quantum that goes down with its block leaves neither log nor metadata. Its reason stands in what
    slurmstepd wrote into the block's stderr, else in Slurm's accounting, else (for minutes) in its queue.
    """
    found = []
    texts = {path: path.read_text(errors="replace") for path in _parsl(folder, "submit_scripts/*.stderr")}
    jobs = {path: _first(r"Slurm job (\d+) on", text) for path, text in texts.items()}
    states = _states(run, [job for job in jobs.values() if job])
    for path, text in texts.items():
        sign = next((state for state, sign in _SIGNS.items() if sign.search(text)), "")
        state = sign or states.get(jobs[path], "")
        if state in _BAD:
            said = "" if sign else _last_line(text)
            found.append(Ending(jobs[path], state, said, f"{path.parts[-3]}/{path.name.split('.')[2]}"))
    for path in _parsl(folder, "parsl.log"):
        refusals = re.findall(r"Retcode:\d+ STDOUT:.*? STDERR:(.+)", path.read_text(errors="replace"))
        found += [Ending("", "REFUSED", text.strip()) for text in dict.fromkeys(refusals)]
    return found


def block_of(manager: str, folder: Path) -> str:
    """Return the name of the block in which a manager of Parsl's ran; empty if it is not known."""
    found = next((folder / "runinfo").glob(f"*/*/*/{manager}"), None)
    return f"{found.parts[-4]}/{found.parts[-2]}" if found else ""


def _parsl(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / "runinfo").glob(f"*/{pattern}"))


def _states(run: str, jobs: Iterable[str]) -> dict[str, str]:
    """Return the last state of blocks, from the accounting where there is one, else from the queue."""
    listed = ",".join(jobs)
    if not listed:
        return {}
    try:
        text = _ask(
            "sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={listed}"
        )
    except UnavailableError:
        try:
            return _squeue(run, "--states=all")
        except UnavailableError:
            return {}
    return _table(text)


def _squeue(run: str, *options: str) -> dict[str, str]:
    name, user = f"--name={job_name(run)}", f"--user={getpass.getuser()}"
    return _table(_ask("squeue", "--noheader", "--format=%i|%T", name, user, *options))


def _table(text: str) -> dict[str, str]:
    rows = (line.split("|") for line in text.splitlines() if "|" in line)
    # "CANCELLED by 1000"
    return {job.strip(): state.split()[0] for job, state in rows}


def _ask(*command: str) -> str:
    answer = _run(*command)
    if answer.returncode:
        raise _silence(_joined(answer.stderr), command)
    return answer.stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _silence(str(error), command) from error


def _silence(said: str, command: tuple[str, ...]) -> UnavailableError:
    return UnavailableError(
        f"Slurm does not answer: {said}", command[0], "see whether sinfo works on this host"
    )


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match.group(1) if match else ""


def _joined(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines()[:3] if line.strip())


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""

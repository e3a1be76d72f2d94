"""What every bench shares: the machine, its yardstick, the cost of an action, and the file of results."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_TICK = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Row:
    """The runs of one side of one step.

    ``side`` is ``ours`` or the peer's name; times are in seconds.
    """

    step: str
    side: str
    command: str
    runs_cpu_s: list[float] = field(default_factory=list)
    runs_wall_s: list[float] = field(default_factory=list)

    def add(self, cpu: float, wall: float) -> None:
        """Add one run."""
        self.runs_cpu_s.append(round(cpu, 3))
        self.runs_wall_s.append(round(wall, 3))

    @property
    def median_cpu_s(self) -> float:
        """Median of processor time."""
        return statistics.median(self.runs_cpu_s)

    @property
    def median_wall_s(self) -> float:
        """Median of wall time."""
        return statistics.median(self.runs_wall_s)

    def as_dict(self) -> dict[str, Any]:
        """Return the form of the results' file."""
        return vars(self) | {"median_cpu_s": self.median_cpu_s, "median_wall_s": self.median_wall_s}


def ratios(rows: Sequence[Row], by_wall: bool = False) -> dict[str, dict[str, float]]:
    """Return, by step and peer, the peer's median over ours: of processor time, or of wall time."""

    def cost(row: Row) -> float:
        return row.median_wall_s if by_wall else row.median_cpu_s

    ours = {row.step: cost(row) for row in rows if row.side == "ours"}
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.side != "ours" and ours.get(row.step):
            found.setdefault(row.step, {})[row.side] = round(cost(row) / ours[row.step], 2)
    return found


def machine() -> dict[str, Any]:
    """Say what is measured on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory, 1),
        "load": round(os.getloadavg()[0], 2),
    }


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind, so that `cost` sees processes that detach."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def cost[T](action: Callable[[], T]) -> tuple[T, float, float]:
    """Do something and return its result, the processor time of all descendants, and the wall time.

    What this process itself spends is not counted: it is the one that measures.
    """
    spent, began = _processor_time(), time.perf_counter()
    result = action()
    wall = time.perf_counter() - began
    return result, _processor_time() - spent, wall


def run(command: Sequence[str], log: Path, **options: Any) -> int:
    """Run a command line with its output in a file, and return its exit code."""
    with open(log, "ab") as output:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False, **options
        ).returncode


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for the time of the bench."""
    with tempfile.TemporaryDirectory(prefix="tololo-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def debian(program: str, package: str) -> str | None:
    """Return the path of a Debian program, installed first where that may be; None if it cannot be had."""
    if (path := shutil.which(program)) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        path = shutil.which(program)
    return path


def yardstick(runs: int = 5) -> tuple[float | None, str]:
    """Measure `funpack` on one raw CCD: the unit in which times travel between machines.

    Returns
    -------
    seconds : `float` or `None`
        Median processor time; None where there is no funpack.
    how : `str`
        What was unpacked, or why nothing was.

    Notes
    -----
    The CCD is 2160 x 4146 unsigned 16-bit pixels (with overscan) of a sky of 2000 ADU and its noise, with a
    seed, compressed by RICE: whole raw CCDs are not among the small real data.
    """
    if (funpack := debian("funpack", "libcfitsio-bin")) is None:
        return None, "funpack is not there (Debian: libcfitsio-bin)"
    import numpy as np
    from astropy.io import fits

    with scratch() as folder:
        random = np.random.default_rng(1)
        pixels = random.normal(2000.0, 24.0, (4146, 2160)).round().astype(np.uint16)
        hdu = fits.CompImageHDU(pixels, compression_type="RICE_1")
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / "raw.fits.fz")
        times = []
        for number in range(runs):
            command = [funpack, "-O", str(folder / f"{number}.fits"), str(folder / "raw.fits.fz")]
            before = _reaped()
            subprocess.run(command, check=True, capture_output=True)
            times.append(_reaped() - before)
    return round(statistics.median(times), 4), "2160 x 4146 pixels of a simulated sky, RICE, funpack -O"


def write(
    name: str,
    machine: Mapping[str, Any],
    rows: Sequence[Row],
    ratios: Mapping[str, Mapping[str, float]],
    quality: Mapping[str, Any],
) -> Path:
    """Write ``bench/<name>.json`` below the facility's home, beside and then renamed."""
    seconds, how = yardstick()
    result = {
        "name": name,
        "machine": dict(machine),
        "yardstick_funpack_s": seconds,
        "rows": [row.as_dict() for row in rows],
        "ratios": ratios,
        "quality": {**quality, "yardstick": how},
    }
    path = Path(os.environ.get("TOLOLO_HOME") or ROOT / "var") / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(beside, path)
    return path


def table(rows: Sequence[Row], ratios: Mapping[str, Mapping[str, float]]) -> str:
    """Write rows as a text table: median seconds and how many times ours."""
    lines = [("step", "side", "wall s", "cpu s", "times ours")]
    for row in rows:
        times = ratios.get(row.step, {}).get(row.side)
        lines.append(
            (
                row.step,
                row.side,
                f"{row.median_wall_s:.2f}",
                f"{row.median_cpu_s:.2f}",
                "" if times is None else f"{times:.1f}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _processor_time() -> float:
    """Return what all descendants have spent so far, those that are gone included."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    parents: dict[int, int] = {}
    spent: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid] = int(fields[1])
            spent[pid] = sum(map(int, fields[11:15])) / _TICK
    total, ours = _reaped(), os.getpid()
    for pid, seconds in spent.items():
        ancestor = parents[pid]
        while ancestor not in (0, ours):
            ancestor = parents.get(ancestor, 0)
        total += seconds if ancestor == ours else 0.0
    return total


def _reaped() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime

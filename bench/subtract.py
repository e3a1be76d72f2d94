"""Image subtraction, alone and in its chain: `make bench NAME=subtract`.

A simulated pair of 2048 x 4096 pixels is subtracted by both methods, with the exact variance and the noise
whitened, and one full CCD of a simulated night goes the whole way: patches of a template brought to the
detector, subtraction, detection and measurement, forced photometry at 1000 positions, difference image and
template written with compression. Our side is a warm process with the environment of a worker. The yardstick
is `funpack` on one raw CCD, in turn with it; the peer is hotpants, where `HOTPANTS=` names a binary. All
differences of the pair go through the same scorer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measure
import subtract_pair
from night_warm import WarmProcess
from subtract_hotpants import Hotpants
from subtract_ours import CHAIN, SUBTRACT, ZOGY

from tololo.engine.client import job_environment

LIMITS = {SUBTRACT: 6.0, CHAIN: 16.0}
"""Most processor time in units of funpack's on one raw CCD."""


def hotpants(folder: Path, pair: subtract_pair.Pair) -> tuple[Hotpants | None, str]:
    """Return the peer, or why there is none."""
    name = os.environ.get("HOTPANTS", "")
    if not name:
        return None, "left out: HOTPANTS= names no binary"
    if (path := shutil.which(name)) is None:
        return None, f"left out: HOTPANTS={name} is no program"
    return Hotpants(path, folder, pair), path


def in_funpacks(rows: list[measure.Row]) -> dict[str, float]:
    """Return our processor time in units of funpack's, by step."""
    unit = next((row.median_cpu_s for row in rows if row.side == "funpack"), None)
    ours = {row.step: row.median_cpu_s for row in rows if row.side == "ours"}
    return {} if not unit else {step: round(ours[step] / unit, 2) for step in ours}


def main() -> int:
    """Measure, judge, print and write var/bench/subtract.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each side")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    choice = parser.parse_args()
    machine = measure.machine()
    rows: dict[tuple[str, str], measure.Row] = {}
    quality: dict[str, Any] = {}

    def add(step: str, side: str, command: str, cpu: float, wall: float) -> None:
        rows.setdefault((step, side), measure.Row(step, side, command)).add(cpu, wall)

    with measure.scratch() as folder:
        pair = subtract_pair.simulate(choice.seed)
        pair.save(folder / "pair.npz")
        print("simulated the pair; the night and its template come next", flush=True)
        peer, said = hotpants(folder, pair)
        script = str(Path(__file__).with_name("subtract_ours.py"))
        ours = WarmProcess(
            [sys.executable, script, str(folder / "pair.npz"), str(folder / "night")],
            folder / "ours.log",
            job_environment() | {"TOLOLO_HOME": str(folder)},
        )
        try:
            ours.ask()  # kernels are compiled where nobody has used them yet
            for number in range(choice.runs):
                answer = ours.ask()
                for step, (cpu, wall) in answer["steps"].items():
                    add(step, "ours", "in a warm process", cpu, wall)
                seconds, _ = measure.yardstick(1)
                if seconds is not None:
                    for step in LIMITS:
                        add(step, "funpack", "funpack -O, of one raw CCD", seconds, seconds)
                if peer is not None:
                    add(SUBTRACT, "hotpants", *peer.run())
                quality |= {step: {"ours": figures} for step, figures in answer["quality"].items()}
                spent = {step: rows[step, "ours"].runs_cpu_s[-1] for step in (SUBTRACT, ZOGY, CHAIN)}
                print(f"run {number + 1}: {spent}", flush=True)
        finally:
            ours.close()
        quality["hotpants"] = said
        if peer is not None:
            quality[SUBTRACT]["hotpants"] = peer.worth()
    told = list(rows.values())
    quality["times_funpack"] = in_funpacks(told)
    quality["limits_times_funpack"] = LIMITS
    ratios: Mapping[str, Mapping[str, float]] = measure.ratios(told)
    path = measure.write("subtract", machine, told, ratios, quality)
    print(measure.table(told, ratios))
    print(f"in units of funpack: {quality['times_funpack']}")
    for step in (SUBTRACT, ZOGY, CHAIN):
        print(f"{step}: {quality[step]}")
    print(f"hotpants: {quality['hotpants']}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""From a raw CCD to a calibrated one, here and with the field's own programs: `make bench NAME=night`.

One simulated full CCD with masters made of its own night. Our side is the very quantum of `calibrateVisit`,
run as a warm worker of the site `local` runs it, from the fpacked raw to the compressed `visit_image` and its
tables. The peers are funpack, ccdproc, astroscrappy, source-extractor, psfex, scamp and fpack with the same
masters and reference stars; what is not there is installed (Debian packages where that may be, PyPI's into an
environment that goes away with the bench), or left out and named. Sides take turns; what counts is the
processor time of one thread. Both results are held against the truth.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
import night_limits
import night_ours as ours
from night_field import Field, prepare
from night_peers import CHAIN, MATCHED, Peers
from night_scores import Scores, Truth, score_ours, score_peers
from night_warm import WarmProcess

from tololo.engine.client import job_environment

WHOLE, STARS = "raw to visit_image", "detection and photometry"
OURS, THEIRS = "ours", " + ".join(name for name in CHAIN if name != "astropy.io.fits")

COMPARED = {
    "funpack": ours.READ_RAW,
    "ccdproc": ours.ISR,
    "astroscrappy": ours.COSMIC_RAYS,
    "source-extractor": STARS,
    MATCHED: STARS,
    "psfex": ours.PSF,
    "scamp": ours.ASTROMETRY,
    "fpack": ours.WRITE,
    "astropy.io.fits": "files between programs",
}
"""Which step of ours does what a peer does."""

SCORED = {
    "stars": STARS,
    "psf": ours.PSF,
    "astrometry": ours.ASTROMETRY,
    "rays": ours.COSMIC_RAYS,
    "isr": ours.ISR,
    "write": ours.WRITE,
}
PARTS = (ours.BACKGROUND, ours.DETECTION, ours.PHOTOMETRY)
"""Steps that source-extractor does in one."""

type Spent = dict[str, tuple[float, float]]
"""Processor and wall seconds by step or peer."""


class Ours:
    """The warm process that runs our quantum."""

    def __init__(self, field: Field, folder: Path) -> None:
        folder.mkdir()
        self._log = folder / "quantum.log"
        script = str(Path(__file__).with_name("night_ours.py"))
        self._process = WarmProcess(
            [sys.executable, script, field.command, str(field.outputs), str(self._log)],
            folder / "worker.log",
            job_environment() | {"TOLOLO_HOME": str(folder)},
        )

    def run(self) -> Spent:
        """Run it once and return what each step took, and the whole."""
        answer = self._process.ask()
        if answer["exit"]:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"The quantum has ended with {answer['exit']}:\n{tail}")
        spent: Spent = {step: (cpu, wall) for step, (cpu, wall) in answer["steps"].items()}
        spent[STARS] = _sum([spent[step] for step in PARTS if step in spent])
        return {WHOLE: (answer["whole"][0], answer["whole"][1])} | spent

    def close(self) -> None:
        """End it."""
        self._process.close()


def compare(mine: Ours, peers: Peers, runs: int) -> list[measure.Row]:
    """Let both sides reduce the raw in turn, and return the rows of every step."""
    rows: dict[tuple[str, str], measure.Row] = {}

    def add(step: str, side: str, command: str, spent: tuple[float, float]) -> None:
        rows.setdefault((step, side), measure.Row(step, side, command)).add(*spent)

    mine.run()  # kernels are compiled where nobody has used them yet
    for number in range(runs):
        for step, spent in mine.run().items():
            add(step, OURS, "pipetask run-qbb, in a warm worker" if step == WHOLE else "a part of it", spent)
        theirs: Spent = {}
        for name, cpu, wall in peers.run():
            theirs[name] = cpu, wall
            add(COMPARED[name], name, peers.command(name), theirs[name])
        if all(name in theirs for name in CHAIN):
            add(WHOLE, THEIRS, "one after the other", _sum([theirs[name] for name in CHAIN]))
        told = [f"{side} {row.runs_cpu_s[-1]:.2f} s" for (step, side), row in rows.items() if step == WHOLE]
        print(f"run {number + 1}: {', '.join(told)}", flush=True)
    order = list(dict.fromkeys(step for step, _ in rows))
    whole = [row for row in rows.values() if len(row.runs_cpu_s) == runs]  # else it has failed once
    return sorted(whole, key=lambda row: order.index(row.step))


def quality_of(
    mine: Scores,
    theirs: Mapping[str, Scores],
    limits: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return figures by step and side, with the limits of our steps among them."""
    quality: dict[str, dict[str, Any]] = defaultdict(dict)
    for side, scores in ({OURS: mine} | dict(theirs)).items():
        for step, figures in scores.items():
            quality[step][side] = dict(figures)
    for step, bound in limits.items():
        quality[step].setdefault(OURS, {}).update(bound)
    return dict(quality)


def _sum(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(cpu for cpu, _ in parts), sum(wall for _, wall in parts)


def main() -> int:
    """Measure, judge, print and write var/bench/night.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    parser.add_argument("--seeing", type=float, default=1.2, help="arcsec")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    choice = parser.parse_args()
    machine = measure.machine()
    with measure.scratch() as folder:
        field = prepare(folder, choice.seeing, choice.seed)
        print(f"simulated: seeing {field.fwhm:.2f} pixels; masters made, graph built", flush=True)
        peers, mine = Peers(folder / "peers", field), Ours(field, folder / "ours")
        try:
            rows = compare(mine, peers, choice.runs)
            peers.more()
        finally:
            peers.close()
            mine.close()
        truth = Truth.of(field)
        spent = {row.step: row.median_cpu_s for row in rows if row.side == OURS}
        funpack = next((row.median_cpu_s for row in rows if row.side == "funpack"), None)
        speed = night_limits.bandwidth()
        quality: dict[str, Any] = quality_of(
            score_ours(truth, SCORED),
            score_peers(truth, peers.folder, SCORED),
            night_limits.distances(night_limits.limits(speed, funpack), spent),
        )
        quality |= {
            "memory_copy_gb_per_s": round(speed / 1e9, 1),
            "left_out": peers.left_out,
            "workload": {
                "seeing_pixels": round(field.fwhm, 2),
                "stars": len(truth.stars.x),
                "cosmic_ray_pixels": int((truth.charge > 0).sum()),
                "reference_stars": int(truth.possible.sum()),
            },
        }
    ratios = measure.ratios(rows)
    path = measure.write("night", machine, rows, ratios, quality)
    print(measure.table(rows, ratios))
    print(json.dumps(quality, indent=1))
    for name, why in peers.left_out.items():
        print(f"{name} is left out: {why}")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What it costs to clean raw pixels, here and with ccdproc and astroscrappy: `make bench NAME=isr`.

One simulated full CCD with its true bias, flat and cosmic rays goes to both sides. Every side is warm: what
is counted is the work on the pixels, neither start nor compilation. The peers get an environment of their
own, which goes away with the bench.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
from numpy.typing import NDArray

from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawDetector, read_raw
from tololo.reduction.isr import correct
from tololo.reduction.kernels.cosmic_rays import find_cosmic_rays
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_truth import RawTruth

DETECTOR, NIGHT = 28, 20190305
PEERS = ("astroscrappy==1.3.0", "ccdproc==2.5.1")
ISR, COSMIC_RAYS = "overscan, bias, gain, flat, variance, mask", "cosmic rays"


def make_environment(folder: Path) -> Path:
    """Install the peers; return their Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)
    return python


def expose(folder: Path, rate: float) -> tuple[RawDetector, RawTruth, int]:
    """Simulate one exposure of one CCD; return its raw, the truth and the visit."""
    night = RawNight(NIGHT, zeros=0, flats=0, objects=1)
    plan = RawPlan(nights=(night,), detectors=(DETECTOR,), cosmic_rays=rate, trails=0.0)
    truth = simulate_raw_nights(folder, plan, 1)
    (path,) = (folder / "exposures").rglob("*ori*.fz")
    return read_raw(path, DETECTOR), truth, int(truth.exposures["visit"][0])


def measured(row: measure.Row, runs: int, prepare: Callable[[], Any], action: Callable[[Any], Any]) -> Any:
    """Do something once for nothing and then several times on fresh input; return the last result."""
    result = action(prepare())
    for _ in range(runs):
        given = prepare()
        cpu, wall = time.process_time(), time.perf_counter()
        result = action(given)
        row.add(time.process_time() - cpu, time.perf_counter() - wall)
    return result


def copy_of(planes: Planes) -> Planes:
    """Copy planes, since cosmic rays are removed in place."""
    return Planes(planes.image.copy(), planes.variance.copy(), planes.bits.copy())


def score(
    mask: NDArray[np.bool_], charge: NDArray[np.float32], noise: float, good: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return recall by pixel, above 5 sigma of the sky and above 300 e-, and how many are false."""
    return {
        "recall_5_sigma": round(float(mask[good & (charge > 5 * noise)].mean()), 4),
        "recall_300_e": round(float(mask[good & (charge > max(300.0, 5 * noise))].mean()), 4),
        "false_pixels": int((mask & good & (charge == 0)).sum()),
    }


def main() -> None:
    """Run the bench and write its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=300.0, help="cosmic rays, in the simulation's unit")
    options = parser.parse_args()
    machine = measure.machine()
    with measure.scratch() as folder:
        raw, truth, visit = expose(folder / "night", options.rate)
        frames = truth.frames(DETECTOR)
        bias, flat = frames.bias.astype(np.float32), frames.flats["r"].astype(np.float32)
        fwhm = float(truth.psf(visit, DETECTOR).fwhm[0])
        isr = measure.Row(ISR, "ours", "tololo.reduction.isr.correct")
        reused = correct(raw).planes
        planes = measured(
            isr,
            options.runs,
            lambda: None,
            lambda _: correct(raw, bias=bias, flat=flat, defects=frames.defects, out=reused),
        ).planes
        rays = measure.Row(COSMIC_RAYS, "ours", "tololo.reduction.kernels.cosmic_rays.find_cosmic_rays")

        def remove(given: Planes) -> Planes:
            find_cosmic_rays(given.image, given.variance, given.bits, fwhm)
            return given

        cleaned = measured(rays, options.runs, lambda: copy_of(planes), remove)
        bad = planes.bad
        a = raw.amplifiers
        np.savez(
            folder / "arrays.npz",
            raw=raw.pixels,
            bias=bias,
            flat=flat,
            image=planes.image,
            bad=bad,
            saturation=min(amplifier.saturation * amplifier.gain for amplifier in a),
            amplifiers=[(amplifier.gain, amplifier.read_noise) for amplifier in a],
            sections=[
                (
                    amplifier.data[0].start,
                    amplifier.data[1].start,
                    amplifier.data[1].stop,
                    amplifier.overscan[1].start,
                    amplifier.overscan[1].stop,
                    amplifier.target[1].start,
                )
                for amplifier in a
            ],
        )
        python = make_environment(folder / "peers")
        script = Path(__file__).with_name("isr_peers.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([python, script, folder, str(options.runs)], check=True, env=environment)
        times = json.loads((folder / "peers.json").read_text())
        ccdproc = measure.Row(ISR, "ccdproc", "subtract_overscan, subtract_bias, gain_correct, flat_correct")
        peers = [measure.Row(COSMIC_RAYS, f"astroscrappy {n}", f"detect_cosmics niter={n}") for n in (1, 4)]
        for row in (ccdproc, *peers):
            for cpu, wall in times[row.side]:
                row.add(cpu, wall)
        events = truth.events(visit, DETECTOR)
        charge = np.zeros(raw.shape, np.float32)
        charge[tuple(events.cosmic_rays.T)] = events.charge
        noise = float(np.sqrt(np.median(planes.variance)))
        with np.load(folder / "peers.npz") as found:
            quality = {
                "fwhm_px": round(fwhm, 2),
                "cosmic_rays": {
                    "ours": score((cleaned.bits & BIT["COSMIC_RAY"]) != 0, charge, noise, ~bad),
                    **{f"astroscrappy {n}": score(found[f"mask{n}"], charge, noise, ~bad) for n in (1, 4)},
                },
                "image_against_ccdproc_in_sigma": round(
                    float(np.median(np.abs(found["image"] - planes.image)[~bad])) / noise, 4
                ),
            }
    rows = [isr, ccdproc, rays, *peers]
    ratios = measure.ratios(rows)
    print(measure.table(rows, ratios))
    print(json.dumps(quality, indent=1))
    print(measure.write("isr", machine, rows, ratios, quality))


if __name__ == "__main__":
    main()

"""Photometry of a dataset's frames: `make bench NAME=timeseries`.

One simulated frame of 2048 x 2048 pixels with 2000 stars on it is read, placed on them, and measured: by us
as a reduction does it with each new frame, and by the published steps of the pipeline that the datasets come
from, with its libraries' plain calls, star by star (`timeseries_seed`). The two are taken in turn in one warm
process. Then whole datasets of 5 and of 50 frames are reduced in processes of their own: what they take of
memory at most must not grow with the number of frames.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import timeseries_seed
import yaml
from astropy.io import fits
from astropy.time import Time

from tololo.facility.dataset_config import read_dataset_config
from tololo.reduction.timeseries.dataset import measure_frame, reduce_dataset
from tololo.reduction.timeseries.frames import read_frame
from tololo.reduction.timeseries.measurements import read
from tololo.reduction.timeseries.stars import find_stars, read_reference
from tololo.simulation.timeseries import SeriesPlan, SeriesTruth, simulate_series

STEP = "a frame of 2048 x 2048 pixels with 2000 stars"
TIMES = 5.0
"""So many times faster than the peer we have to be."""

APERTURE = 2.0
PLAN = SeriesPlan(
    n_frames=1, shape=(2048, 2048), n_stars=4500, clouds={}, variables=0, faintest=18.5, alone=12.0
)
SMALL = SeriesPlan(n_frames=1, shape=(1024, 1024), n_stars=1100, clouds={}, variables=0, faintest=18.5)
MEMORY = (5, 50)
"""Frames of the datasets whose memory is measured."""


def configure(truth: SeriesTruth, plan: SeriesPlan) -> None:
    """Write the configuration of a dataset."""
    content = {
        "target": {"name": plan.target, "RA": str(plan.ra), "Dec": str(plan.dec)},
        "photometry": {"aperture_arcsec": APERTURE, "reference_catalog": str(truth.reference)},
    }
    (truth.folder / "reduction_config.yaml").write_text(yaml.safe_dump(content))


def spent[T](action: Callable[[], T]) -> tuple[T, float, float]:
    """Do something; return its result, and the processor and wall time of this process, s."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = action()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def quality(flux: np.ndarray, truth: SeriesTruth, rows: np.ndarray) -> dict[str, Any]:
    """Return how well true magnitudes come out: robust scatter about their median, mmag, by brightness."""
    found = {}
    stars = truth.stars[rows]
    for low, high in ((12.5, 15.0), (15.0, 16.0), (16.0, 17.0)):
        part = (stars["mag"] >= low) & (stars["mag"] < high) & np.isfinite(flux) & (flux > 0)
        color = 0.05 * (stars["color"][part] - 1.2)
        off = -2.5 * np.log10(flux[part]) - stars["mag"][part] + color
        spread = 1.4826 * np.median(np.abs(off - np.median(off)))
        found[f"{low:g} to {high:g} mag"] = round(1000 * float(spread), 2)
    return found


def side_by_side(folder: Path, runs: int) -> tuple[list[measure.Row], dict[str, Any]]:
    """Measure one frame by both sides in turn."""
    truth = simulate_series(folder / "one", PLAN)
    configure(truth, PLAN)
    path = next(truth.folder.glob("*.fits"))
    config = read_dataset_config(truth.folder)
    reference = read_reference(truth.reference, PLAN.filter)
    stars = find_stars(read_frame(path), PLAN.ra, PLAN.dec, reference)
    radius = APERTURE / 0.389
    ours = measure.Row(STEP, "ours", "measure_frame, as a reduction does it with each new frame")
    peer = measure.Row(STEP, "published steps", "astropy and photutils, star by star")
    measure_frame(truth.folder, config, stars, path)  # kernels are loaded
    flux = np.empty(0)
    for number in range(runs):
        _, cpu, wall = spent(lambda: measure_frame(truth.folder, config, stars, path))
        ours.add(cpu, wall)
        flux, cpu, wall = spent(
            lambda: timeseries_seed.reduce_frame(path, stars.ra, stars.dec, radius, folder / "flux.parquet")
        )
        peer.add(cpu, wall)
        print(f"run {number + 1}: ours {ours.runs_cpu_s[-1]} s, peer {peer.runs_cpu_s[-1]} s", flush=True)
    scale = np.cos(np.radians(PLAN.dec))
    rows = np.array(
        [
            int(np.argmin(np.hypot((truth.stars["ra"] - ra) * scale, truth.stars["dec"] - dec)))
            for ra, dec in zip(stars.ra, stars.dec, strict=True)
        ]
    )
    own = read(truth.folder, path).stars
    mine = np.where(own["flags"] == 0, own["flux"], np.nan)
    return [ours, peer], {
        "stars_on_the_frame": int(np.isfinite(flux).sum()),
        "scatter_mmag": {
            "ours": quality(mine, truth, rows),
            "published steps": quality(np.where(own["flags"] == 0, flux, np.nan), truth, rows),
        },
    }


def many_frames(folder: Path, number: int) -> Path:
    """Make a dataset of frames that differ in their times, and return its folder."""
    truth = simulate_series(folder / f"many-{number}", SMALL)
    configure(truth, SMALL)
    first = next(truth.folder.glob("*.fits"))
    begin = Time(fits.getval(first, "DATE-OBS", "SCI"), scale="utc")
    for n in range(1, number):
        path = first.with_name(f"{first.stem}-{n:03d}.fits")
        shutil.copy(first, path)
        fits.setval(path, "DATE-OBS", value=str((begin + n / 24).isot), extname="SCI")
    return truth.folder


def peak_memory(folder: Path) -> float:
    """Reduce a dataset in a process of its own, and return what that took at most, MB."""
    script = str(Path(__file__))
    run = subprocess.run(
        [sys.executable, script, "--reduce", str(folder)], check=True, stdout=subprocess.PIPE
    )
    return float(run.stdout.decode().split()[-1])


def main() -> int:
    """Measure, judge, print and write var/bench/timeseries.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each side")
    parser.add_argument("--reduce", type=Path, help="reduce this dataset and print the peak memory, MB")
    choice = parser.parse_args()
    if choice.reduce:
        reduce_dataset(choice.reduce)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    machine = measure.machine()
    with measure.scratch() as folder:
        rows, found = side_by_side(folder, choice.runs)
        memory = {}
        for number in MEMORY:
            dataset = many_frames(folder, number)
            memory[str(number)] = round(peak_memory(dataset), 1)
            shutil.rmtree(dataset)
    found["peak_memory_mb_by_frames"] = memory
    found["peak_memory_grows_by"] = round(memory[str(MEMORY[1])] / memory[str(MEMORY[0])], 3)
    ratios = measure.ratios(rows)
    found["times_needed"] = TIMES
    found["fast_enough"] = ratios[STEP]["published steps"] >= TIMES
    path = measure.write("timeseries", machine, rows, ratios, found)
    print(measure.table(rows, ratios))
    for name, value in found.items():
        print(f"{name}: {value}")
    print(path)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())

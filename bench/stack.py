"""What a clipped mean of 20 planes costs, against ccdproc (sigma clipping and average).

Both sides have the planes in memory; ours also has variance and mask of every pixel, which it propagates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
from night_peers import make_environment
from night_warm import WarmProcess
from numpy.typing import NDArray

from tololo.reduction.kernels.stack import Stacked, stack

N, SHAPE = 20, (4096, 2048)
SMALLEST, LARGEST = 20.0, 1000.0
"""Artefacts, in units of the noise."""

SIGMAS = 3.0
"""Of ccdproc's clipping: above 4.2 no outlier of 20 can be so far from the others in their own scatter."""

STEP, PEER = "clipped mean of 20 planes", "ccdproc"


def simulate(path: Path, n: int, shape: tuple[int, int], seed: int) -> NDArray[np.bool_]:
    """Write planes of unit noise on slopes, each with artefacts; return where there is any."""
    random = np.random.default_rng(seed)
    planes = np.lib.format.open_memmap(path, "w+", np.float32, (n, *shape))
    slope = np.linspace(-5, 5, shape[1], dtype=np.float32)
    anywhere = np.zeros(shape, bool)
    for plane in planes:
        plane[:] = random.standard_normal(shape, np.float32) + slope
        hit = random.random(shape, np.float32) < 1e-3
        plane[hit] += random.uniform(SMALLEST, LARGEST, int(hit.sum())).astype(np.float32)
        anywhere |= hit
    planes.flush()
    return anywhere


def ours(planes: NDArray[np.float32], variances: NDArray[np.float32], masks: NDArray[np.int32]) -> Stacked:
    """Combine as the task that makes templates does."""
    return stack(planes, variances, masks, None, "meanclip", clipped_bit=1)


def quality(mean: NDArray[np.float32], n: int, hit: NDArray[np.bool_]) -> dict[str, float]:
    """Compare a mean with what it should be, in units of its noise."""
    slope = np.linspace(-5, 5, mean.shape[1], dtype=np.float32)
    pull = (mean - slope) * np.sqrt(n)
    return {
        "scatter_over_expected": round(float(pull[~hit].std()), 4),
        "mean_at_artefacts": round(float(pull[hit].mean()), 4),
        "largest_at_artefacts": round(float(pull[hit].max()), 2),
        "bias": round(float(pull[~hit].mean()), 5),
    }


def peer(folder: Path, planes: Path) -> tuple[WarmProcess | None, str]:
    """Start ccdproc, or say why it cannot be had."""
    try:
        python = make_environment(folder / "environment")
    except subprocess.CalledProcessError as error:
        return (
            None,
            f"it cannot be installed from PyPI: {error.stderr.decode(errors='replace').strip()[-300:]}",
        )
    script = str(Path(__file__).with_name("stack_ccdproc.py"))
    command = [str(python), script, str(planes), str(folder / "ccdproc.npy"), str(SIGMAS)]
    return WarmProcess(command, folder / "ccdproc.log", {**os.environ, "OMP_NUM_THREADS": "1"}), ""


def main() -> int:
    """Measure, compare, print and write var/bench/stack.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    choice = parser.parse_args()
    machine = measure.machine()
    mine = measure.Row(STEP, "ours", "tololo.reduction.kernels.stack.stack(..., 'meanclip')")
    theirs = measure.Row(
        STEP, PEER, f"Combiner.sigma_clipping({SIGMAS}, {SIGMAS}, median, std), average_combine"
    )
    figures: dict[str, Any] = {"planes": N, "shape": list(SHAPE)}
    with measure.scratch() as folder:
        path = folder / "planes.npy"
        hit = simulate(path, N, SHAPE, choice.seed)
        planes = np.load(path)
        variances, masks = np.ones(planes.shape, np.float32), np.zeros(planes.shape, np.int32)
        few = [np.ascontiguousarray(plane[:, :64]) for plane in (planes, variances, masks)]
        ours(*few)  # compiled where nobody has used it yet
        process, why = peer(folder, path)
        for _ in range(choice.runs):
            began = time.process_time(), time.perf_counter()
            result = ours(planes, variances, masks)
            mine.add(time.process_time() - began[0], time.perf_counter() - began[1])
            if process:
                spent = process.ask()
                theirs.add(spent["cpu"], spent["wall"])
        figures["ours"] = quality(result.image, N, hit)
        if process:
            process.close()
            mean = np.load(folder / "ccdproc.npy")
            figures[PEER] = quality(mean, N, hit)
            whole = (result.n_used == N) & ~hit
            figures["difference_rms_over_noise"] = round(
                float((result.image - mean)[whole].std() * np.sqrt(N)), 4
            )
        else:
            figures["left_out"] = {PEER: why}
    rows = [mine, theirs] if theirs.runs_cpu_s else [mine]
    ratios = measure.ratios(rows)
    path = measure.write("stack", machine, rows, ratios, figures)
    print(measure.table(rows, ratios))
    print(json.dumps(figures, indent=1))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The peers' side of `make bench NAME=isr`, run by the Python of their own environment.

It reads the same pixels from a file of arrays, does each step several times, and writes results and seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import astroscrappy  # type: ignore[import-not-found]
import ccdproc  # type: ignore[import-not-found]
import numpy as np
from astropy import units as u
from astropy.nddata import CCDData


def timed[T](action: Callable[[], T], runs: int) -> tuple[T, list[list[float]]]:
    """Do something several times; return its result and (processor, wall) seconds of each run."""
    times = []
    for _ in range(runs):
        cpu, wall = time.process_time(), time.perf_counter()
        result = action()
        times.append([time.process_time() - cpu, time.perf_counter() - wall])
    return result, times


def reduce(arrays: dict[str, Any]) -> tuple[Any, Any]:
    """Remove overscan, bias, gain and flat with ccdproc; return image and uncertainty (e-)."""
    shape = arrays["bias"].shape
    image, error = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for k in range(2):
        rows, first, last, bias_first, bias_last, target = (int(v) for v in arrays["sections"][k])
        gain, read_noise = (float(v) for v in arrays["amplifiers"][k])
        part = arrays["raw"][rows : rows + shape[0]].astype(np.float32)
        data = CCDData(part[:, first:last], unit=u.adu)
        overscan = CCDData(part[:, bias_first:bias_last], unit=u.adu)
        on = np.s_[:, target : target + last - first]
        data = ccdproc.subtract_overscan(data, overscan=overscan, overscan_axis=1, median=True)
        data = ccdproc.subtract_bias(data, CCDData(arrays["bias"][on], unit=u.adu))
        data = ccdproc.gain_correct(data, gain * u.electron / u.adu)
        data = ccdproc.create_deviation(data, readnoise=read_noise * u.electron, disregard_nan=True)
        data = ccdproc.flat_correct(data, CCDData(arrays["flat"][on], unit=u.one), norm_value=1.0)
        image[on], error[on] = data.data, data.uncertainty.array
    return image, error


def main(folder: Path, runs: int) -> None:
    """Do all steps on ``arrays.npz``; write ``peers.npz`` and ``peers.json``."""
    with np.load(folder / "arrays.npz") as stored:
        arrays = dict(stored)
    (image, _), isr = timed(lambda: reduce(arrays), runs)
    times = {"ccdproc": isr}
    masks = {}
    for iterations in (1, 4):
        detect = partial(
            astroscrappy.detect_cosmics,
            arrays["image"],
            gain=1.0,
            readnoise=float(arrays["amplifiers"][:, 1].mean()),
            satlevel=float(arrays["saturation"]),
            inmask=arrays["bad"],
            niter=iterations,
        )
        (mask, _), seconds = timed(detect, max(1, runs // 2))
        times[f"astroscrappy {iterations}"] = seconds
        masks[f"mask{iterations}"] = mask
    np.savez(folder / "peers.npz", image=image, **masks)
    (folder / "peers.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

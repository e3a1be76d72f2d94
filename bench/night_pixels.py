"""The peers' ISR and cosmic rays of `make bench NAME=night`, a warm process in their own environment.

For each line on its input it reads ``raw.fits`` in its folder, takes the instrument's signature off with
ccdproc and cosmic rays out with astroscrappy, writes ``image.fits``, ``weight.fits`` and ``mask.fits``, and
answers with a line of JSON: processor and wall seconds of each step.
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
from astropy.io import fits
from astropy.nddata import CCDData

ITERATIONS = 4


def timed[T](spent: dict[str, list[float]], step: str, action: Callable[[], T]) -> T:
    """Do something, and note its (processor, wall) seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = action()
    spent[step] = [time.process_time() - cpu, time.perf_counter() - wall]
    return result


def reduce(raw: Any, arrays: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Remove overscan, bias, gain and flat; return image and uncertainty (e-), and bad pixels."""
    shape = arrays["bias"].shape
    image, error = np.empty(shape, np.float32), np.empty(shape, np.float32)
    bad = arrays["defects"].copy()
    for k in range(2):
        rows, columns, beside, target = (
            slice(*arrays[name][k]) for name in ("rows", "columns", "overscan", "target")
        )
        gain, read_noise, saturation = (float(value) for value in arrays["amplifiers"][k])
        on = np.s_[:, target]
        part = raw[rows, columns].astype(np.float32)
        bad[on] |= part >= saturation
        data = CCDData(part, unit=u.adu)
        overscan = CCDData(raw[rows, beside].astype(np.float32), unit=u.adu)
        data = ccdproc.subtract_overscan(data, overscan=overscan, overscan_axis=1, median=True)
        data = ccdproc.subtract_bias(data, CCDData(arrays["bias"][on], unit=u.adu))
        data = ccdproc.gain_correct(data, gain * u.electron / u.adu)
        data = ccdproc.create_deviation(data, readnoise=read_noise * u.electron, disregard_nan=True)
        data = ccdproc.flat_correct(data, CCDData(arrays["flat"][on], unit=u.one), norm_value=1.0)
        image[on], error[on] = data.data, data.uncertainty.array
    return image, error, bad


def write(folder: Path, header: fits.Header, image: Any, error: Any, bad: Any, struck: Any) -> None:
    """Write what source-extractor reads and fpack compresses."""
    weight = np.where(bad, np.float32(0), 1 / np.square(error)).astype(np.float32)
    mask = bad.astype(np.uint8) + 2 * struck.astype(np.uint8)
    for name, plane in (("image", image), ("weight", weight), ("mask", mask)):
        fits.PrimaryHDU(plane, header).writeto(folder / f"{name}.fits", overwrite=True)


def main(folder: Path) -> None:
    """Do all steps once for each line of input."""
    with np.load(folder / "arrays.npz") as stored:
        arrays = dict(stored)
    header = fits.Header.fromtextfile(folder / "header.txt")
    for _ in sys.stdin:
        spent: dict[str, list[float]] = {}
        raw = timed(spent, "files", partial(fits.getdata, folder / "raw.fits", -1, memmap=False))
        read = spent.pop("files")
        image, error, bad = timed(spent, "ISR", partial(reduce, raw, arrays))
        detect = partial(
            astroscrappy.detect_cosmics,
            image,
            inmask=bad,
            gain=1.0,
            readnoise=float(arrays["amplifiers"][:, 1].mean()),
            satlevel=float(arrays["saturation"]),
            niter=ITERATIONS,
            sepmed=True,
        )
        struck, cleaned = timed(spent, "cosmic rays", detect)
        timed(spent, "files", partial(write, folder, header, cleaned, error, bad, struck))
        spent["files"] = [a + b for a, b in zip(read, spent["files"], strict=True)]
        np.save(folder / "isr.npy", image)
        sys.stdout.write(json.dumps(spent) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

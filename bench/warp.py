"""What resampling a CCD costs: image and variance by Lanczos 3, against SWarp with image and weight.

Both sides read the same two FITS files (2046 x 4094 pixels with a TPV distortion), resample them onto the
same tangent plane and write two FITS files, on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.reduction.kernels.warp import STEP, grid_of, warp
from tololo.simulation.sky import CCDS, CD

SHAPE = (4094, 2046)
OUTPUT = (2200, 4200)
SKY_NOISE = 20.0
BORDER = 12
"""Pixels at the edges that are not compared."""

SWARP = (
    "image.fits -c /dev/null -IMAGEOUT_NAME swarp.fits -WEIGHTOUT_NAME swarp.weight.fits "
    "-WEIGHT_TYPE MAP_WEIGHT -WEIGHT_IMAGE weight.fits -RESAMPLING_TYPE LANCZOS3 -SUBTRACT_BACK N -COMBINE N "
    "-NTHREADS 1 -FSCALASTRO_TYPE NONE -WRITE_XML N -VERBOSE_TYPE QUIET -DELETE_TMPFILES N "
    "-CENTER_TYPE MANUAL -CENTER {ra:.8f},{dec:.8f} -PIXELSCALE_TYPE MANUAL -PIXEL_SCALE 0.263 "
    "-IMAGE_SIZE {nx},{ny} -PROJECTION_TYPE TAN"
)
RESAMPLED = "image.resamp.fits", "image.resamp.weight.fits"
KERNEL, WHOLE = "resample image and variance", "read, resample, write"


def input_wcs() -> WCS:
    """Return the WCS of a real CCD, TPV terms and all."""
    ccd = CCDS[28]
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CRVAL1"], header["CRVAL2"] = 150.0, -20.0
    header["CRPIX1"], header["CRPIX2"] = ccd.crpix
    for i in (1, 2):
        for j in (1, 2):
            header[f"CD{i}_{j}"] = CD[i - 1][j - 1]
    for axis, terms in ((1, ccd.pv1), (2, ccd.pv2)):
        for number, term in enumerate(terms):
            header[f"PV{axis}_{number}"] = term
    return WCS(header)


def simulate(folder: Path, seed: int) -> WCS:
    """Write stars on a sky with noise, and its weight map; return the WCS."""
    random, wcs = np.random.default_rng(seed), input_wcs()
    image = random.normal(0.0, SKY_NOISE, SHAPE)
    half, sigma = 15, 1.7
    offset = np.arange(-half, half + 1)
    for x, y, flux in zip(
        random.uniform(20, SHAPE[1] - 20, 3000),
        random.uniform(20, SHAPE[0] - 20, 3000),
        SKY_NOISE * 10 ** random.uniform(1, 4, 3000),
        strict=True,
    ):
        ix, iy = round(x), round(y)
        gx, gy = (np.exp(-0.5 * ((offset - d) / sigma) ** 2) for d in (x - ix, y - iy))
        image[iy - half : iy + half + 1, ix - half : ix + half + 1] += (
            flux * np.outer(gy, gx) / (2 * np.pi * sigma**2)
        )
    header = wcs.to_header(relax=True)
    for name, plane in (("image", image), ("weight", np.full(SHAPE, SKY_NOISE**-2))):
        fits.PrimaryHDU(plane.astype(np.float32), header).writeto(folder / f"{name}.fits")
    return wcs


def ours(folder: Path, source: WCS, target: WCS, shape: tuple[int, int]) -> tuple[float, float]:
    """Read, resample, write; return the processor time of the resampling, and of all."""
    began = time.process_time()
    image, weight = (fits.getdata(folder / f"{name}.fits").astype(np.float32) for name in ("image", "weight"))
    with np.errstate(divide="ignore"):
        variance = np.float32(1) / weight
    resampling = time.process_time()

    def transform(x: NDArray[np.float64], y: NDArray[np.float64]) -> Any:
        return source.all_world2pix(*target.all_pix2world(x, y, 0), 0)

    grid = grid_of(transform, shape)
    bits = np.zeros(image.shape, np.int32)
    result = warp(image, variance, bits, bits != 0, *grid, STEP, shape)
    resampled = time.process_time()
    header = target.to_header()
    for name, plane in (("ours", result.image), ("ours.variance", result.variance)):
        fits.PrimaryHDU(plane, header).writeto(folder / f"{name}.fits", overwrite=True)
    return resampled - resampling, time.process_time() - began


def agreement(folder: Path) -> dict[str, float]:
    """Compare pixels and variances where both sides have whole kernels."""
    theirs, mine = fits.getdata(folder / RESAMPLED[0]), fits.getdata(folder / "ours.fits")
    weight, variance = fits.getdata(folder / RESAMPLED[1]), fits.getdata(folder / "ours.variance.fits")
    inside = np.isfinite(mine) & (weight > 0)
    rows, columns = np.nonzero(inside)
    box = np.s_[rows.min() + BORDER : rows.max() - BORDER, columns.min() + BORDER : columns.max() - BORDER]
    inside = inside[box]
    difference = (mine[box] - theirs[box])[inside]
    bright = np.abs(theirs[box][inside]) > 20 * SKY_NOISE
    return {
        "pixels": int(inside.sum()),
        "difference_rms_over_noise": round(float(difference.std() / SKY_NOISE), 5),
        "difference_99.9_percent_over_noise": round(
            float(np.quantile(np.abs(difference), 0.999) / SKY_NOISE), 4
        ),
        "difference_of_bright_pixels_rms": round(
            float(np.std(difference[bright] / theirs[box][inside][bright])), 5
        ),
        "ours_scatter_over_expected": round(scatter(mine[box], variance[box]), 4),
        "swarp_scatter_over_expected": round(scatter(theirs[box], 1 / weight[box]), 4),
    }


def scatter(image: NDArray[np.float32], variance: NDArray[np.float32]) -> float:
    """Return the robust scatter of pixels in units of the noise that they are said to have."""
    pull = (image / np.sqrt(variance))[np.isfinite(image)]
    return float(1.4826 * np.median(np.abs(pull - np.median(pull))))


def timed[T](action: Callable[[], T]) -> tuple[T, float]:
    """Do something and return its result and the wall time."""
    began = time.perf_counter()
    result = action()
    return result, time.perf_counter() - began


def main() -> int:
    """Measure, compare, print and write var/bench/warp.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each side")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    choice = parser.parse_args()
    machine = measure.machine()
    kernel = measure.Row(KERNEL, "ours", "tololo.reduction.kernels.warp: grid_of and warp")
    whole = measure.Row(WHOLE, "ours", "astropy.io.fits and the same")
    rows, quality = [kernel, whole], {}
    with measure.scratch() as folder:
        source = simulate(folder, choice.seed)
        middle = source.all_pix2world(SHAPE[1] / 2, SHAPE[0] / 2, 0)
        swarp = measure.debian("SWarp", "swarp")
        command = SWARP.format(ra=middle[0], dec=middle[1], nx=OUTPUT[1], ny=OUTPUT[0])
        peers = [measure.Row(step, "SWarp", f"SWarp {command}") for step in (KERNEL, WHOLE)]
        target, shape = output_of(*(float(value) for value in middle)), OUTPUT
        if swarp:
            rows += peers
            log = folder / "swarp.log"
            if measure.run([swarp, *command.split()], log, cwd=folder):
                raise RuntimeError(f"SWarp has failed:\n{log.read_text(errors='replace')}")
            header = fits.getheader(folder / RESAMPLED[0])
            target, shape = WCS(header), (header["NAXIS2"], header["NAXIS1"])
        ours(folder, source, target, shape)  # compiled where nobody has used it yet
        for _ in range(choice.runs):
            (part, cpu), wall = timed(lambda: ours(folder, source, target, shape))
            kernel.add(part, part)
            whole.add(cpu, wall)
            if swarp:
                _, cpu, wall = measure.cost(lambda: measure.run([swarp, *command.split()], log, cwd=folder))
                for row in peers:
                    row.add(cpu, wall)
        if swarp:
            quality = agreement(folder)
    quality |= {
        "input": list(SHAPE),
        "output": list(shape),
        "note": "SWarp's time is that of its whole run in both rows: it does not tell its parts apart",
    }
    if not swarp:
        quality["left_out"] = {"SWarp": "it is not there and cannot be installed (Debian: swarp)"}
    ratios = measure.ratios(rows)
    path = measure.write("warp", machine, rows, ratios, quality)
    print(measure.table(rows, ratios))
    print(json.dumps(quality, indent=1))
    print(path)
    return 0


def output_of(ra: float, dec: float) -> WCS:
    """Return a tangent plane around a point, north up."""
    target = WCS(naxis=2)
    target.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    target.wcs.crval = [ra, dec]
    target.wcs.crpix = [(OUTPUT[1] + 1) / 2, (OUTPUT[0] + 1) / 2]
    target.wcs.cdelt = [-0.263 / 3600, 0.263 / 3600]
    return target


if __name__ == "__main__":
    sys.exit(main())

"""What a simulated CCD adds to every exposure: bias structure, flat field of each filter, defects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tololo.simulation.detector import Defects, draw_defects
from tololo.simulation.raw_camera import Chip
from tololo.simulation.raw_plan import RawPlan

type Floats = NDArray[np.float64]
type Floats32 = NDArray[np.float32]

_PIXEL_RESPONSE = {"g": 0.006, "r": 0.005, "i": 0.0045, "z": 0.006}
_RING = {"g": 0.0025, "r": 0.0015, "i": 0.001, "z": 0.0005}
_DUST, _DUST_DEPTH = 6, 0.02
_FLAT_STEP, _BIAS_STEP = 1e-5, 1e-3  # of the files of the truth
_VIGNETTING = (0.05, 0.10)  # at the edge: with the square of the radius, with its sixth power


@dataclass(frozen=True)
class Frames:
    """What a CCD adds to every exposure, on the assembled CCD, (ny, nx).

    Attributes
    ----------
    bias : `numpy.ndarray`, float32
        Above the overscan, ADU.
    flats : `dict` [`str`, `numpy.ndarray`], float32
        By band: what an image in electrons by the *header's* gains has to be divided by. It holds pixel
        response, vignetting, quantum efficiency and the step that wrong gains make; its mean over the plan's
        detectors is 1.
    defects : `numpy.ndarray`, bool
        Bad pixels.
    """

    bias: Floats32
    flats: dict[str, Floats32]
    defects: NDArray[np.bool_]

    def write(self, path: Path) -> None:
        """Write them as one compressed FITS file."""
        planes = [("BIAS", self.bias, _BIAS_STEP)]
        planes += [(f"FLAT_{band}", flat, _FLAT_STEP) for band, flat in sorted(self.flats.items())]
        hdus: list[fits.PrimaryHDU | fits.CompImageHDU] = [fits.PrimaryHDU()]
        hdus += [
            fits.CompImageHDU(plane, name=name, quantize_level=-step, quantize_method=1, dither_seed=1)
            for name, plane, step in planes
        ]
        hdus.append(fits.CompImageHDU(self.defects.astype(np.uint8), name="DEFECTS"))
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.HDUList(hdus).writeto(path)

    @classmethod
    def read(cls, path: Path) -> Frames:
        """Read what `write` wrote."""
        with fits.open(path) as hdus:
            flats = {hdu.name[5:].lower(): hdu.data for hdu in hdus[1:] if hdu.name.startswith("FLAT_")}
            return cls(hdus["BIAS"].data, flats, hdus["DEFECTS"].data.astype(bool))


def draw_frames(
    plan: RawPlan, chip: Chip, norm: dict[str, float], seed: int
) -> tuple[Frames, dict[str, Floats32], Defects]:
    """Draw what a CCD adds.

    Parameters
    ----------
    plan : `RawPlan`
    chip : `Chip`
    norm : `dict` [`str`, `float`]
        See `normalisation`.
    seed : `int`

    Returns
    -------
    frames : `Frames`
    response : `dict` [`str`, `numpy.ndarray`]
        By band: share of the light that becomes electrons, float32; without defects.
    defects : `Defects`
    """
    random = np.random.default_rng([seed, chip.ccd.id, 1])
    bias = _bias(chip, random)
    defects = draw_defects(plan.sky, random)
    # Pixels differ mostly in size, which is the same in all filters.
    pixels = random.standard_normal(chip.shape, dtype=np.float32)
    rings = _rings(chip, random)
    dust = _dust(chip, random)
    light = vignetting(chip)
    response: dict[str, Floats32] = {}
    for band in plan.bands:
        fine = dust * (1 + np.float32(_PIXEL_RESPONSE[band]) * pixels + np.float32(_RING[band]) * rings)
        for amplifier in chip.amplifiers:
            fine[amplifier.target] /= fine[amplifier.target].mean(dtype=np.float64)
        fine *= light
        fine *= np.float32(chip.efficiency[band] / norm[band])
        response[band] = fine
    flats = {band: _as_seen(chip, plane) for band, plane in response.items()}
    return Frames(bias, flats, defects.mask), response, defects


def normalisation(chips: Sequence[Chip], bands: Sequence[str]) -> dict[str, float]:
    """Return by band the mean over CCDs of vignetting, efficiency and gain error."""
    coarse: dict[int, float] = {}
    for chip in chips:
        light = vignetting(chip, 16)
        halves = light[:, : light.shape[1] // 2], light[:, light.shape[1] // 2 :]
        coarse[chip.ccd.id] = float(
            np.mean(
                [
                    amplifier.header_gain / amplifier.gain * halves[amplifier.target[1].start > 0].mean()
                    for amplifier in chip.amplifiers
                ]
            )
        )
    return {
        band: float(np.mean([coarse[chip.ccd.id] * chip.efficiency[band] for chip in chips]))
        for band in bands
    }


def vignetting(chip: Chip, step: int = 1) -> Floats32:
    """Return the share of the light that the corrector lets through, 1 at the centre of the field.

    Of blocks of ``step`` pixels in each direction; the blocks have to fill the halves of the CCD.
    """
    rows, columns = (np.arange(0.5, size // step) * step - 0.5 for size in chip.shape)
    x, y = (axis.astype(np.float32) for axis in chip.focal_plane(columns, rows))
    square = np.square(x)[None, :] + np.square(y)[:, None]
    light = square * square
    light *= square
    light *= -np.float32(_VIGNETTING[1])
    light -= np.float32(_VIGNETTING[0]) * square
    light += 1
    return np.asarray(light)


def _as_seen(chip: Chip, response: Floats32) -> Floats32:
    flat = response.copy()
    for amplifier in chip.amplifiers:
        flat[amplifier.target] *= np.float32(amplifier.header_gain / amplifier.gain)
    return flat


def _bias(chip: Chip, random: np.random.Generator) -> Floats32:
    """Patterns of columns and rows, a ramp where reading begins, and a little of each pixel's own."""
    ny, nx = chip.shape
    bias = random.standard_normal((ny, nx), dtype=np.float32) * np.float32(0.15)
    bias += random.normal(0, 0.12, (ny, 1)).astype(np.float32)
    for amplifier in chip.amplifiers:
        target = amplifier.target
        half = target[1].stop - target[1].start
        edge = np.arange(half) if target[1].start == 0 else np.arange(half)[::-1]
        columns = random.normal(0.4, 0.3, half) + random.uniform(2, 5) * np.exp(-edge / 18)
        rows = random.normal(0, 0.4) * np.linspace(-1, 1, ny)
        bias[target] += (columns[None, :] + rows[:, None]).astype(np.float32)
    return bias


def _rings(chip: Chip, random: np.random.Generator) -> Floats32:
    """Rings of a tree about a corner of the wafer, of unit amplitude."""
    ny, nx = chip.shape
    x0, y0 = random.uniform(-1500, -500), random.uniform(-1500, -500)
    radius = np.hypot(np.arange(nx, dtype=np.float32) - x0, (np.arange(ny, dtype=np.float32) - y0)[:, None])
    # A table is quicker than a million sines.
    step = 0.5
    table = np.sin(np.arange(0, 8000, step) ** 1.3 / 40 + random.uniform(0, 2 * math.pi)).astype(np.float32)
    return np.asarray(table[(radius / np.float32(step)).astype(np.int32)])


def _dust(chip: Chip, random: np.random.Generator) -> Floats32:
    """Shadows of dust on the window: rings some tens of pixels wide."""
    ny, nx = chip.shape
    plane = np.ones((ny, nx), np.float32)
    for _ in range(_DUST):
        x, y, radius = random.uniform(0, nx), random.uniform(0, ny), random.uniform(15, 40)
        depth = float(random.uniform(0.3, 1)) * _DUST_DEPTH
        y0, y1 = max(0, int(y - 2 * radius)), min(ny, int(y + 2 * radius))
        x0, x1 = max(0, int(x - 2 * radius)), min(nx, int(x + 2 * radius))
        distance = np.hypot(np.arange(x0, x1) - x, (np.arange(y0, y1) - y)[:, None])
        plane[y0:y1, x0:x1] *= (1 - depth * np.exp(-(((distance - radius) / (0.25 * radius)) ** 2))).astype(
            np.float32
        )
    return plane

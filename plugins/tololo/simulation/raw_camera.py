"""The CCDs of a simulated camera: layout of the raw, where the pixels look, and what each amplifier does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.instrument.detectors import (
    HEIGHT,
    PIXEL_SIZE,
    WIDTH,
    ScienceDetector,
    detector,
    detector_geometry,
)
from tololo.simulation.raw_plan import RawPlan
from tololo.simulation.sky import CD, Ccd

type Floats = NDArray[np.float64]
type Section = tuple[slice, slice]

PRESCAN, OVERSCAN, POSTSCAN = 6, 50, 50
RADIUS = 225.0
"""Of the focal plane, mm."""

# The camera as it is built against its nominal geometry: shift of a CCD (mm), turn (degrees), and stretch of
# the field at its edge.
_SHIFT, _TURN, _STRETCH = 0.008, 0.004, 3e-5
_GAIN_ERROR, _NOISE_ERROR, _EFFICIENCY = 0.01, 0.03, 0.02
_FULL_WELL = 1.05
"""Over the header's saturation, which is on the safe side."""


@dataclass(frozen=True)
class Amplifier:
    """One amplifier: where its pixels are and what it does.

    Attributes
    ----------
    name : `str`
        ``A`` or ``B``.
    data, overscan, prescan, postscan : `tuple` [`slice`, `slice`]
        (y, x) in the raw.
    target : `tuple` [`slice`, `slice`]
        (y, x) of the data on the assembled CCD.
    header_gain, header_read_noise, header_saturation : `float`
        What the header says: e-/ADU, e-, ADU.
    gain, read_noise : `float`
        The truth: e-/ADU, e-.
    full_well : `float`
        What a pixel holds, e-.
    level : `float`
        Of the overscan, ADU; exposures scatter about it.
    crosstalk : `float`
        Share of the other amplifier's signal (ADU) that this one gets in addition.
    """

    name: str
    data: Section
    overscan: Section
    prescan: Section
    postscan: Section
    target: Section
    header_gain: float
    header_read_noise: float
    header_saturation: float
    gain: float
    read_noise: float
    full_well: float
    level: float
    crosstalk: float


@dataclass(frozen=True)
class Chip:
    """One CCD of the simulated camera.

    Attributes
    ----------
    ccd : `ScienceDetector`
    raw_shape : `tuple` [`int`, `int`]
        (ny, nx) of the raw: light-sensitive pixels, prescan, overscan, postscan.
    amplifiers : `tuple` [`Amplifier`, `Amplifier`]
        A and B.
    nominal, true : `Ccd`
        Terms of the WCS as the header has them, and as they are; counted in electrons, hence of gain 1.
    efficiency : `dict` [`str`, `float`]
        Quantum efficiency by band over the mean of the camera.
    """

    ccd: ScienceDetector
    raw_shape: tuple[int, int]
    amplifiers: tuple[Amplifier, Amplifier]
    nominal: Ccd
    true: Ccd
    efficiency: dict[str, float]

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the light-sensitive part."""
        return self.raw_shape[0] - POSTSCAN, self.raw_shape[1] - 2 * (PRESCAN + OVERSCAN)

    def focal_plane(self, x: Floats | float, y: Floats | float) -> tuple[Floats, Floats]:
        """Return where pixels are on the focal plane, in units of its radius."""
        return (
            np.asarray(self.ccd.x + (np.asarray(x) - (WIDTH - 1) / 2) * PIXEL_SIZE) / RADIUS,
            np.asarray(self.ccd.y + (np.asarray(y) - (HEIGHT - 1) / 2) * PIXEL_SIZE) / RADIUS,
        )


def make_chip(plan: RawPlan, seed: int, number: int) -> Chip:
    """Make a CCD of the camera; the same plan and seed give the same.

    Parameters
    ----------
    plan : `RawPlan`
    seed : `int`
    number : `int`
        CCDNUM.
    """
    ccd = detector(number)
    random = np.random.default_rng([seed, number, 0])
    shift, turn = random.normal(0, _SHIFT, 2), float(random.normal(0, _TURN))
    ny, nx = plan.shape
    amplifiers = tuple(_amplifier(ccd, name, plan, random) for name in "AB")
    efficiency = {band: 1 + float(random.normal(0, _EFFICIENCY)) for band in ("g", "r", "i", "z")}
    noise = sum(amplifier.read_noise for amplifier in amplifiers) / 2
    full = min(amplifier.header_saturation * amplifier.gain for amplifier in amplifiers)
    return Chip(
        ccd,
        (ny + POSTSCAN, nx + 2 * (PRESCAN + OVERSCAN)),
        (amplifiers[0], amplifiers[1]),
        _look(ccd, (0.0, 0.0), 0.0, 0.0, noise, full),
        _look(ccd, (float(shift[0]), float(shift[1])), turn, _STRETCH, noise, full),
        efficiency,
    )


def section(part: Section) -> str:
    """Write (y, x) slices as FITS does: ``[57:2104,51:4146]``."""
    y, x = part
    return f"[{x.start + 1}:{x.stop},{y.start + 1}:{y.stop}]"


def _amplifier(ccd: ScienceDetector, name: str, plan: RawPlan, random: np.random.Generator) -> Amplifier:
    """Lay an amplifier out: prescan, overscan and data from the edge inward, postscan where it is read last.

    The southern half of the focal plane is mounted upside down: A is on the right, the postscan below.
    """
    ny, nx = plan.shape
    half, total = nx // 2, nx + 2 * (PRESCAN + OVERSCAN)
    left, south = (name == "A") == (ccd.side == "N"), ccd.side == "S"
    rows = slice(POSTSCAN, POSTSCAN + ny) if south else slice(0, ny)
    after = slice(0, POSTSCAN) if south else slice(ny, ny + POSTSCAN)

    def columns(start: int, width: int) -> slice:
        first = start if left else total - start - width
        return slice(first, first + width)

    data = columns(PRESCAN + OVERSCAN, half)
    gain = ccd.gain[name] * (1 + float(random.normal(0, _GAIN_ERROR)))
    return Amplifier(
        name=name,
        data=(rows, data),
        overscan=(rows, columns(PRESCAN, OVERSCAN)),
        prescan=(rows, columns(0, PRESCAN)),
        postscan=(after, data),
        target=(slice(0, ny), slice(0, half) if left else slice(half, nx)),
        header_gain=ccd.gain[name],
        header_read_noise=ccd.read_noise[name],
        header_saturation=ccd.saturation[name],
        gain=gain,
        read_noise=ccd.read_noise[name] * (1 + float(random.normal(0, _NOISE_ERROR))),
        full_well=ccd.saturation[name] * gain * _FULL_WELL,
        level=float(random.uniform(1400, 2600)),
        crosstalk=plan.crosstalk * float(random.uniform(0.4, 1.6)),
    )


def _look(
    ccd: ScienceDetector, shift: tuple[float, float], turn: float, stretch: float, noise: float, full: float
) -> Ccd:
    """Fit the TPV terms to the camera's geometry: pixels to the plane that touches the sky, degrees.

    The optics are a cubic polynomial in the focal plane, so that the fit is exact.
    """
    y, x = (grid.ravel() for grid in np.mgrid[0 : HEIGHT - 1 : 24j, 0 : WIDTH - 1 : 16j])
    angle = math.radians(turn)
    u, v = x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2
    moved_x = (WIDTH - 1) / 2 + u * math.cos(angle) - v * math.sin(angle) + shift[0] / PIXEL_SIZE
    moved_y = (HEIGHT - 1) / 2 + u * math.sin(angle) + v * math.cos(angle) + shift[1] / PIXEL_SIZE
    field = detector_geometry(ccd.id).to_field_angle.apply_forward(x=moved_x, y=moved_y)
    field_x, field_y = np.degrees(np.asarray(field.x)), np.degrees(np.asarray(field.y))
    scale = 1 + stretch * (field_x**2 + field_y**2)
    # The camera does not rotate: +y is east, +x is south.
    east, north = field_y * scale, -field_x * scale
    crpix = ((WIDTH + 1) / 2 - ccd.x / PIXEL_SIZE, (HEIGHT + 1) / 2 - ccd.y / PIXEL_SIZE)
    linear = np.array(CD) @ np.stack([x + 1 - crpix[0], y + 1 - crpix[1]])
    return Ccd(
        ccdnum=ccd.id,
        name=ccd.name,
        serial=f"SIMULATED-{ccd.id:02d}",
        gain=1.0,
        read_noise=noise,
        saturation=full,
        crpix=crpix,
        pv1=_tpv(linear[0], linear[1], east),
        pv2=_tpv(linear[1], linear[0], north),
    )


def _tpv(along: Floats, across: Floats, wanted: Floats) -> tuple[float, ...]:
    """Fit PVi_0 to PVi_10; PVi_3, the term of the radius, is left out."""
    terms = [
        along**0, along, across, along**2, along * across, across**2,
        along**3, along**2 * across, along * across**2, across**3,
    ]  # fmt: skip
    found = np.linalg.lstsq(np.stack(terms, 1), wanted, rcond=None)[0]
    return (*map(float, found[:3]), 0.0, *map(float, found[3:]))

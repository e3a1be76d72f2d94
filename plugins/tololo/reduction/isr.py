"""Instrument signature removal: from the raw pixels of one detector to electrons, variance and mask.

What is masked keeps a finite value but is not interpolated: everything that measures leaves masked pixels
out by their bits, and an invented value would only look like data. Cosmic rays alone are filled in, by
`tololo.reduction.kernels.cosmic_rays`, because they stand in the light of stars that are still to be found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawAmplifier, RawDetector
from tololo.reduction.kernels.isr import Levels, correct_amplifier, measure_overscan, subtract_ghosts
from tololo.reduction.kernels.saturation import grow_saturation

_NONE = np.empty((0, 0), np.float32)


GHOST = 0.1
"""Read noises; what arrives of a pixel of another CCD is subtracted if it is more than that."""


class Share(NamedTuple):
    """What arrives of a signal (ADU above the overscan): a part of it, a polynomial of what exceeds an onset.

    Up to ``onset`` it is ``linear * signal``, beyond ``linear * onset + first * excess + second * excess**2 +
    third * excess**3``.
    """

    linear: float
    onset: float = math.inf
    first: float = 0.0
    second: float = 0.0
    third: float = 0.0


@dataclass(frozen=True)
class Neighbour:
    """What an amplifier (``A`` or ``B``) gets from one of another CCD."""

    victim: str
    detector: int
    amplifier: str
    share: Share


@dataclass(frozen=True)
class Crosstalk:
    """What each amplifier of a CCD gets of the other's signal, and of those of other CCDs.

    Amplifiers are read at the same time: those on opposite sides of their CCDs from opposite sides, so that
    the crosstalk of a pixel comes from its mirror image about the line between the two, those on the same
    side alike.
    """

    a_from_b: Share | float = 0.0
    b_from_a: Share | float = 0.0
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def sources(self) -> list[int]:
        """The other CCDs."""
        return sorted({neighbour.detector for neighbour in self.neighbours})


@dataclass(frozen=True)
class OverscanStats:
    """What the serial overscan of one amplifier says.

    Attributes
    ----------
    level : `float`
        Median over the rows, ADU.
    slope : `float`
        Of a straight line through the levels, from the first row to the last, ADU.
    read_noise : `float`
        Measured standard deviation within rows, e-; that of the quantisation is in it.
    smoothing : `float`
        Rows over which levels are averaged, median over the rows.
    problem : `str`
        Why the amplifier cannot be used, so that all its pixels are BAD; empty if it can.
    """

    level: float
    slope: float
    read_noise: float
    smoothing: float
    problem: str = ""


@dataclass(frozen=True)
class Corrected:
    """One detector without the instrument's signature.

    Attributes
    ----------
    planes : `Planes`
        Image (e-), variance (e-²) and mask bits of the assembled CCD.
    overscan : `dict` [`str`, `OverscanStats`]
        By amplifier name.
    ghosts : `dict` [`int`, `int`]
        From how many pixels what they got from another CCD was taken, by that CCD.
    """

    planes: Planes
    overscan: dict[str, OverscanStats]
    ghosts: dict[int, int] = field(default_factory=dict)


def correct(
    raw: RawDetector,
    *,
    bias: NDArray[np.float32] | None = None,
    bias_variance: NDArray[np.float32] | None = None,
    flat: NDArray[np.float32] | None = None,
    defects: NDArray[np.bool_] | None = None,
    crosstalk: Crosstalk = Crosstalk(),
    neighbours: Mapping[int, RawDetector] | None = None,
    out: Planes | None = None,
) -> Corrected:
    """Remove overscan, crosstalk, bias, gain and flat field, and give each pixel its variance and mask.

    Parameters
    ----------
    raw : `RawDetector`
        Pixels as they were read out.
    bias, bias_variance : `numpy.ndarray`, (ny, nx), optional
        Structure above the overscan on the assembled CCD, ADU, and its uncertainty, ADU².
    flat : `numpy.ndarray`, (ny, nx), optional
        Relative response to light of the assembled CCD.
    defects : `numpy.ndarray`, (ny, nx), bool, optional
        Pixels to mask.
    crosstalk : `Crosstalk`
        Coefficients.
    neighbours : mapping [`int`, `RawDetector`], optional
        Raws of the same exposure of the CCDs that crosstalk comes from; of one that is not there, none is
        subtracted.
    out : `Planes`, optional
        Planes of the same shape to overwrite, which saves fresh memory from one CCD to the next.

    Returns
    -------
    corrected : `Corrected`
        SATURATED are pixels whose raw value reaches the amplifier's limit, what bleeds from them, and one
        pixel around; BAD are defects, pixels whose bias, bias variance or flat is no number or whose flat is
        below 0.05 (they stay undivided), and amplifiers without a usable overscan.

    Raises
    ------
    BadInputError
        Shapes differ, or neither amplifier has a usable overscan.

    Notes
    -----
    With s the signal in electrons before the flat f, r the read noise and v the variance of the bias in
    ADU², the variance is (s + r² + gain² v) / f². It is that of the pixel's own value, negative ones
    included, so that on average it is right also where there is next to no light; but no less than r² / 2.
    The read noise is the one measured in the overscan, which follows the electronics of the night.
    """
    where = f"exposure {raw.exposure}, detector {raw.detector}"
    zero, uncertainty, response = (
        _NONE if plane is None else np.ascontiguousarray(plane, dtype=np.float32)
        for plane in (bias, bias_variance, flat)
    )
    known = (_NONE if defects is None else np.ascontiguousarray(defects)).astype(np.bool_, copy=False)
    named = {"bias": zero, "bias variance": uncertainty, "flat": response, "mask of defects": known}
    for name, plane in named.items():
        if plane.size and plane.shape != raw.shape:
            raise BadInputError(
                f"The {name} has the shape {plane.shape}, the assembled CCD {raw.shape}",
                where,
                "use calibrations of the same detector, untrimmed raws for none of them",
            )
    planes = _planes(raw.shape, out)
    pixels = np.ascontiguousarray(raw.pixels, dtype=np.uint16)
    levels = {a.name: measure_overscan(pixels[a.overscan], a.saturation) for a in raw.amplifiers}
    if all(found.problem for found in levels.values()):
        problems = "; ".join(f"amplifier {name}: {found.problem}" for name, found in levels.items())
        raise BadInputError(
            f"No amplifier can be used: {problems}", where, "exclude the exposure or this detector"
        )
    a, b = raw.amplifiers
    number = 0
    for own, other, part in ((a, b, crosstalk.a_from_b), (b, a, crosstalk.b_from_a)):
        found, source = levels[own.name], levels[other.name]
        share = part if isinstance(part, Share) else Share(part)
        if share.linear:
            _refuse_unlike(own, other, where)
        number += correct_amplifier(
            pixels, _corner(own.data), _size(own.data), found.rows, _corner(other.data), source.rows,
            (*(Share(0.0) if source.problem else share),), float(own.gain), read_noise(own, found),
            float(own.saturation), zero, uncertainty, response, known, BIT["BAD"], BIT["SATURATED"],
            _corner(own.target), planes.image, planes.variance, planes.bits,
        )  # fmt: skip
        if found.problem:
            planes.bits[own.target] |= BIT["BAD"]
    ghosts = _subtract_neighbours(raw, levels, crosstalk, neighbours or {}, response, planes)
    if number:
        grow_saturation(planes.image, planes.variance, planes.bits, BIT["SATURATED"])
    return Corrected(
        planes, {amplifier.name: _stats(amplifier, levels[amplifier.name]) for amplifier in (a, b)}, ghosts
    )


def read_noise(amplifier: RawAmplifier, levels: Levels) -> float:
    """Return the measured read noise in electrons, or the header's where nothing could be measured."""
    return float(amplifier.read_noise if levels.problem else levels.noise * amplifier.gain)


def _subtract_neighbours(
    raw: RawDetector,
    levels: Mapping[str, Levels],
    crosstalk: Crosstalk,
    neighbours: Mapping[int, RawDetector],
    flat: NDArray[np.float32],
    planes: Planes,
) -> dict[int, int]:
    """Subtract what comes from other CCDs; return from how many pixels, by CCD."""
    ghosts = {number: 0 for number in crosstalk.sources if number in neighbours}
    victims = {amplifier.name: amplifier for amplifier in raw.amplifiers}
    for number in ghosts:
        there = neighbours[number]
        where = f"exposure {raw.exposure}, detectors {raw.detector} and {number}"
        if there.exposure != raw.exposure or there.detector != number:
            raise BadInputError(
                f"Exposure {there.exposure}, detector {there.detector} is not read at that time", where
            )
        pixels = np.ascontiguousarray(there.pixels, dtype=np.uint16)
        for source in there.amplifiers:
            wanted = [n for n in crosstalk.neighbours if (n.detector, n.amplifier) == (number, source.name)]
            found = measure_overscan(pixels[source.overscan], source.saturation) if wanted else None
            if found is None or found.problem:
                continue
            for neighbour in wanted:
                own = victims[neighbour.victim]
                _refuse_unlike(own, source, where)
                noise = read_noise(own, levels[own.name])
                ghosts[number] += subtract_ghosts(
                    pixels, _corner(source.data), _size(source.data), found.rows,
                    _is_left(own) != _is_left(source), (*neighbour.share,), GHOST * noise / own.gain,
                    float(own.gain), noise, flat, _corner(own.target), planes.image, planes.variance,
                )  # fmt: skip
    return ghosts


def _is_left(amplifier: RawAmplifier) -> bool:
    return bool(amplifier.target[1].start == 0)


def _refuse_unlike(one: RawAmplifier, other: RawAmplifier, where: str) -> None:
    if _size(one.data) != _size(other.data):
        raise BadInputError(
            f"Amplifiers of {_size(one.data)} and {_size(other.data)} pixels are not read pixel by pixel",
            where,
            "use whole CCDs, or no crosstalk",
        )


def _planes(shape: tuple[int, int], out: Planes | None) -> Planes:
    if out is None:
        return Planes(np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.int32))
    if not out.image.shape == out.variance.shape == out.bits.shape == shape:
        raise BadInputError(f"The planes to overwrite have not the shape {shape} of the assembled CCD")
    return out


def _stats(amplifier: RawAmplifier, levels: Levels) -> OverscanStats:
    return OverscanStats(
        level=float(np.median(levels.rows)),
        slope=levels.slope,
        read_noise=levels.noise * amplifier.gain,
        smoothing=levels.smoothing,
        problem=levels.problem,
    )


def _corner(section: tuple[slice, slice]) -> tuple[int, int]:
    return int(section[0].start), int(section[1].start)


def _size(section: tuple[slice, slice]) -> tuple[int, int]:
    return int(section[0].stop - section[0].start), int(section[1].stop - section[1].start)

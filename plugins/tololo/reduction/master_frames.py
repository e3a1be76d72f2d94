"""The exposures that a master calibration of one detector is made of.

All are held at once as one float32 plane each: a clipped mean needs them all. Masked pixels are NaN, so that
nothing else of their size is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT, UNUSABLE
from tololo.reduction.formats.raw import RawAmplifier, RawDetector
from tololo.reduction.isr import Corrected, OverscanStats
from tololo.reduction.kernels.blocks import block_medians, usable_pixels

BLOCK = 32
"""Side of the blocks of which levels are the mean, and by which the shape of inputs is compared, pixels."""

MOST_INPUTS = 64
"""So many inputs go into one stack."""

type Load = Callable[[], RawDetector]
type Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """One exposure of a detector without overscan.

    ``image`` is NaN where a pixel cannot be used; ``blocks`` holds the block medians of each amplifier.
    """

    exposure: int
    image: Plane
    overscan: Mapping[str, OverscanStats]
    blocks: Mapping[str, Plane]
    saturated: Mapping[str, float]
    exposure_time: float

    def level(self, amplifier: str) -> float:
        """Mean of the block medians of an amplifier; NaN if it has none."""
        finite = self.blocks[amplifier][np.isfinite(self.blocks[amplifier])]
        return float(finite.mean()) if finite.size else float("nan")


@dataclass(frozen=True)
class Frames:
    """The readable exposures of a detector, why others are not, and the amplifiers that are dead."""

    detector: int
    amplifiers: tuple[RawAmplifier, ...]
    shape: tuple[int, int]
    frames: list[Frame]
    refused: dict[int, str]
    dead: dict[str, str]

    @property
    def living(self) -> list[RawAmplifier]:
        """Amplifiers that can be used."""
        return [amplifier for amplifier in self.amplifiers if amplifier.name not in self.dead]

    def without(self, refused: Mapping[int, str], at_least: int) -> list[Frame]:
        """Leave exposures out, and return the others.

        Raises
        ------
        NothingToDoError
            If too few are left; all that were left out are named.
        """
        self.refused.update(refused)
        used = [frame for frame in self.frames if frame.exposure not in self.refused]
        if len(used) < at_least:
            why = "; ".join(f"{exposure}: {reason}" for exposure, reason in sorted(self.refused.items()))
            total = len({frame.exposure for frame in self.frames} | set(self.refused))
            raise NothingToDoError(
                f"{len(used)} of {total} exposures can be used, {at_least} are needed"
                + (f" ({why})" if why else ""),
                f"detector {self.detector}",
                "take more, or look at those that were left out",
            )
        return used


def load_frames(
    loads: Iterable[tuple[int, Load]],
    correct: Callable[[RawDetector, Planes | None], Corrected],
    kinds: Sequence[str],
    *,
    in_adu: bool = False,
) -> Frames:
    """Read the exposures of a detector one by one.

    Parameters
    ----------
    loads : iterable of (`int`, callable)
        Exposure numbers, and what reads each.
    correct : callable
        Takes the instrument's signature off, into planes that may be used again.
    kinds : sequence of `str`
        Values of OBSTYPE that are right; another one is refused.
    in_adu : `bool`, optional
        Keep counts instead of electrons.

    Returns
    -------
    frames : `Frames`
        An exposure that cannot be read is refused with the reason. An amplifier without a usable overscan in
        more than half of the exposures is dead; in fewer, these exposures are refused. One whose pixels are
        all known to be bad is dead too.

    Raises
    ------
    NothingToDoError
        If none can be read, or both amplifiers are dead.
    """
    frames: list[Frame] = []
    refused: dict[int, str] = {}
    first: RawDetector | None = None
    planes: Planes | None = None
    dead: dict[str, str] = {}
    for exposure, load in loads:
        if len(frames) == MOST_INPUTS:
            refused[exposure] = f"there are {MOST_INPUTS} others"
            continue
        try:
            raw = load()
            kind = str(raw.header.get("OBSTYPE", kinds[0])).strip().lower()
            if kind not in kinds:
                raise BadInputError(f"it is a {kind!r}, not a {kinds[0]}")
            if first is not None and raw.shape != first.shape:
                raise BadInputError(f"its shape is {raw.shape}, that of the others {first.shape}")
            corrected = correct(raw, planes)
        except BadInputError as error:
            refused[exposure] = error.what
            continue
        first, planes = first or raw, corrected.planes
        for amplifier in raw.amplifiers:
            bad = (planes.bits[amplifier.target] & BIT["BAD"]) != 0
            if not corrected.overscan[amplifier.name].problem and bad.all():
                dead[amplifier.name] = "all of its pixels are known to be bad"
        frames.append(_frame(exposure, raw, corrected, in_adu))
    if first is None:
        why = "; ".join(f"{exposure}: {reason}" for exposure, reason in refused.items())
        raise NothingToDoError("No exposure can be used" + (f" ({why})" if why else ""))
    for name in (amplifier.name for amplifier in first.amplifiers):
        problems = {f.exposure: f.overscan[name].problem for f in frames if f.overscan[name].problem}
        if 2 * len(problems) > len(frames):
            dead[name] = next(iter(problems.values()))
        else:
            refused |= {number: f"amplifier {name}: {problem}" for number, problem in problems.items()}
    if len(dead) == len(first.amplifiers):
        reasons = "; ".join(f"amplifier {name}: {reason}" for name, reason in sorted(dead.items()))
        raise NothingToDoError(f"No amplifier can be used ({reasons})", f"detector {first.detector}")
    return Frames(first.detector, first.amplifiers, first.shape, frames, refused, dead)


def _frame(exposure: int, raw: RawDetector, corrected: Corrected, in_adu: bool) -> Frame:
    planes = corrected.planes
    image = np.empty_like(planes.image)
    blocks, saturated = {}, {}
    for amplifier in raw.amplifiers:
        area, factor = amplifier.target, 1 / amplifier.gain if in_adu else 1.0
        part, number = usable_pixels(
            planes.image[area], planes.bits[area], UNUSABLE, BIT["SATURATED"], factor
        )
        image[area] = part
        blocks[amplifier.name] = block_medians(part, BLOCK)
        saturated[amplifier.name] = number / part.size
    time = float(raw.header.get("EXPTIME", 0.0))
    return Frame(exposure, image, corrected.overscan, blocks, saturated, time)


def shape_residuals(frames: Sequence[Frame], amplifier: str, *, relative: bool) -> NDArray[np.float64]:
    """Return how far each frame's blocks scatter about those of all, its level apart: rms over the blocks.

    Parameters
    ----------
    frames : sequence of `Frame`
    amplifier : `str`
        Its name.
    relative : `bool`
        Divide by the levels (flats) instead of subtracting them (biases).
    """
    blocks = np.array([frame.blocks[amplifier] for frame in frames], np.float64)
    levels = np.array([frame.level(amplifier) for frame in frames])[:, None, None]
    blocks = blocks / levels if relative else blocks - levels
    usable = np.isfinite(blocks).all(axis=0)
    residual = (blocks - np.median(blocks, axis=0))[:, usable]
    return np.asarray(np.sqrt(np.mean(residual**2, axis=1))) if usable.any() else np.zeros(len(frames))


def provenance(used: Sequence[Frame], refused: Mapping[int, str]) -> dict[str, Any]:
    """Return which exposures went into a master and which did not: columns of its metrics."""
    return {
        "n_inputs": len(used) + len(refused),
        "n_used": len(used),
        "inputs": ",".join(str(frame.exposure) for frame in used),
        "refused": "; ".join(f"{exposure}: {reason}" for exposure, reason in sorted(refused.items())),
    }


def robust_scatter(values: NDArray[Any]) -> float:
    """Return 1.4826 times the median absolute deviation of what is finite."""
    finite = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(finite - np.median(finite)))) if finite.size else float("nan")

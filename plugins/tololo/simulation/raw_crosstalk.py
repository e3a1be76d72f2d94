"""What amplifiers of the simulated camera get of the signals of other CCDs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.simulation.raw_camera import Amplifier, Chip
from tololo.simulation.raw_cards import raw_detector_header
from tololo.simulation.raw_detector import hdu_bytes, part_path, read_pixels
from tololo.simulation.raw_plan import RawPlan
from tololo.simulation.raw_schedule import RawExposure
from tololo.simulation.raw_truth import events_path

_PAIRS = (("A", "A"), ("B", "B"), ("A", "B"))
"""Amplifiers that get something, and of which."""

_NEGATIVE = 0.2
"""Part of the shares that are negative."""


@dataclass(frozen=True)
class Leak:
    """What an amplifier gets of one of another CCD, as a share of its signal (ADU above the overscan)."""

    victim: int
    victim_amplifier: str
    source: int
    source_amplifier: str
    share: float


def draw_leaks(plan: RawPlan, chips: Sequence[Chip], seed: int) -> list[Leak]:
    """Draw what CCDs get of those before and after them in the same half of the camera."""
    leaks: list[Leak] = []
    for victim in chips:
        for source in chips:
            if abs(victim.ccd.id - source.ccd.id) != 1 or victim.ccd.side != source.ccd.side:
                continue
            random = np.random.default_rng([seed, victim.ccd.id, 4, source.ccd.id])
            for own, other in _PAIRS:
                sign = -1 if random.random() < _NEGATIVE else 1
                share = sign * plan.neighbour_crosstalk * float(random.uniform(0.4, 1.6))
                leaks.append(Leak(victim.ccd.id, own, source.ccd.id, other, share))
    return [leak for leak in leaks if leak.share]


def crosstalk_table(chips: Sequence[Chip], leaks: Sequence[Leak]) -> Table:
    """Return all crosstalk as `~tololo.simulation.raw_truth.RawTruth` has it."""
    rows = [
        (f"{chip.ccd.id}{own.name}", f"{chip.ccd.id}{other.name}", own.crosstalk)
        for chip in chips
        for own, other in (chip.amplifiers, chip.amplifiers[::-1])
    ]
    rows += [
        (f"{leak.victim}{leak.victim_amplifier}", f"{leak.source}{leak.source_amplifier}", leak.share)
        for leak in leaks
    ]
    return Table(rows=rows, names=("victim", "source", "share"))


def add_leaks(
    folder: Path,
    plan: RawPlan,
    seed: int,
    exposure: RawExposure,
    chips: Sequence[Chip],
    leaks: Sequence[Leak],
) -> None:
    """Add to the CCDs of an exposure what they get of one another, before its file is put together.

    Notes
    -----
    Counts are whole numbers by now. Where the noise is wider than a count, what was rounded is evenly
    distributed: adding the leak and an even random part of a count, and cutting off, gives counts with the
    distribution that they had if the leak had been there before.
    """
    by_victim: defaultdict[int, list[Leak]] = defaultdict(list)
    for leak in leaks:
        by_victim[leak.victim].append(leak)
    kept: dict[int, NDArray[np.uint16]] = {}  # without leaks, as long as they are needed
    for chip in sorted(chips, key=lambda chip: chip.ccd.id):
        number = chip.ccd.id
        kept = {other: pixels for other, pixels in kept.items() if other >= number - 1}
        if not by_victim[number]:
            continue
        for other in {number, *(leak.source for leak in by_victim[number])} - kept.keys():
            kept[other] = read_pixels(part_path(folder, exposure, other).read_bytes())
        random = np.random.default_rng([seed, number, 5, exposure.seen.visit])
        own = kept[number].astype(np.float32)
        for victim in chip.amplifiers:
            total = random.random(own[victim.data].shape, dtype=np.float32)
            for leak in by_victim[number]:
                if leak.victim_amplifier == victim.name:
                    source = next(other for other in chips if other.ccd.id == leak.source)
                    signal = _signal(folder, exposure, source, leak.source_amplifier, kept[leak.source])
                    mirrored = _is_left(victim) != _is_left(_amplifier(source, leak.source_amplifier))
                    total += np.float32(leak.share) * (signal[:, ::-1] if mirrored else signal)
            own[victim.data] = np.clip(np.floor(own[victim.data] + total), 0, 65535)
        header = raw_detector_header(plan, exposure, chip)
        part_path(folder, exposure, number).write_bytes(hdu_bytes(own.astype(np.uint16), header))


def _signal(
    folder: Path, exposure: RawExposure, chip: Chip, name: str, pixels: NDArray[np.uint16]
) -> NDArray[np.float32]:
    """Return an amplifier's counts above the true level of its overscan."""
    amplifier = _amplifier(chip, name)
    with np.load(events_path(folder, exposure.seen.visit, chip.ccd.id)) as arrays:
        levels = arrays["levels"]["AB".index(name)]
    rows = amplifier.data[0]
    return np.asarray(pixels[amplifier.data] - levels[rows, None], np.float32)


def _amplifier(chip: Chip, name: str) -> Amplifier:
    return next(amplifier for amplifier in chip.amplifiers if amplifier.name == name)


def _is_left(amplifier: Amplifier) -> bool:
    return bool(amplifier.target[1].start == 0)

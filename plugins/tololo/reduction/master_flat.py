"""The master flat of a detector: its response relative to the mean of the focal plane, and its gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.errors import NothingToDoError
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawAmplifier
from tololo.reduction.kernels.blocks import pair_noise
from tololo.reduction.master import Master, NoiseRows, combine_frames, local_level, master_planes, odd_columns
from tololo.reduction.master_frames import BLOCK, Frame, Frames, Plane, provenance, shape_residuals

ODD_SHAPE = 0.02
"""Relative rms over blocks by which an input may differ from the others in any case."""

DARK = 0.2
"""Of the amplifier's response: what is below is dead, however large the patch."""


@dataclass(frozen=True)
class _Transfer:
    """Photon transfer of one amplifier: read noise (e-), and variance over signal in nominal electrons."""

    read_noise: float
    slope: float


def combine_flat(
    found: Frames,
    scales: Table,
    bias_variance: Plane,
    *,
    n_sigma: float = 4.0,
    min_inputs: int = 3,
    low_pixel: float = 0.5,
    low_column: float = 0.1,
) -> Master:
    """Combine the flats of a detector.

    Parameters
    ----------
    found : `Frames`
        `~tololo.reduction.flat_levels.load_flats` of the detector; their images are divided by their levels
        in place.
    scales : `astropy.table.Table`
        `~tololo.reduction.flat_levels.scale_flats` of all detectors.
    bias_variance : `numpy.ndarray`, (ny, nx)
        Of the bias that was subtracted, ADU²: an error that all inputs have in common.
    n_sigma : `float`
        Where the mean is clipped.
    min_inputs : `int`
        Fewer good inputs are not combined.
    low_pixel : `float`
        Pixels that respond by so much less or more than their surroundings are BAD (a fraction).
    low_column : `float`
        The same for pieces of columns.

    Returns
    -------
    master : `Master`
        Electrons (by the headers' gains) over what a detector of mean response would have got. The variance
        is that of the mean, with the photon noise that these flats themselves show.

    Raises
    ------
    NothingToDoError
        If fewer than ``min_inputs`` can be used; the message names the others and why.
    """
    own = {int(row["exposure"]): row for row in scales if row["detector"] == found.detector}
    refused = {e: str(row["reason"]) for e, row in own.items() if not row["used"]}
    # Scales are made once for all detectors that there were; what came later is not in them.
    later = [frame.exposure for frame in found.frames if frame.exposure not in own]
    refused |= dict.fromkeys(later, "flat_scales were made without it: make the flats of the filter again")
    used = found.without(refused, min_inputs)
    used = found.without(_odd(used, found.living), min_inputs)
    level = {frame.exposure: float(own[frame.exposure]["level"]) for frame in used}
    response = float(own[used[0].exposure]["response"])
    if not np.isfinite(response):
        raise NothingToDoError("The detector has no response", f"detector {found.detector}")
    for frame in used:
        np.divide(frame.image, np.float32(level[frame.exposure]), out=frame.image)
    transfer = {a.name: _photon_transfer(used, level, a) for a in found.living}
    noise = [NoiseRows(f.image, _parts(f, level[f.exposure], transfer, found.living)) for f in used]
    weights = [level[frame.exposure] for frame in used]
    stacked, scatter = combine_frames([frame.image for frame in used], noise, weights, n_sigma)
    bad = np.zeros(found.shape, np.bool_)
    for amplifier in found.living:
        area = amplifier.target
        image = stacked.image[area]
        ratio = image / local_level(image)
        bad[area] = (np.abs(ratio - 1) > low_pixel) | odd_columns(ratio, low_column)
        bad[area] |= image < DARK * np.nanmedian(image)
        # The bias is the same in all inputs, and enters each as bias / level with the input's weight.
        common = (amplifier.gain * len(weights) / sum(weights)) ** 2 * bias_variance[area]
        stacked.variance[area] += np.where(np.isfinite(common), common, np.float32(0))
    planes = master_planes(stacked, bad, 1.0)
    planes.image *= np.float32(response)
    planes.variance *= np.float32(response**2)
    empty = (planes.bits & BIT["NO_DATA"]) != 0
    planes.image[empty] = planes.variance[empty] = 1.0
    common_columns = {
        "detector": found.detector,
        "n_detectors": len(set(scales["detector"])),
        **provenance(used, found.refused),
        "counts": float(np.median(list(level.values()))),
        "total_counts": float(sum(level.values())),
        "response": response,
        "gradient": _gradient(used),
        "linearity": _linearity(used, level),
    }
    rows = [
        common_columns | _metrics(a, found, planes, scatter, transfer.get(a.name)) for a in found.amplifiers
    ]
    return Master(planes, Table(rows=rows), found.refused)


def _odd(frames: Sequence[Frame], living: Sequence[RawAmplifier]) -> dict[int, str]:
    """Return the frames whose light is distributed over the detector in another way than in the others."""
    odd: dict[int, str] = {}
    for amplifier in living:
        residuals = shape_residuals(frames, amplifier.name, relative=True)
        allowed = max(4 * float(np.median(residuals)), ODD_SHAPE)
        for frame, residual in zip(frames, residuals, strict=True):
            if not residual <= allowed:
                odd.setdefault(
                    frame.exposure,
                    f"shape of amplifier {amplifier.name} {100 * residual:.1f} % rms off the others'",
                )
    return odd


def _photon_transfer(frames: Sequence[Frame], level: dict[int, float], amplifier: RawAmplifier) -> _Transfer:
    """Compare the noise between successive flats with their signal.

    In electrons by the nominal gain g, the variance of a pixel is (g / g_true) signal + r².
    """
    read_noise = float(np.median([frame.overscan[amplifier.name].read_noise for frame in frames]))
    area = amplifier.target
    pairs = list(pairwise(frames))
    step = max(1, frames[0].blocks[amplifier.name].size * len(pairs) // 8192)
    size = min(BLOCK, *frames[0].image[area].shape)
    above = signal = 0.0
    for first, second in pairs:
        a, b = level[first.exposure], level[second.exposure]
        variance, one, other = pair_noise(first.image[area], second.image[area], size, step)
        # Each pair counts by its level, as its inputs do in the mean.
        weight = a * b / (a + b)
        above += weight * (variance - read_noise**2 * (1 / a**2 + 1 / b**2))
        signal += weight * (one / a + other / b)
    return _Transfer(read_noise, above / signal)


def _parts(
    frame: Frame, level: float, transfer: dict[str, _Transfer], living: Sequence[RawAmplifier]
) -> tuple[tuple[slice, float, float], ...]:
    return tuple(
        (
            amplifier.target[1],
            (frame.overscan[amplifier.name].read_noise / level) ** 2,
            transfer[amplifier.name].slope / level,
        )
        for amplifier in living
    )


def _gradient(frames: Sequence[Frame]) -> float:
    """Return the change of the illumination across the detector, from a plane through the block medians."""
    sides = [frames[len(frames) // 2].blocks[name] for name in sorted(frames[0].blocks)]
    slopes = []
    for blocks in sides:
        good = np.isfinite(blocks)
        y, x = np.nonzero(good)
        if y.size < 4:
            continue
        terms = np.stack([np.ones(y.size), x / blocks.shape[1], y / blocks.shape[0]])
        fitted = np.linalg.lstsq(terms.T, blocks[good] / np.median(blocks[good]), rcond=None)[0]
        slopes.append(float(np.hypot(fitted[1] * len(sides), fitted[2])))
    return float(np.mean(slopes)) if slopes else float("nan")


def _linearity(frames: Sequence[Frame], level: dict[int, float]) -> float:
    """Return the range of counts per second over its mean; NaN where the exposure times are all alike."""
    times = np.array([frame.exposure_time for frame in frames])
    if times.min() <= 0 or times.max() < 1.2 * times.min():
        return float("nan")
    rates = np.array([level[frame.exposure] for frame in frames]) / times
    return float((rates.max() - rates.min()) / rates.mean())


def _metrics(
    amplifier: RawAmplifier, found: Frames, planes: Planes, scatter: Plane, transfer: _Transfer | None
) -> dict[str, Any]:
    """Return what is known of one amplifier."""
    area, name = amplifier.target, amplifier.name
    row: dict[str, Any] = {
        "amplifier": name,
        "problem": found.dead.get(name, ""),
        "gain_header": amplifier.gain,
    }
    if transfer is None:
        nothing = ("gain", "gain_ratio", "read_noise", "variance_ratio", "amplifier_response")
        return row | dict.fromkeys(nothing, np.nan) | {"low_columns": 0, "defects": 1.0}
    bad: NDArray[np.bool_] = (planes.bits[area] & BIT["BAD"]) != 0
    return row | {
        "gain": amplifier.gain / transfer.slope,
        "gain_ratio": 1 / transfer.slope,
        "read_noise": transfer.read_noise,
        "variance_ratio": float(np.mean(scatter[area][planes.bits[area] == 0])),
        "amplifier_response": float(np.mean(planes.image[area][~bad])),
        "low_columns": int(np.count_nonzero(np.mean(bad, axis=0) > 0.5)),
        "defects": float(np.mean(bad)),
    }

"""The master bias of a detector: the structure above the overscan, ADU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawAmplifier, RawDetector
from tololo.reduction.isr import Corrected, correct
from tololo.reduction.kernels.blocks import pair_noise
from tololo.reduction.master import (
    Master,
    NoiseRows,
    combine_frames,
    local_level,
    master_planes,
    odd_columns,
    row_and_column_rms,
)
from tololo.reduction.master_frames import (
    BLOCK,
    Frame,
    Frames,
    Load,
    Plane,
    load_frames,
    provenance,
    robust_scatter,
    shape_residuals,
)

OBSERVATION_TYPES = ("zero", "bias")

ODD_LEVEL = 0.5
"""Read noises by which the level of an input may differ from that of the others in any case."""
ODD_SHAPE = 0.25
"""Read noises, rms over blocks, by which its shape may differ."""
ODD_NOISE = 1.25
"""Factor by which its noise may differ."""


def combine_bias(
    loads: Iterable[tuple[int, Load]],
    defects: NDArray[np.bool_] | None = None,
    *,
    n_sigma: float = 4.0,
    min_inputs: int = 3,
    hot_pixel: float = 10.0,
    hot_column: float = 3.0,
) -> Master:
    """Combine the biases of a detector.

    Parameters
    ----------
    loads : iterable of (`int`, callable)
        Exposure numbers, and what reads the raw of each.
    defects : `numpy.ndarray`, (ny, nx), bool, optional
        Pixels that are known to be bad, of the whole CCD; the raws may be of its lower left part.
    n_sigma : `float`
        Where the mean is clipped.
    min_inputs : `int`
        Fewer good inputs are not combined.
    hot_pixel, hot_column : `float`
        Pixels and pieces of columns that lie so many read noises off their surroundings are BAD.

    Returns
    -------
    master : `Master`
        The variance is that of the mean: the noise measured between successive inputs, over the number used.

    Raises
    ------
    NothingToDoError
        If fewer than ``min_inputs`` can be used; the message names the others and why.
    """

    def signature(raw: RawDetector, out: Planes | None) -> Corrected:
        known = None if defects is None else defects[: raw.shape[0], : raw.shape[1]]
        return correct(raw, defects=known, out=out)

    found = load_frames(loads, signature, OBSERVATION_TYPES, in_adu=True)
    used = found.without({}, min_inputs)
    used = found.without(_odd(used, found.living), min_inputs)
    sigma = {amplifier.name: _noise(used, amplifier) for amplifier in found.living}
    parts = tuple((a.target[1], sigma[a.name] ** 2, 0.0) for a in found.living)
    images = [frame.image for frame in used]
    noise = [NoiseRows(image, parts) for image in images]
    stacked, scatter = combine_frames(images, noise, [1.0] * len(used), n_sigma)
    bad = np.zeros(found.shape, np.bool_)
    columns = np.zeros(found.shape, np.bool_)
    for amplifier in found.living:
        area = amplifier.target
        image = stacked.image[area]
        off = np.abs(image - local_level(image)) > hot_pixel * sigma[amplifier.name]
        columns[area] = odd_columns(image, hot_column * sigma[amplifier.name])
        # A pixel that jumps is clipped more than once; one cosmic ray is not held against it.
        jumps = (scatter[area] > 9.0) & (len(used) - stacked.n_used[area] >= 2)
        bad[area] = off | columns[area] | jumps
    planes = master_planes(stacked, bad, 0.0)
    common = {"detector": found.detector, **provenance(used, found.refused)}
    rows = [
        common | _metrics(amplifier, found, used, planes, scatter, columns, sigma)
        for amplifier in found.amplifiers
    ]
    return Master(planes, Table(rows=rows), found.refused)


def _odd(frames: Sequence[Frame], living: Sequence[RawAmplifier]) -> dict[int, str]:
    """Return the frames whose level, noise or shape is not that of the others."""
    odd: dict[int, str] = {}
    for amplifier in living:
        name = amplifier.name
        noises = np.array([_frame_noise(frame.image[amplifier.target]) for frame in frames])
        levels = np.array([frame.level(name) for frame in frames])
        shapes = shape_residuals(frames, name, relative=False)
        noise, level = float(np.median(noises)), float(np.median(levels))
        far = max(5 * robust_scatter(levels), ODD_LEVEL * noise)
        wide = max(4 * float(np.median(shapes)), ODD_SHAPE * noise)
        for k, frame in enumerate(frames):
            ratio = noises[k] / noise
            if not abs(levels[k] - level) <= far:
                reason = f"level of amplifier {name} {levels[k] - level:+.2f} ADU off the others'"
            elif not 1 / ODD_NOISE <= ratio <= ODD_NOISE:
                reason = f"noise of amplifier {name} {ratio:.2f} times the others'"
            elif not shapes[k] <= wide:
                reason = f"shape of amplifier {name} {shapes[k]:.2f} ADU rms off the others'"
            else:
                continue
            odd.setdefault(frame.exposure, reason)
    return odd


def _frame_noise(image: Plane) -> float:
    """Return the noise of one frame, from neighbours in a row: structure drops out, and outliers do."""
    sample = image[::16]
    step = sample[:, 1:] - sample[:, :-1]
    # Counts are whole numbers and so is their median deviation: it only says where to clip.
    with np.errstate(invalid="ignore"):
        kept = step[np.abs(step) < 4.5 * (robust_scatter(step) + 1)]
    return float(kept.std() / np.sqrt(2)) if kept.size else float("nan")


def _noise(frames: Sequence[Frame], amplifier: RawAmplifier) -> float:
    """Return the noise of a pixel, ADU, from the differences of successive frames."""
    pairs = list(pairwise(frames))
    area = amplifier.target
    blocks = frames[0].blocks[amplifier.name].size
    step = max(1, blocks * len(pairs) // 8192)
    size = min(BLOCK, *frames[0].image[area].shape)
    variances = [pair_noise(a.image[area], b.image[area], size, step)[0] for a, b in pairs]
    return float(np.sqrt(np.mean(variances) / 2))


def _metrics(
    amplifier: RawAmplifier,
    found: Frames,
    used: Sequence[Frame],
    planes: Planes,
    scatter: Plane,
    columns: NDArray[np.bool_],
    sigma: dict[str, float],
) -> dict[str, Any]:
    """Return what is known of one amplifier."""
    area, name = amplifier.target, amplifier.name
    row: dict[str, Any] = {"amplifier": name, "problem": found.dead.get(name, "")}
    if name in found.dead:
        nothing = ("level", "read_noise", "read_noise_overscan", "row_rms", "column_rms", "variance_ratio")
        return row | dict.fromkeys(nothing, np.nan) | {"hot_columns": 0, "defects": 1.0}
    bad = (planes.bits[area] & BIT["BAD"]) != 0
    image = np.where(bad, np.float32(np.nan), planes.image[area])
    row_rms, column_rms = row_and_column_rms(image)
    return row | {
        "level": float(np.nanmean(image)),
        "read_noise": sigma[name] * amplifier.gain,
        "read_noise_overscan": float(np.median([frame.overscan[name].read_noise for frame in used])),
        "row_rms": row_rms,
        "column_rms": column_rms,
        "variance_ratio": float(np.mean(scatter[area][planes.bits[area] == 0])),
        "hot_columns": int(np.count_nonzero(columns[area].any(axis=0))),
        "defects": float(np.mean(bad)),
    }

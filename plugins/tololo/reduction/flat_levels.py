"""How bright the flats of a night are on every detector, and which of them are good."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.errors import NothingToDoError
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.raw import RawDetector
from tololo.reduction.isr import Corrected, Crosstalk, correct
from tololo.reduction.master_frames import Frames, Load, Plane, load_frames, robust_scatter

OBSERVATION_TYPES = ("dome flat", "flat", "dflat")

ODD_LEVEL = 0.01
"""Relative deviation from (brightness of the exposure) x (response of the detector) that is allowed."""

type Key = tuple[int, int]
"""Exposure, detector."""


def load_flats(
    loads: Iterable[tuple[int, Load]], bias: Plane, bad: NDArray[np.bool_], crosstalk: Crosstalk
) -> Frames:
    """Read the flats of a detector in electrons, without overscan, crosstalk and bias.

    Parameters
    ----------
    loads : iterable of (`int`, callable)
        Exposure numbers, and what reads the raw of each.
    bias : `numpy.ndarray`, (ny, nx)
        ADU.
    bad : `numpy.ndarray`, (ny, nx), bool
        Pixels that the bias knows to be bad.
    crosstalk : `Crosstalk`
        Between the amplifiers.
    """

    def signature(raw: RawDetector, out: Planes | None) -> Corrected:
        return correct(raw, bias=bias, defects=bad, crosstalk=crosstalk, out=out)

    return load_frames(loads, signature, OBSERVATION_TYPES)


def measure_levels(found: Frames) -> Table:
    """Measure how bright each flat is on each amplifier of a detector.

    Parameters
    ----------
    found : `Frames`
        As `load_flats` returns them.

    Returns
    -------
    levels : `astropy.table.Table`
        One row for each exposure and amplifier: ``exposure``, ``detector``, ``amplifier``, ``level`` (mean of
        block medians, e-; NaN where there is none), ``saturated`` (fraction of the pixels), ``exposure_time``
        (s), ``problem`` why it cannot be used.
    """
    rows: list[dict[str, Any]] = []
    for amplifier in found.amplifiers:
        name = amplifier.name
        rows += [
            {
                "exposure": frame.exposure,
                "detector": found.detector,
                "amplifier": name,
                "level": np.nan if name in found.dead else frame.level(name),
                "saturated": 0.0 if name in found.dead else frame.saturated[name],
                "exposure_time": frame.exposure_time,
                "problem": found.refused.get(frame.exposure, ""),
            }
            for frame in found.frames
        ]
    unread = set(found.refused) - {frame.exposure for frame in found.frames}
    rows += [
        {
            "exposure": exposure,
            "detector": found.detector,
            "amplifier": "",
            "level": np.nan,
            "saturated": 0.0,
            "exposure_time": 0.0,
            "problem": found.refused[exposure],
        }
        for exposure in unread
    ]
    return Table(rows=sorted(rows, key=lambda row: (row["exposure"], row["amplifier"])))


def scale_flats(levels: Table, *, min_counts: float = 5000.0, max_saturated: float = 0.01) -> Table:
    """Separate the brightness of the flats of a filter from the response of the detectors.

    The level on amplifier c of exposure e is taken to be L(e) r(c). Its logarithm is fitted by alternating
    medians, so that a detector may lack exposures. What deviates is left out: on one detector, or on all
    where the exposure deviates on most of them. The responses have the mean 1 over all living amplifiers.

    Parameters
    ----------
    levels : `astropy.table.Table`
        `measure_levels` of all detectors.
    min_counts : `float`
        Fainter flats are left out, e-.
    max_saturated : `float`
        Flats with a larger fraction of saturated pixels are left out.

    Returns
    -------
    scales : `astropy.table.Table`
        One row for each exposure and detector: ``exposure``, ``detector``, ``level`` (mean over the living
        amplifiers, e-), ``response`` of the detector, ``used``, ``reason`` why not.

    Raises
    ------
    NothingToDoError
        If no flat is good; the message names why.
    """
    keys: list[Key] = sorted({(int(row["exposure"]), int(row["detector"])) for row in levels})
    channels = sorted(
        {(int(row["detector"]), str(row["amplifier"])) for row in levels if np.isfinite(row["level"])}
    )
    exposures = sorted({exposure for exposure, _ in keys})
    place = {exposure: e for e, exposure in enumerate(exposures)}, {c: k for k, c in enumerate(channels)}
    level = np.full((len(exposures), len(channels)), np.nan)
    reasons: dict[Key, str] = {}
    for row in levels:
        key = int(row["exposure"]), int(row["detector"])
        if np.isfinite(row["level"]):
            level[place[0][key[0]], place[1][key[1], str(row["amplifier"])]] = row["level"]
        if row["problem"]:
            reasons[key] = str(row["problem"])
        elif row["saturated"] > max_saturated:
            reasons.setdefault(key, f"{100 * row['saturated']:.1f} % of the pixels are saturated")
        elif row["level"] < min_counts:
            reasons.setdefault(key, f"its level is {row['level']:.0f} e-, below {min_counts:.0f}")
    _spread(reasons, keys)
    of_detector = np.array([detector for detector, _ in channels])
    logs, response = _fit(level, reasons, exposures, of_detector)
    for e, k in np.argwhere(_odd(logs, level)):
        deviation = level[e, k] / np.exp(logs[0][e] + logs[1][k]) - 1
        key = exposures[e], int(of_detector[k])
        reasons.setdefault(key, f"its level is {100 * deviation:+.1f} % off that of the others")
    _spread(reasons, keys)
    logs, response = _fit(level, reasons, exposures, of_detector)
    if not np.isfinite(response).any():
        why = "; ".join(dict.fromkeys(f"{exposure}: {reason}" for (exposure, _), reason in reasons.items()))
        raise NothingToDoError("No flat can be used" + (f" ({why})" if why else ""))
    rows = []
    for exposure, detector in keys:
        own = of_detector == detector
        mean = level[place[0][exposure], own]
        rows.append(
            {
                "exposure": exposure,
                "detector": detector,
                "level": float(np.mean(mean)) if mean.size else np.nan,
                "response": _mean(response[own]),
                "used": (exposure, detector) not in reasons,
                "reason": reasons.get((exposure, detector), ""),
            }
        )
    return Table(rows=rows)


def _spread(reasons: dict[Key, str], keys: Iterable[Key]) -> None:
    """Leave an exposure out on all detectors where it is left out on more than half of them."""
    detectors: defaultdict[int, list[int]] = defaultdict(list)
    for exposure, detector in keys:
        detectors[exposure].append(detector)
    for exposure, there in detectors.items():
        bad = [reasons[exposure, detector] for detector in there if (exposure, detector) in reasons]
        if 2 * len(bad) > len(there):
            for detector in there:
                reasons.setdefault(
                    (exposure, detector), f"left out on {len(bad)} of {len(there)} detectors: {bad[0]}"
                )


def _fit(
    level: NDArray[np.float64],
    reasons: Mapping[Key, str],
    exposures: list[int],
    detectors: NDArray[np.int64],
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]:
    """Fit log L(e) and log r(c) to what is not left out; also return r with the mean 1."""
    kept = np.where(level > 0, level, np.nan)
    for exposure, detector in reasons:
        kept[exposures.index(exposure), detectors == detector] = np.nan
    logs = np.log(kept)
    brightness, response = np.zeros(logs.shape[0]), np.zeros(logs.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # exposures and amplifiers without any level are NaN
        for _ in range(20):
            brightness = np.nanmedian(logs - response, axis=1)
            response = np.nanmedian(logs - brightness[:, None], axis=0)
        mean = float(np.nanmean(np.exp(response)))
    return (brightness + np.log(mean), response - np.log(mean)), np.exp(response) / mean


def _odd(
    logs: tuple[NDArray[np.float64], NDArray[np.float64]], level: NDArray[np.float64]
) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = np.log(level) - logs[0][:, None] - logs[1]
        if not np.isfinite(residual).any():
            return np.zeros(level.shape, np.bool_)
        return np.asarray(np.abs(residual) > max(5 * robust_scatter(residual), ODD_LEVEL))


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")

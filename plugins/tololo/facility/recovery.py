"""What is expected of a night's injected sources: how deep, complete, pure and true it has to be.

A number is beyond its limit only if that is certain: by more than `SIGMAS` times its own error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SIGMAS = 2.0
"""Errors by which a number has to miss its limit before anybody is told."""

TABLE, SUMMARY, PLOT = "injection_recovery", "injection_recovery_summary", "injection_recovery_plot"
HISTORY, HISTORY_PLOT = "injection_recovery_history", "injection_recovery_history_plot"
"""Dataset types of a measured night, all with the dimensions instrument and day_obs."""

WARN, FAIL = "warn", "fail"


@dataclass(frozen=True)
class Limits:
    """What the recovery of a night is judged by.

    Attributes
    ----------
    depth : `dict` [`str`, `float`]
        By band, the brightest magnitude (AB) at which half of the sources may be lost.
    completeness : `float` or `None`
        Least part of the sources above `tololo.reduction.recovery.BRIGHT` sigma that has to be recovered.
    purity : `float` or `None`
        Least part of the accepted detections, without those of the plain run, that has to be injected.
    bias : `float` or `None`
        Largest deviation from 1 of the median ratio of measured and true flux of these bright sources.
    alarm : `str`
        ``warn``: say what is beyond a limit; ``fail``: let the task fail as well.
    """

    depth: Mapping[str, float] = field(default_factory=dict)
    completeness: float | None = 0.9
    purity: float | None = 0.9
    bias: float | None = 0.03
    alarm: str = WARN


def alarms(bands: Mapping[str, Mapping[str, Any]], limits: Limits) -> list[str]:
    """Say what is beyond a limit.

    Parameters
    ----------
    bands : mapping
        By band ``depth``, ``completeness``, ``purity`` and ``bias``, each with its ``_error``; `None` or NaN
        where it could not be measured, which is no alarm.
    limits : `Limits`

    Returns
    -------
    sentences : `list` [`str`]
    """
    return [sentence for band, found in bands.items() for sentence in _beyond(band, found, limits)]


def _beyond(band: str, found: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    least = {
        "depth": (limits.depth.get(band), "half of the sources are recovered at {:.2f} mag", "{:.2f} mag"),
        "completeness": (limits.completeness, "{:.1%} of the bright sources are recovered", "{:.1%}"),
        "purity": (limits.purity, "{:.1%} of the new detections are injected sources", "{:.1%}"),
    }
    for name, (limit, sentence, form) in least.items():
        value, error = _number(found, name)
        if limit is not None and value + SIGMAS * error < limit:
            yield f"Band {band}: {sentence.format(value)}, the limit is {form.format(limit)}."
    value, error = _number(found, "bias")
    if limits.bias is not None and abs(value) - SIGMAS * error > limits.bias:
        yield (
            f"Band {band}: fluxes are {100 * value:+.1f} % off (error {100 * error:.1f} %), "
            f"the limit is {100 * limits.bias:g} %."
        )


def _number(found: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Return a value and its error; NaN, which is beyond no limit, where there is none."""
    value, error = found.get(name), found.get(f"{name}_error")
    if value is None:
        return math.nan, math.nan
    return float(value), 0.0 if error is None or math.isnan(error) else float(error)


def schema() -> dict[str, Any]:
    """Return the schema of the key ``recovery`` of a configuration."""
    part = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "depth": {
                "type": "object",
                "propertyNames": {"pattern": "^[A-Za-z0-9]+$"},
                "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": 40},
            },
            "completeness": part,
            "purity": part,
            "bias": part,
            "alarm": {"enum": [WARN, FAIL]},
        },
        "description": "use depth, completeness, purity, bias, alarm",
    }


def read_limits(content: Mapping[str, Any] | None) -> Limits:
    """Return the limits of a configuration as `schema` describes it; null takes a limit away."""
    return Limits(**(content or {}))

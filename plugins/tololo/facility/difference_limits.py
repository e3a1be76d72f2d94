"""What a detection on a difference image must keep to so as to be taken for something that changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tololo.facility.errors import BadInputError


@dataclass(frozen=True)
class Limit:
    """A limit: the rejection it leads to, its default, what it means, and its range."""

    reason: str
    default: float
    meaning: str
    least: float = 0.0
    most: float | None = None


LIMITS: Mapping[str, Limit] = {
    "edge": Limit("edge", 4.0, "pixels from the edge of the image or of its data, at least"),
    "saturated": Limit(
        "saturated", 3.0, "pixels from what is saturated in either image, bleed trails included, at least"
    ),
    "good_light": Limit("masked", 0.7, "part of the PSF's light on good pixels, at least", most=1.0),
    "flank": Limit(
        "flank", 0.1, "part of the flux of a brighter detection within three FWHM, at least", most=1.0
    ),
    "score": Limit("too faint", 5.5, "signal to noise of the matched filter, at least"),
    "significance": Limit(
        "kernel error", 4.5, "signal to noise with the subtraction's error on stars as noise, at least"
    ),
    "dipole_balance": Limit(
        "dipole", 0.3, "flux of the weaker of two lobes of opposite sign over that of the stronger, at most",
        most=1.0,
    ),
    "sharpness": Limit("sharper than the PSF", 1.2, "central pixel over what the PSF puts there, at most"),
    "chi2": Limit("not a point source", 5.0, "sigma by which chi^2 exceeds that of a point source, at most"),
    "model_error": Limit(
        "not a point source", 0.1, "part of the source by which the PSF may be wrong for that chi^2", most=1.0
    ),
    "trail": Limit("not a point source", 20.0, "length in arcsec of a trail that is taken for one, at most"),
    "moved": Limit(
        "moved away", 0.5, "FWHM from the detection to the fitted position (a pixel always), at most"
    ),
}  # fmt: skip
"""By name; a detection beyond one of them gets its reason as ``rejection``, the first that applies."""

REASONS = tuple(dict.fromkeys(limit.reason for limit in LIMITS.values()))
"""Why a detection is not taken for something that changed, in the order in which they are asked."""


@dataclass(frozen=True)
class DifferenceLimits:
    """The limits in force; `LIMITS` says what each means."""

    edge: float = LIMITS["edge"].default
    saturated: float = LIMITS["saturated"].default
    good_light: float = LIMITS["good_light"].default
    flank: float = LIMITS["flank"].default
    score: float = LIMITS["score"].default
    significance: float = LIMITS["significance"].default
    dipole_balance: float = LIMITS["dipole_balance"].default
    sharpness: float = LIMITS["sharpness"].default
    chi2: float = LIMITS["chi2"].default
    model_error: float = LIMITS["model_error"].default
    trail: float = LIMITS["trail"].default
    moved: float = LIMITS["moved"].default

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if not limit.least <= value <= (limit.most if limit.most is not None else value):
                range_ = f"from {limit.least:g}" + (
                    f" to {limit.most:g}" if limit.most is not None else " on"
                )
                raise BadInputError(
                    f"The limit {name} is {value!r}",
                    "limits of difference imaging",
                    f"give a number {range_}: {limit.meaning}",
                )

    def overrides(self, label: str = "differenceDetector") -> dict[str, str]:
        """Return what differs from the defaults as a task's configuration: ``label:limits.name`` to value."""
        default = DifferenceLimits()
        return {
            f"{label}:limits.{name}": repr(value)
            for name, value in asdict(self).items()
            if value != getattr(default, name)
        }


def schema() -> dict[str, Any]:
    """Return the schema of the key ``difference.limits`` of a configuration."""
    properties = {
        name: {
            "type": "number",
            "minimum": limit.least,
            **({} if limit.most is None else {"maximum": limit.most}),
            "description": limit.meaning,
        }
        for name, limit in LIMITS.items()
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "description": f"use {', '.join(LIMITS)}",
    }


def read_limits(content: Mapping[str, Any] | None) -> DifferenceLimits:
    """Return the limits that a configuration gives, over the defaults.

    Raises
    ------
    BadInputError
        If there is no such limit, or a value is no number or out of its range.
    """
    given = dict(content or {})
    if unknown := sorted(given.keys() - {field.name for field in fields(DifferenceLimits)}):
        raise BadInputError(
            f"There is no limit {', '.join(unknown)}",
            "limits of difference imaging",
            f"use {', '.join(LIMITS)}",
        )
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInputError(
                f"The limit {name} is {value!r}, no number",
                "limits of difference imaging",
                LIMITS[name].meaning,
            )
    return DifferenceLimits(**{name: float(value) for name, value in given.items()})

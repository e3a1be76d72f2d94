"""The facility's crosstalk coefficients: YAML, or the table that the observatory publishes, as objects.

What an amplifier gets of another one's signal is a part of it, and beyond an onset a polynomial of the
excess. The two amplifiers may belong to one CCD or to two that are read at the same time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tololo.facility.errors import BadInputError
from tololo.facility.yaml_file import line_of, read_yaml

FILE = "crosstalk.yaml"
FIRST_NORTHERN = 32
"""Number of the first CCD of the northern half; the halves are read in opposite directions."""

LINEAR_EVERYWHERE = 1e9
"""An onset beyond this, ADU, is how the observatory's table says that there is none."""

_AMPLIFIER = re.compile(r"(?:ccd)?0*([1-9]\d?)([AB])", re.ASCII)
_NAME = {"type": "string", "pattern": r"\S"}
_COEFFICIENT: dict[str, Any] = {
    "type": ["number", "object"],
    "exclusiveMinimum": -0.1,
    "exclusiveMaximum": 0.1,
    "additionalProperties": False,
    "required": ["linear"],
    "properties": {
        "linear": {"type": "number", "exclusiveMinimum": -0.1, "exclusiveMaximum": 0.1},
        "onset": {"type": "number", "exclusiveMinimum": 0},
        "polynomial": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
    },
    "dependentRequired": {"onset": ["polynomial"], "polynomial": ["onset"]},
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["versions"],
    "properties": {
        "versions": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["source"],
                "properties": {
                    "valid": {"type": ["string", "integer"]},
                    "source": _NAME,
                    "table": _NAME,
                    "coefficients": {
                        "type": "object",
                        "additionalProperties": {"type": "object", "additionalProperties": _COEFFICIENT},
                    },
                },
                "oneOf": [{"required": ["table"]}, {"required": ["coefficients"]}],
                "description": "give each version its source and either coefficients or a table",
            },
        }
    },
}
_REMEDY = "docs/calibrations.md has an example"


@dataclass(frozen=True)
class Coupling:
    """What one amplifier gets of another one's signal.

    Attributes
    ----------
    victim, source : `str`
        CCD and amplifier, such as ``28A``.
    linear : `float`
        Part of the signal (ADU above the overscan) that arrives.
    onset : `float`, optional
        Signal, ADU, beyond which the polynomial holds.
    polynomial : `tuple` [`float`, ...]
        Of the excess over the onset: coefficients of its first, second and third power; ``linear * onset``
        is added.
    """

    victim: str
    source: str
    linear: float
    onset: float | None = None
    polynomial: tuple[float, ...] = ()


@dataclass(frozen=True)
class CrosstalkVersion:
    """Coefficients that hold for some time.

    Attributes
    ----------
    valid : `str`
        Validity range, as `~tololo.hooks.validity.parse_validity` reads it.
    source : `str`
        Where they come from.
    couplings : `tuple` [`Coupling`, ...]
    where : `str`
        File and line, for messages.
    """

    valid: str
    source: str
    couplings: tuple[Coupling, ...]
    where: str


def read_crosstalk(path: Path) -> list[CrosstalkVersion]:
    """Read the crosstalk coefficients of a facility.

    Parameters
    ----------
    path : `pathlib.Path`
        The YAML file; tables that it names lie beside it.

    Returns
    -------
    versions : `list` [`CrosstalkVersion`]

    Raises
    ------
    BadInputError
        The file or a table breaks the form, or an amplifier does not exist; file, line and key are named.
    """
    import jsonschema

    content, node = read_yaml(path, "The crosstalk", _REMEDY)
    validator = jsonschema.Draft202012Validator(_SCHEMA)
    faults = sorted(validator.iter_errors(content or {}), key=lambda fault: list(map(str, fault.path)))
    if faults:
        keys = list(faults[0].absolute_path)
        raise BadInputError(
            f"Wrong crosstalk: {_said(faults[0])}",
            f"{path}, line {line_of(node, keys)}, key {'.'.join(map(str, keys)) or '(top)'}",
            faults[0].schema.get("description") or _REMEDY,
        )
    versions = []
    for number, version in enumerate(content["versions"]):
        line = line_of(node, ["versions", number])
        if "table" in version:
            couplings = tuple(_from_table(path.parent / version["table"]))
        else:
            couplings = tuple(
                _coupling(victim, source, value, f"{path}, line {_line(node, number, victim, source)}")
                for victim, sources in version["coefficients"].items()
                for source, value in sources.items()
            )
        valid = str(version.get("valid", ".."))
        versions.append(CrosstalkVersion(valid, version["source"], couplings, f"{path}, line {line}"))
    return versions


def amplifier_of(name: str, where: str = "") -> tuple[int, str]:
    """Return CCD number and amplifier of ``28A`` or ``ccd28A``.

    Raises
    ------
    BadInputError
        If there is no such amplifier.
    """
    match = _AMPLIFIER.fullmatch(name)
    if match is None or int(match[1]) > 62:
        raise BadInputError(
            f"There is no amplifier {name!r}", where, "write CCD number (1 to 62) and A or B, such as 28A"
        )
    return int(match[1]), match[2]


def _line(node: Any, number: int, victim: str, source: str) -> int:
    return line_of(node, ["versions", number, "coefficients", victim, source])


def _said(fault: Any) -> str:
    # What jsonschema says of a choice holds all of the content.
    return "neither or both of coefficients and table" if fault.validator == "oneOf" else str(fault.message)


def _coupling(victim: str, source: str, value: float | Mapping[str, Any], where: str) -> Coupling:
    terms: Mapping[str, Any] = value if isinstance(value, Mapping) else {"linear": value}
    to, start = amplifier_of(victim, where), amplifier_of(source, where)
    if to == start:
        raise BadInputError(f"Amplifier {victim} has crosstalk with itself", where, "take it out")
    if (to[0] < FIRST_NORTHERN) != (start[0] < FIRST_NORTHERN):
        raise BadInputError(
            f"Amplifiers {victim} and {source} are of the two halves of the camera",
            where,
            "take it out: the halves are read in opposite directions",
        )
    return Coupling(
        victim=f"{to[0]}{to[1]}",
        source=f"{start[0]}{start[1]}",
        linear=float(terms["linear"]),
        onset=None if terms.get("onset") is None else float(terms["onset"]),
        polynomial=tuple(map(float, terms.get("polynomial", ()))),
    )


def _from_table(path: Path) -> Iterator[Coupling]:
    """Read the observatory's table: victim, source, part, its error, onset, terms of the polynomial."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"The table of crosstalk cannot be read: {error}", str(path), "put it beside the YAML file"
        ) from error
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, 1):
        where, words = f"{path}, line {number}", line.partition("#")[0].split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[2:]]
        except ValueError:
            values = []
        if not 3 <= len(values) <= 6 or not all(map(math.isfinite, values)) or abs(values[0]) >= 0.1:
            raise BadInputError(
                f"Not a line of a table of crosstalk: {line.strip()!r}",
                where,
                "write victim, source, part, its error, onset of the non-linearity, up to three coefficients",
            )
        curved = values[2] < LINEAR_EVERYWHERE and any(values[3:])
        terms = {"linear": values[0]} | ({"onset": values[2], "polynomial": values[3:]} if curved else {})
        coupling = _coupling(words[0], words[1], terms, where)
        if (coupling.victim, coupling.source) in seen:
            raise BadInputError(
                f"{coupling.victim} and {coupling.source} are listed twice", where, "keep one"
            )
        seen.add((coupling.victim, coupling.source))
        yield coupling

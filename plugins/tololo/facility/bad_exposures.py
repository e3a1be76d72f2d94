"""Exposures that no night wants: the facility's list of bad ones, and words in OBJECT that tell of tests."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tololo.facility.configuration import INCLUDE
from tololo.facility.errors import BadInputError
from tololo.facility.yaml_file import line_of, read_yaml

WORDS = ("junk", "focus", "pointing", "donut")
"""Words of exposures that are no science, as the Community Pipeline has them."""

_TEXT = {"type": "string", "pattern": r"\S"}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "object_words": {"type": "array", "items": _TEXT},
        "exposures": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["expnum", "reason", "who"],
                "properties": {
                    "expnum": {"type": "integer", "minimum": 1},
                    "detectors": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "integer", "minimum": 1, "maximum": 62},
                        "description": "name CCD numbers, or leave the key out: then all of them are bad",
                    },
                    "reason": _TEXT,
                    "who": _TEXT,
                },
            },
        },
    },
}
_REMEDY = "each entry needs expnum, reason and who; docs/raws.md has an example"


@dataclass(frozen=True)
class BadExposure:
    """One entry of the list.

    ``detectors`` are the bad ones, by CCDNUM; none means all.
    """

    expnum: int
    reason: str
    who: str
    detectors: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason} ({self.who})"


@dataclass(frozen=True)
class Exclusions:
    """What is left out of every night.

    Attributes
    ----------
    words : `tuple` [`str`, ...]
        An exposure with one of these anywhere in OBJECT is left out, in capitals or not.
    exposures : `tuple` [`BadExposure`, ...]
        The list of bad exposures.
    """

    words: tuple[str, ...] = WORDS
    exposures: tuple[BadExposure, ...] = ()
    _by_number: dict[int, list[BadExposure]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_number: dict[int, list[BadExposure]] = {}
        for entry in self.exposures:
            by_number.setdefault(entry.expnum, []).append(entry)
        object.__setattr__(self, "_by_number", by_number)

    def of_exposure(self, expnum: int, target: str) -> str:
        """Say why an exposure (its EXPNUM and OBJECT) is left out as a whole; empty if it is wanted."""
        for entry in self._by_number.get(expnum, ()):
            if not entry.detectors:
                return f"on the list of bad exposures: {entry}"
        found = next((word for word in self.words if word.lower() in target.lower()), "")
        return f"OBJECT {target!r} has the word {found!r}" if found else ""

    def of_detectors(self, expnum: int) -> dict[int, str]:
        """Say which detectors of an exposure are left out, and why."""
        return {
            detector: f"on the list of bad exposures: {entry}"
            for entry in self._by_number.get(expnum, ())
            for detector in entry.detectors
        }


@functools.cache
def exclusions(path: str = "") -> Exclusions:
    """Return what the facility leaves out.

    Parameters
    ----------
    path : `str`, optional
        The YAML file; by default ``bad_exposures.yaml`` beside the facility's configuration, else the one in
        ``include/configs``.

    Raises
    ------
    BadInputError
        The file is not YAML or breaks the schema; the message names file, line and key.
    """
    if path:
        return read_exclusions(Path(path))
    own = Path(os.environ.get("TOLOLO_FACILITY") or INCLUDE / "configs" / "facility.yaml").parent
    candidates = [own / "bad_exposures.yaml", INCLUDE / "configs" / "bad_exposures.yaml"]
    there = next((file for file in candidates if file.is_file()), None)
    return read_exclusions(there) if there else Exclusions()


def read_exclusions(path: Path) -> Exclusions:
    """Read and validate a list of bad exposures; see `exclusions`."""
    import jsonschema

    content, node = read_yaml(path, "The list of bad exposures", "mend it")
    content = {} if content is None else content
    faults = sorted(jsonschema.Draft202012Validator(_SCHEMA).iter_errors(content), key=lambda e: list(e.path))
    if faults:
        fault = faults[0]
        keys = list(fault.absolute_path)
        raise BadInputError(
            f"Wrong list of bad exposures: {fault.message}",
            f"{path}, line {line_of(node, keys)}, key {'.'.join(map(str, keys)) or '(top)'}",
            fault.schema.get("description") or _REMEDY,
        )
    return Exclusions(
        words=tuple(word.strip() for word in content.get("object_words", WORDS)),
        exposures=tuple(map(_entry, content.get("exposures") or ())),
    )


def _entry(content: Mapping[str, Any]) -> BadExposure:
    return BadExposure(
        expnum=content["expnum"],
        reason=content["reason"].strip(),
        who=content["who"].strip(),
        detectors=tuple(content.get("detectors", ())),
    )

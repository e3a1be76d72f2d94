"""The configuration of one dataset of frames: ``reduction_config.yaml`` in its folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tololo.facility.angles import degrees
from tololo.facility.checked_yaml import CheckedYaml, read_checked
from tololo.facility.errors import BadInputError

FILE = "reduction_config.yaml"
"""Its name; another is not found."""

_NAME = "The reduction configuration"
_REMEDY = "docs/datasets.md has an example"
_TEXT = {"type": "string", "pattern": r"\S"}
_ANGLE = {"type": ["string", "number"]}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["target", "photometry"],
    "properties": {
        "target": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "RA", "Dec"],
            "properties": {"name": _TEXT, "RA": _ANGLE, "Dec": _ANGLE},
        },
        "photometry": {
            "type": "object",
            "additionalProperties": False,
            "required": ["aperture_arcsec"],
            "properties": {
                "aperture_arcsec": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 60,
                    "description": "the radius of the aperture in arcsec, 2.0 for instance",
                },
                "reference_image": {"type": ["string", "null"]},
                "reference_catalog": {"type": ["string", "null"]},
                "method": {"enum": ["aperture", "psf"]},
            },
        },
        "tom": {
            "type": "object",
            "additionalProperties": False,
            "required": ["upload"],
            "properties": {
                "upload": {"type": "boolean", "description": "write True or False"},
                "config_file": {"type": ["string", "null"]},
                "data_label": {"type": ["string", "null"]},
            },
        },
    },
}


@dataclass(frozen=True)
class Target:
    """What a dataset was observed for; ICRS degrees."""

    name: str
    ra: float
    dec: float


@dataclass(frozen=True)
class PhotometryConfig:
    """How a dataset is measured.

    ``aperture_arcsec`` is the radius of the aperture; ``reference_image`` the frame that defines the stars,
    the first good one where empty; ``reference_catalog`` a table of reference stars, the facility's where
    empty.
    """

    aperture_arcsec: float
    reference_image: str = ""
    reference_catalog: str = ""
    method: str = "aperture"


@dataclass(frozen=True)
class TomConfig:
    """Whether and how the target's light curve is published.

    ``config_file`` is a file with the TOM's address and login, as older installations have it; a connection
    is used where it is empty. ``data_label`` tells the light curves of one target apart.
    """

    upload: bool = False
    config_file: str = ""
    data_label: str = ""


@dataclass(frozen=True)
class DatasetConfig:
    """The configuration of a dataset."""

    target: Target
    photometry: PhotometryConfig
    tom: TomConfig


def read_dataset_config(folder: Path) -> DatasetConfig:
    """Read the configuration of the dataset in a folder.

    Raises
    ------
    BadInputError
        The file is missing, is not YAML, or something in it is wrong; file, line and key are named.
    """
    path = folder / FILE
    if not path.is_file():
        raise BadInputError("The dataset has no configuration", str(path), f"make a {FILE}; {_REMEDY}")
    found = read_checked(path, _NAME, _SCHEMA, _REMEDY)
    target, photometry, tom = (found.content.get(part) or {} for part in ("target", "photometry", "tom"))
    if math.isnan(photometry["aperture_arcsec"]):  # which no limit of the schema keeps out
        where = ["photometry", "aperture_arcsec"]
        raise found.wrong(where, "it is no number", "write the radius in arcsec, 2.0 for instance")
    return DatasetConfig(
        Target(
            target["name"].strip(),
            _angle(found, "RA", lambda text: degrees(text, hours=True)),
            _angle(found, "Dec", lambda text: degrees(text, hours=False)),
        ),
        PhotometryConfig(
            float(photometry["aperture_arcsec"]),
            photometry.get("reference_image") or "",
            photometry.get("reference_catalog") or "",
            photometry.get("method", "aperture"),
        ),
        TomConfig(bool(tom.get("upload")), tom.get("config_file") or "", tom.get("data_label") or ""),
    )


def _angle(found: CheckedYaml, key: str, parse: Callable[[str], float]) -> float:
    try:
        return parse(found.written("target", key))
    except ValueError as error:
        raise found.wrong(
            ["target", key], str(error), "write it in quotes, sexagesimal or in degrees"
        ) from None

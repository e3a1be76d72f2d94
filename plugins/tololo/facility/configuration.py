"""The facility's configuration: YAML, validated once at the door, and a typed object from there on."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tololo.facility import difference_limits, recovery, scorecard, template_selection, templates
from tololo.facility.calibrations import MAX_AGE, Limits, checked_limits, limits_schema
from tololo.facility.checked_yaml import read_checked
from tololo.facility.sites import SITES, offered, settings_schema

INCLUDE = Path(os.environ.get("TOLOLO_INCLUDE") or Path(__file__).parents[3] / "include")
"""The folder of pipelines and configurations."""

TEMPLATE_TYPES = ("meanclip", "mean", "median", "min")

SOURCES = ("raw", "instcal")

_REMEDY = "docs/configure.md says what is allowed; TOLOLO_FACILITY names another file"

_NAME = {"type": "string", "pattern": "^[A-Za-z0-9_]+$"}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "name",
        "instrument",
        "repository",
        "registry",
        "skymap",
        "site",
        "cores",
        "templates",
        "difference",
    ],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "instrument": {"enum": ["DECam"]},
        "repository": {"type": "string", "minLength": 1},
        "registry": {"enum": ["postgresql", "sqlite"]},
        "skymap": _NAME,
        "refcat": _NAME,
        "site": {"enum": list(SITES)},
        "sites": settings_schema(),
        "cores": {"type": "integer", "minimum": 1},
        "data": {"type": "string"},
        "source": {"enum": list(SOURCES)},
        "reference_stars": {"type": "string"},
        "transfer": {"enum": ["direct", "symlink", "copy", "move"]},
        "templates": {
            "type": "object",
            "additionalProperties": False,
            "required": ["subset", "type"],
            "properties": {
                "subset": _NAME,
                "type": {"enum": list(TEMPLATE_TYPES)},
                "selection": template_selection.schema(),
                "limits": templates.schema(),
            },
        },
        "calibrations": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"max_age": {"type": "integer", "minimum": 0}, "limits": limits_schema()},
        },
        "scorecard": scorecard.schema(),
        "recovery": recovery.schema(),
        "difference": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "detection_threshold": {"type": "number", "exclusiveMinimum": 0},
                "association_radius": {"type": "number", "exclusiveMinimum": 0},
                "ephemerides": {"type": "string"},
                "ephemerides_radius": {"type": "number", "exclusiveMinimum": 0},
                "limits": difference_limits.schema(),
            },
        },
        "datasets": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"manager": {"type": "string"}, "reference_catalog": {"type": "string"}},
        },
    },
}


@dataclass(frozen=True)
class Facility:
    """The facility as configured.

    ``repository`` is the root folder of the Butler repository, ``registry`` the kind of its database,
    ``data`` the default folder of a night's files, ``source`` what these are, ``cores`` what runs may use of
    this machine. ``sites`` are the compute sites that it offers, with their settings
    (`tololo.facility.sites`); ``site`` is the one that is used unless a run names another.
    ``template_selection`` is which visits templates take (`tololo.facility.template_selection`),
    ``template_limits`` what makes one good enough (`tololo.facility.templates`).
    ``calibration_limits`` is what makes master calibrations good enough (`tololo.facility.calibrations`),
    ``calibration_age`` how many days away they may be. ``scorecard`` is what makes a visit good enough
    (`tololo.facility.scorecard`), ``difference_limits`` what makes a detection on a difference image good
    enough (`tololo.facility.difference_limits`), ``recovery`` what is expected of injected sources
    (`tololo.facility.recovery`). ``ephemerides`` is the table of known solar-system bodies (none if empty),
    ``ephemerides_radius`` how many arcsec a source may be off one. ``dataset_manager`` is the manager's
    configuration of datasets of frames, ``dataset_catalog`` their table of reference stars (none if empty).
    """

    name: str
    instrument: str
    repository: str
    registry: str
    skymap: str
    refcat: str
    site: str
    sites: Mapping[str, Mapping[str, Any]]
    cores: int
    data: str
    source: str
    reference_stars: str
    transfer: str
    template_subset: str
    template_type: str
    template_selection: template_selection.Selection
    template_limits: templates.Limits
    detection_threshold: float
    association_radius: float
    ephemerides: str
    ephemerides_radius: float
    difference_limits: difference_limits.DifferenceLimits
    calibration_age: int
    calibration_limits: Limits
    scorecard: scorecard.Limits
    recovery: recovery.Limits
    dataset_manager: str
    dataset_catalog: str


@functools.cache
def facility(path: str = "") -> Facility:
    """Return the configuration of the facility.

    Parameters
    ----------
    path : `str`, optional
        The YAML file; by default ``TOLOLO_FACILITY``, else ``include/configs/facility.yaml``.

    Raises
    ------
    BadInputError
        The file is missing, is not YAML, or breaks the schema; the message names file, line and key.
    """
    return read_facility(
        Path(path or os.environ.get("TOLOLO_FACILITY") or INCLUDE / "configs" / "facility.yaml")
    )


def read_facility(path: Path) -> Facility:
    """Read and validate a facility's YAML file; see `facility`."""
    content = _validated(path)
    expanded: dict[str, Any] = {
        key: os.path.expandvars(value) if isinstance(value, str) else value for key, value in content.items()
    }
    difference, calibrations = expanded["difference"], expanded.get("calibrations") or {}
    datasets = expanded.get("datasets") or {}
    return Facility(
        name=expanded["name"],
        instrument=expanded["instrument"],
        repository=expanded["repository"],
        registry=expanded["registry"],
        skymap=expanded["skymap"],
        refcat=expanded.get("refcat", "gaia_dr2"),
        site=expanded["site"],
        sites=offered(expanded.get("sites") or {}),
        cores=expanded["cores"],
        data=expanded.get("data", ""),
        source=expanded.get("source", "raw"),
        reference_stars=expanded.get("reference_stars", ""),
        transfer=expanded.get("transfer", "direct"),
        template_subset=expanded["templates"]["subset"],
        template_type=expanded["templates"]["type"],
        template_selection=template_selection.read_selection(expanded["templates"].get("selection")),
        template_limits=templates.read_limits(expanded["templates"].get("limits")),
        detection_threshold=difference.get("detection_threshold", 5.0),
        association_radius=difference.get("association_radius", 1.0),
        ephemerides=os.path.expandvars(difference.get("ephemerides", "")),
        ephemerides_radius=difference.get("ephemerides_radius", 2.0),
        difference_limits=difference_limits.read_limits(difference.get("limits")),
        calibration_age=calibrations.get("max_age", MAX_AGE),
        calibration_limits=checked_limits(calibrations.get("limits")),
        scorecard=scorecard.read_limits(expanded.get("scorecard")),
        recovery=recovery.read_limits(expanded.get("recovery")),
        dataset_manager=os.path.expandvars(datasets.get("manager", "")),
        dataset_catalog=os.path.expandvars(datasets.get("reference_catalog", "")),
    )


def _validated(path: Path) -> dict[str, Any]:
    found = read_checked(path, "The facility's configuration", _SCHEMA, _REMEDY)
    content = found.content
    if content["site"] not in offered(content.get("sites") or {}):
        site = content["site"]
        raise found.wrong(["site"], f"{site!r} is not offered", f"put `{site}:` under `sites:`")
    if disorder := scorecard.misordered(content.get("scorecard")):
        keys, message = disorder
        raise found.wrong(["scorecard", *keys], message, "docs/scorecard.md says which is which")
    if disorder := templates.misordered(content["templates"].get("limits")):
        keys, message = disorder
        raise found.wrong(["templates", "limits", *keys], message, "write [lowest, highest]")
    return dict(content)

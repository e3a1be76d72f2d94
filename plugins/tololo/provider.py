"""What Airflow learns about Tololo from its entry point: the connection types and their forms."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata (read by Airflow at start; must stay quick to import)."""
    return {
        "package-name": "tololo",
        "name": "Tololo",
        "description": "DECam on the LSST middleware: Butler repositories, APDBs and TOMs.",
        "versions": ["0.1.0"],
        "connection-types": [_BUTLER, _APDB, _TOM, _LCO],
    }


def _choice(label: str, values: list[str], description: str) -> dict[str, Any]:
    return {
        "label": label,
        "description": description,
        "schema": {"type": ["string", "null"], "enum": values, "default": values[0]},
    }


_BUTLER: dict[str, Any] = {
    "connection-type": "butler",
    "hook-class-name": "tololo.hooks.butler.ButlerHook",
    "hook-name": "LSST Butler repository",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "port", "login", "password"],
        "relabeling": {"host": "Repository folder"},
        "placeholders": {"host": "/data/repository"},
    },
    "conn-fields": {
        "instrument": _choice("Instrument", ["DECam"], "The instrument whose data the repository holds."),
        "registry": _choice(
            "Registry", ["postgresql", "sqlite"], "Database of a repository that is to be created."
        ),
        "registry_url": {
            "label": "Registry URL",
            "description": "Database of a repository that is to be created; without a password.",
            "schema": {"type": ["string", "null"]},
        },
    },
}

_APDB: dict[str, Any] = {
    "connection-type": "apdb",
    "hook-class-name": "tololo.hooks.apdb.ApdbHook",
    "hook-name": "Alert Production Database (APDB)",
    "ui-field-behaviour": {
        "hidden-fields": ["extra"],
        "relabeling": {"schema": "Database"},
        "placeholders": {"host": "127.0.0.1", "schema": "apdb"},
    },
    "conn-fields": {
        "backend": _choice("Backend", ["postgresql", "sqlite"], "Kind of the database."),
        "config_folder": {
            "label": "Folder of APDB configurations",
            "description": "Where the YAML file of each APDB is kept.",
            "schema": {"type": ["string", "null"]},
        },
    },
}

_TOM: dict[str, Any] = {
    "connection-type": "tom",
    "hook-class-name": "tololo.hooks.tom.TomHook",
    "hook-name": "TOM Toolkit",
    "ui-field-behaviour": {
        "hidden-fields": ["port", "schema", "extra"],
        "relabeling": {"host": "URL", "login": "User", "password": "Token or password"},
        "placeholders": {"host": "https://tom.example.org"},
    },
    "conn-fields": {
        "create_targets": _choice(
            "Targets to create", ["missing", "never"], "What to do when the TOM lacks a target."
        ),
        "time_format": _choice(
            "Times", ["mjd", "jd", "hjd"], "What the TOM reads; TOM Toolkit itself reads MJD."
        ),
        "groups": {
            "label": "Groups",
            "description": "The TOM's groups that shall see new targets, with commas between them.",
            "schema": {"type": ["string", "null"]},
        },
        "permissions": _choice(
            "Permissions",
            ["", "OPEN", "PUBLIC", "PRIVATE"],
            "Of new targets; the TOM's default where empty.",
        ),
    },
}

_LCO: dict[str, Any] = {
    "connection-type": "lco",
    "hook-class-name": "tololo.hooks.lco.LcoArchiveHook",
    "hook-name": "Las Cumbres archive",
    "ui-field-behaviour": {
        "hidden-fields": ["port", "schema", "extra"],
        "relabeling": {"host": "URL", "login": "User", "password": "Token or password"},
        "placeholders": {"host": "https://archive-api.lco.global"},
    },
    "conn-fields": {
        "proposals": {
            "label": "Proposals",
            "description": "Whose frames are downloaded unless a run names others; separated by commas.",
            "schema": {"type": ["string", "null"]},
        },
    },
}

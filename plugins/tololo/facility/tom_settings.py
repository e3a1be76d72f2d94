"""Where a TOM is, how to enter it, and how things are published there.

They come from an Airflow connection or, as older installations have it, from a file with ``url``,
``tom_user_id`` and ``tom_password``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tololo.facility.checked_yaml import read_checked
from tololo.facility.errors import BadInputError
from tololo.facility.lightcurve import TIME_FORMATS, TimeFormat

type CreatePolicy = Literal["missing", "never"]
type Permissions = Literal["", "OPEN", "PUBLIC", "PRIVATE"]

CREATE_POLICIES: tuple[CreatePolicy, ...] = ("missing", "never")
PERMISSIONS: tuple[Permissions, ...] = ("OPEN", "PUBLIC", "PRIVATE")

_NAME = "The TOM's configuration"
_REMEDY = "docs/datasets.md has an example; better, leave config_file empty and use an Airflow connection"
_TEXT = {"type": "string", "pattern": r"\S"}

OPTIONS: dict[str, Any] = {
    "groups": {
        "type": ["string", "array"],
        "items": _TEXT,
        "description": "name the TOM's groups that shall see new targets, with commas between them",
    },
    "permissions": {"enum": list(PERMISSIONS), "description": f"write one of {', '.join(PERMISSIONS)}"},
    "time_format": {"enum": list(TIME_FORMATS), "description": f"write one of {', '.join(TIME_FORMATS)}"},
    "create_targets": {
        "enum": list(CREATE_POLICIES),
        "description": "write missing to make targets that the TOM lacks, or never",
    },
}
"""What can be set of a TOM, as JSON schemas: extras of its connection, keys of its file."""

_LOGIN = ("url", "tom_user_id", "tom_password")
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "url": _TEXT,
        "tom_user_id": {},
        "tom_password": {},  # looked at below: the validator's words would repeat it
        "connection": {**_TEXT, "description": "name an Airflow connection of type tom"},
        **OPTIONS,
    },
}


@dataclass(frozen=True)
class TomOptions:
    """How things are published in a TOM.

    Parameters
    ----------
    groups : `tuple` [`str`, ...]
        Names of the TOM's groups that shall see what is made there.
    permissions : `str`
        Of targets that are made: ``OPEN``, ``PUBLIC`` or ``PRIVATE``; the TOM's default where empty.
    time_format : `str`
        What the TOM takes ``time`` for; TOM Toolkit's own reader of photometry takes it for MJD.
    create_targets : ``"missing"`` or ``"never"``
        Whether targets are made that the TOM lacks.
    """

    groups: tuple[str, ...] = ()
    permissions: Permissions = ""
    time_format: TimeFormat = "mjd"
    create_targets: CreatePolicy = "missing"


@dataclass(frozen=True)
class TomSettings:
    """Address, credentials and options; ``where`` is the place to correct them.

    ``login`` is empty if ``secret`` is a token.
    """

    url: str
    login: str
    secret: str = field(repr=False)
    where: str
    options: TomOptions = TomOptions()


@dataclass(frozen=True)
class TomFile:
    """What a file says of a TOM: the name of a connection, or all settings; and options either way."""

    connection: str
    settings: TomSettings | None
    options: dict[str, Any]


def options_of(found: Mapping[str, Any], where: str) -> TomOptions:
    """Check the extras of a connection.

    Parameters
    ----------
    found : mapping
        By their names; what is empty is as if it were not there.
    where : `str`
        For messages.

    Raises
    ------
    BadInputError
        One has an unknown name or a value that is not allowed; the message says which are.
    """
    import jsonschema

    given = {name: value for name, value in found.items() if value not in (None, "", [])}
    if unknown := sorted(set(given) - set(OPTIONS)):
        raise BadInputError(
            f"There is no extra {unknown[0]!r} of a TOM", where, f"there are {', '.join(OPTIONS)}"
        )
    for name, value in given.items():
        if not jsonschema.Draft202012Validator(OPTIONS[name]).is_valid(value):
            raise BadInputError(
                f"{value!r} is no {name} of a TOM", f"{where}, extra {name}", OPTIONS[name]["description"]
            )
    groups = given.pop("groups", [])
    listed = groups.split(",") if isinstance(groups, str) else groups
    return TomOptions(groups=tuple(name.strip() for name in listed if name.strip()), **given)


def read_tom_file(path: Path) -> TomFile:
    """Read a TOM's configuration file.

    Raises
    ------
    BadInputError
        It cannot be read, or something in it is wrong; file, line and key are named, the password is not.
    """
    try:
        found = read_checked(path, _NAME, _SCHEMA, _REMEDY)
    except BadInputError as error:
        if "is not of type 'object'" in error.what:
            raise BadInputError(f"{_NAME} has no keys", str(path), _REMEDY) from None
        if error.what.startswith("Not YAML"):
            # The reason, and the error that it comes from, may repeat the password.
            remedy = "mend that line; a password with special characters stands in single quotes"
            raise BadInputError("Not YAML", error.where, remedy) from None
        raise
    content, where = found.content, str(path)
    options = {name: content[name] for name in OPTIONS if name in content}
    own = options_of({"create_targets": "never"} | options, where)
    if "connection" in content:
        if both := [key for key in _LOGIN if key in content]:
            raise found.wrong(both[:1], "there is a connection too", f"drop {', '.join(both)}")
        return TomFile(str(content["connection"]), None, options)
    for key in _LOGIN:
        if isinstance(content.get(key), dict | list) or not found.written(key).strip():
            raise found.wrong([key], f"{key} is missing", f"write it, or connection instead; {_REMEDY}")
    url, login, password = (found.written(key).strip() for key in _LOGIN)
    # As these files were used: people make the targets in the TOM.
    return TomFile("", TomSettings(url.rstrip("/"), login, password, where, own), options)

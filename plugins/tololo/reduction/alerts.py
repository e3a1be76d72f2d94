"""Alert packets in LSST's Avro schema.

``lsst-alert-packet`` is under the GPL; this is the one module that imports it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
from lsst.alert.packet import Schema  # type: ignore[import-untyped]

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.alert_packets import AlertPackets

_NUMBERS = {"int": int, "long": int, "float": float, "double": float, "boolean": bool, "string": str}


@functools.cache
def alert_schema() -> Schema:
    """Return the latest alert schema that ``lsst-alert-packet`` ships."""
    return Schema.from_file()


def schema_version() -> str:
    """Return the version of the schema: ``11.1``."""
    major, minor = str(alert_schema().definition["name"]).split(".")[1].removeprefix("v").split("_")
    return f"{major}.{minor}"


def pack(records: Sequence[Mapping[str, Any]]) -> AlertPackets:
    """Write alerts into an Avro object container; the same alerts give the same bytes.

    Parameters
    ----------
    records : sequence of mappings
        As `tololo.reduction.alert_records.alert_records` returns them, with ``cutoutDifference``,
        ``cutoutScience`` and ``cutoutTemplate`` (`bytes`). What the schema does not know is left out; what
        may be null and is missing, or is not a number, becomes null.

    Returns
    -------
    packets : `~tololo.reduction.formats.alert_packets.AlertPackets`

    Raises
    ------
    BadInputError
        If a value that must be there is not.
    """
    definition = alert_schema().definition
    fitted = [_fit(record, definition, f"alert {record.get('diaSourceId')}") for record in records]
    # Avro separates blocks by 16 random bytes; random ones would make each copy of a file another one.
    name = f"{definition['name']} {[record['diaSourceId'] for record in fitted]}"
    marker = hashlib.blake2b(name.encode(), digest_size=16).digest()
    with io.BytesIO() as file:
        fastavro.writer(file, definition, fitted, codec="deflate", sync_marker=marker)
        return AlertPackets(file.getvalue())


def _fit(value: Any, kind: Any, where: str) -> Any:
    """Turn a value into what an Avro type holds."""
    if isinstance(kind, list):
        options = [option for option in kind if option != "null"]
        absent = value is None or (isinstance(value, float) and math.isnan(value))
        return None if absent and "null" in kind else _fit(value, options[0], where)
    if isinstance(kind, dict) and kind["type"] == "record":
        if not isinstance(value, Mapping):
            raise BadInputError(f"There is no {kind['name']}", where, "associate the visit again")
        return {
            field["name"]: _fit(value.get(field["name"]), field["type"], f"{where}, {field['name']}")
            for field in kind["fields"]
        }
    if isinstance(kind, dict) and kind["type"] == "array":
        return [_fit(item, kind["items"], where) for item in value]
    if isinstance(kind, str) and kind in _named():
        return _fit(value, _named()[kind], where)
    if value is None:
        raise BadInputError(
            "A value is missing that every alert must have", where, "associate the visit again"
        )
    convert = _NUMBERS.get(kind if isinstance(kind, str) else kind["type"])
    return convert(value) if convert else value


@functools.cache
def _named() -> dict[str, Any]:
    """Return the records of the schema by name: where one is used again, only its name stands."""
    found: dict[str, Any] = {}

    def search(kind: Any) -> None:
        if isinstance(kind, list):
            for option in kind:
                search(option)
        elif isinstance(kind, dict):
            if kind.get("type") == "record":
                found[kind["name"]] = kind
            for inner in (kind.get("items"), *(field["type"] for field in kind.get("fields", ()))):
                search(inner)

    search(alert_schema().definition)
    return found

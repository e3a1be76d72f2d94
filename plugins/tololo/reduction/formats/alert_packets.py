"""Alert packets in the Butler: an Avro object container for each detector of a visit, stored as it is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import fastavro
from lsst.daf.butler import Config, FormatterV2
from lsst.resources import ResourcePath
from lsst.utils.introspection import get_full_type_name

STORAGE_CLASS = "AlertPackets"


@dataclass(frozen=True)
class AlertPackets:
    """The alerts of one detector of one visit.

    Parameters
    ----------
    content : `bytes`
        Avro object container file: the schema, and one record for each alert.
    """

    content: bytes

    @property
    def schema(self) -> dict[str, Any]:
        """The schema that they were written with."""
        schema: Any = fastavro.reader(io.BytesIO(self.content)).writer_schema
        return dict(schema)

    def records(self) -> list[dict[str, Any]]:
        """Return the alerts, in the order of their diaSourceId."""
        reader: Any = fastavro.reader(io.BytesIO(self.content))
        return list(reader)


class AlertPacketsFormatter(FormatterV2):
    """Store the Avro container as the file; any Avro reader opens it."""

    can_read_from_uri: ClassVar[bool] = True
    default_extension: ClassVar[str] = ".avro"

    def read_from_uri(self, uri: ResourcePath, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the file."""
        return AlertPackets(uri.read())

    def to_bytes(self, in_memory_dataset: AlertPackets) -> bytes:
        """Return the file's content."""
        return in_memory_dataset.content


def configure(config: Config) -> bool:
    """Tell a repository's configuration of the storage class and its formatter.

    Returns
    -------
    changed : `bool`
        False if they stood there.
    """
    wanted = {
        ("storageClasses", STORAGE_CLASS, "pytype"): get_full_type_name(AlertPackets),
        ("datastore", "formatters", STORAGE_CLASS): get_full_type_name(AlertPacketsFormatter),
    }
    missing = {key: value for key, value in wanted.items() if key not in config or config[key] != value}
    for key, value in missing.items():
        config[key] = value
    return bool(missing)

"""The LSST schema of the APDB with the extension that is shipped beside this file, `apdb_extension.yaml`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy
import yaml
from lsst.resources import ResourcePath

EXTENSION = files("tololo.reduction") / "apdb_extension.yaml"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_extension() -> dict[str, Any]:
    """Return the extension: ``base``, ``columns`` by table and ``indexes`` by table."""
    content: dict[str, Any] = yaml.safe_load(EXTENSION.read_text())
    return content


@contextmanager
def extended_schema() -> Iterator[str]:
    """Write LSST's schema with the extended columns, for as long as tables are made from it.

    Yields
    ------
    path : `str`
        Schema file, as ``init_database`` of dax_apdb takes it. An APDB that was made needs it no more: LSST's
        own schema reads and writes the same tables.
    """
    extension = read_extension()
    schema = yaml.load(ResourcePath(extension["base"]).read(), Loader=_LOADER)
    for table in schema["tables"]:
        changes = extension["columns"].get(table["name"], {})
        for column in table["columns"]:
            column.update(changes.get(column["name"], {}))
    with tempfile.TemporaryDirectory(prefix="tololo-apdb-") as folder:
        path = Path(folder) / "apdb.yaml"
        path.write_text(json.dumps(schema))  # JSON is YAML, and quicker written
        yield str(path)


def add_indexes(engine: sqlalchemy.Engine, namespace: str | None) -> None:
    """Make the indexes of the extension where they are missing."""
    for name, indexes in read_extension()["indexes"].items():
        table = sqlalchemy.Table(name, sqlalchemy.MetaData(schema=namespace), autoload_with=engine)
        for index in indexes:
            where = table.c[index["null"]].is_(None)
            wanted = sqlalchemy.Index(
                index["name"],
                *(table.c[column] for column in index["columns"]),
                postgresql_where=where,
                sqlite_where=where,
            )
            wanted.create(engine, checkfirst=True)


def band_length(engine: sqlalchemy.Engine, namespace: str | None, table: str) -> int | None:
    """Return how many characters a band may have in a table, `None` where nothing limits them.

    SQLite does not mind the length that a column was declared with.
    """
    if engine.dialect.name == "sqlite":
        return None
    columns = sqlalchemy.inspect(engine).get_columns(table, schema=namespace)
    return next(getattr(c["type"], "length", None) for c in columns if c["name"] == "band")

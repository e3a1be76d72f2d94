"""Passwords of databases for LSST's tools: in the environment, never in a URL, a file or a command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

CREDENTIALS = "LSST_DB_AUTH_CREDENTIALS"


def credential(host: str, port: int | str | None, database: str, login: str, password: str) -> dict[str, str]:
    """Return the entry of an ``LSST_DB_AUTH`` file for a PostgreSQL database."""
    address = f"{host}:{port}" if port else host
    return {"url": f"postgresql://{address}/{database}", "username": login, "password": password}


@contextmanager
def authorised(entry: dict[str, str]) -> Iterator[None]:
    """Let this process, and those started from it, find a password; an empty entry changes nothing.

    Ours goes before whatever ``LSST_DB_AUTH`` knows.
    """
    if not entry:
        yield
        return
    before = os.environ.get(CREDENTIALS)
    os.environ[CREDENTIALS] = json.dumps([entry, *_known()])
    try:
        yield
    finally:
        if before is None:
            del os.environ[CREDENTIALS]
        else:
            os.environ[CREDENTIALS] = before


def _known() -> list[dict[str, str]]:
    from lsst.utils.db_auth import DbAuth, DbAuthNotFoundError

    try:
        return list(DbAuth().authList)
    except DbAuthNotFoundError:
        return []

"""How the pages ask the engine's process of open Butlers, and of which repository."""

from __future__ import annotations

from typing import Any

from tololo.engine import client
from tololo.hooks.butler import ButlerHook

PATIENCE = 30.0
"""Seconds to wait for an answer of a server that is up."""

APDB_PATIENCE = 90.0
"""The same of an APDB: the first question loads what reads it, and opens it."""


def repository(connection: str = ButlerHook.default_conn_name) -> str:
    """Return the root folder of the repository that a connection names.

    Raises
    ------
    BadInputError
        If there is no such connection, or it names no folder.
    """
    return ButlerHook.from_connection(connection).repository


def ask(question: str, root: str, **arguments: Any) -> Any:
    """Ask one of the questions in `tololo.engine.night_questions` of the repository in a folder."""
    return client.ask(question, PATIENCE, repository=root, **arguments)


def ask_apdb(question: str, **arguments: Any) -> Any:
    """Ask one of the questions in `tololo.engine.candidate_questions`."""
    return client.ask(question, APDB_PATIENCE, **arguments)

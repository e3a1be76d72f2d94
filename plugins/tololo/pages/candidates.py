"""What the pages know of candidates: the diaObjects of an APDB, their light curves and cutouts."""

from __future__ import annotations

from typing import Any

from tololo.facility import collections
from tololo.facility.configuration import facility
from tololo.hooks.apdb import ApdbHook
from tololo.pages.engine import ask_apdb, repository

SHOWN = 50
"""Candidates on one page."""

ORDERS = {"newest": "the latest detection", "significant": "the most significant"}
"""What goes first, and how people call it."""


def board(apdb: str = "", order: str = "newest", after: int = 0) -> dict[str, Any]:
    """Return the candidates of an APDB.

    Parameters
    ----------
    apdb : `str`, optional
        Its name; that of the facility's template where it is empty.
    order : `str`, optional
        A key of `ORDERS`.
    after : `int`, optional
        How many to leave out.

    Returns
    -------
    content : `dict`
        ``name``, ``apdb`` (what it holds), ``candidates``, ``more``, ``order``, ``orders``, ``after``,
        ``shown``.
    """
    name = apdb or default_apdb()
    found = ask_apdb("candidates", **_place(name), order=order, limit=SHOWN, offset=max(0, after))
    return {**found, "name": name, "order": order, "orders": ORDERS, "after": max(0, after), "shown": SHOWN}


def candidate(dia_object_id: int, apdb: str = "") -> dict[str, Any]:
    """Return one candidate; see `tololo.engine.candidate_questions.candidate`."""
    name = apdb or default_apdb()
    found = ask_apdb("candidate", **_place(name), dia_object_id=dia_object_id)
    # What the param `targets` of photometry_to_tom takes, to measure its place on all difference images.
    target = f"Tololo-{dia_object_id} {found['ra']:.7f} {found['dec']:.7f}"
    return {**found, "name": name, "target": target}


def plot(dia_object_id: int, apdb: str = "") -> str:
    """Return the light curve of a candidate as base64 of a PNG."""
    return str(ask_apdb("candidate_plot", **_place(apdb), dia_object_id=dia_object_id))


def light_curve(dia_object_id: int, kind: str, apdb: str = "") -> str:
    """Return the light curve of a candidate as base64 of a ``parquet`` or ``csv`` file."""
    return str(ask_apdb("candidate_file", **_place(apdb), dia_object_id=dia_object_id, kind=kind))


def cutouts(dia_object_id: int, dia_source_id: int, apdb: str = "") -> str:
    """Return what a detection looks like as base64 of a PNG."""
    ids = {"dia_object_id": dia_object_id, "dia_source_id": dia_source_id}
    return str(ask_apdb("candidate_cutouts", **_place(apdb), **ids, repository=repository()))


def default_apdb() -> str:
    """Return the name of the APDB of the facility's own template."""
    return collections.apdb(facility().template_subset, facility().template_type)


def _place(name: str) -> dict[str, Any]:
    hook = ApdbHook()
    config = hook.config_path(name or default_apdb())
    return {"config": str(config), "credentials": hook.place.credentials}

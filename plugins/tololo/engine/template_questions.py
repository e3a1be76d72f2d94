"""What can be asked about the versions of a template: the questions of the page that shows them.

They are asked like those of `tololo.engine.questions` and answered with JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tololo.engine.night_questions import plain
from tololo.engine.repositories import find_collection, known_types
from tololo.engine.template_versions import read_versions
from tololo.facility.errors import NothingToDoError
from tololo.facility.templates import PLOT, SUMMARY, TABLE

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef


def template_versions(butler: Butler, chain: str, version: str = "") -> dict[str, Any]:
    """Return the versions of a template, and all about one of them.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    chain : `str`
        ``{coadd_subset}/{template_type}/coadd``.
    version : `str`, optional
        The one to be shown; by default the accepted one, else the newest.

    Returns
    -------
    content : `dict`
        ``chain``; ``versions``: for each, the newest first, ``name``, ``number``, ``state``, ``images``,
        ``templates``, ``settings`` and ``history``; ``shown``, the name of one; its ``summary`` and ``rows``
        (``template_summary`` and ``template_scorecard``, empty if there are none), and ``plot``, whether
        there is one.

    Raises
    ------
    NothingToDoError
        If there is no version, or not this one.
    """
    found = {item.name: item for item in reversed(read_versions(butler, chain))}
    current = next((name for name, item in found.items() if item.is_current), next(iter(found), ""))
    shown = version or current
    if shown not in found:
        raise NothingToDoError("There is no such template", shown or chain, "run template_coadds")
    summary, table = _find(butler, SUMMARY, shown), _find(butler, TABLE, shown)
    return {
        "chain": chain,
        "versions": [
            {
                "name": name,
                "number": item.number,
                "state": item.state,
                "images": item.images,
                "templates": item.templates,
                "settings": item.settings,
                "history": [asdict(record) for record in item.history],
            }
            for name, item in found.items()
        ],
        "shown": shown,
        "summary": plain(butler.get(summary)) if summary else {},
        "rows": _rows(butler.get(table)) if table else [],
        "plot": _find(butler, PLOT, shown) is not None,
    }


def template_plot(butler: Butler, chain: str, version: str = "") -> str:
    """Return the plot of a version, a PNG, as base64; parameters as `template_versions`.

    Raises
    ------
    NothingToDoError
        If there is none.
    """
    ref = _find(butler, PLOT, version or chain)
    if ref is None:
        raise NothingToDoError("There is no plot of this template", version or chain)
    # The file as it is: the formatter of plots writes figures and reads none.
    return base64.b64encode(butler.getURI(ref).read()).decode("ascii")


def _rows(table: Any) -> list[dict[str, Any]]:
    """Return an astropy table as rows."""
    return [plain({name: row[name] for name in table.colnames}) for row in table]


def _find(butler: Butler, kind: str, name: str) -> DatasetRef | None:
    if find_collection(butler, name) is None or not known_types(butler, [kind]):
        return None
    refs: Sequence[DatasetRef] = butler.query_datasets(kind, name, limit=None, explain=False)
    return refs[0] if refs else None

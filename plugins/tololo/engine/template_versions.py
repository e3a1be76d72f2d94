"""The versions of a template, as the Butler has them, and what became of each.

Each event is a dataset ``template_version`` (without dimensions) in a RUN of its own below the version:
``{coadd}/v<N>/state/{YYYYmmddTHHMMSSZ}``. Nothing is ever changed, so the newest record is the state, and all
of them are the history. They are ordinary datasets: whatever copies or backs up a repository keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection, known_types
from tololo.facility import collections
from tololo.facility.templates import ACCEPTED, CANDIDATE, SUPERSEDED, WARPS, State

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

DATASET = "template_version"
STATE = "state"


@dataclass(frozen=True)
class Record:
    """An event in the life of a version.

    Attributes
    ----------
    state : `str`
        What the version is from now on.
    when : `str`
        UTC, ISO 8601.
    who : `str`
        A person, ``limits`` or ``selection``.
    why : `str`
        For people.
    settings : `dict`
        What shapes its pixels beside the inputs: ``warp``, and of PSF-matched warps ``fwhm``.
    selection : `dict`
        By which rules its visits were chosen.
    """

    state: State
    who: str = ""
    why: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    when: str = ""


@dataclass(frozen=True)
class TemplateVersion:
    """A version: its state, since when, by whom and why; what it was made from; and whether it is in use."""

    number: int
    name: str
    state: State
    is_current: bool
    images: int
    templates: int
    history: tuple[Record, ...] = ()

    @property
    def latest(self) -> Record:
        """The newest record; of a version that has none, one that says no more than its state."""
        return self.history[-1] if self.history else Record(self.state)

    @property
    def settings(self) -> dict[str, Any]:
        """What shapes its pixels beside the inputs."""
        return self.history[0].settings if self.history else {"warp": WARPS[0]}


def read_versions(butler: Butler, chain: str) -> list[TemplateVersion]:
    """List the versions of a template, the first one first.

    What the chain points at is accepted, whatever the records say; nothing else is.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    chain : `str`
        ``{coadd_subset}/{template_type}/coadd``.
    """
    records = read_records(butler, f"{chain}/v*")
    current = current_version(butler, chain)
    found = []
    for inputs in butler.collections.query(f"{chain}/v*/inputs"):
        name = inputs.removesuffix("/inputs")
        history = tuple(records.get(name, ()))
        state: State = history[-1].state if history else CANDIDATE
        if name == current:
            state = ACCEPTED
        elif state == ACCEPTED:
            state = SUPERSEDED if current else CANDIDATE
        found.append(
            TemplateVersion(
                number=collections.version_of(inputs, chain) or 0,
                name=name,
                state=state,
                is_current=name == current,
                images=count_of(butler, "visit_image", inputs),
                templates=count_of(butler, "template_coadd", name),
                history=history,
            )
        )
    return sorted(found, key=lambda item: item.number)


def current_version(butler: Butler, chain: str) -> str:
    """Return the version that the chain of a template points at; empty if there is none."""
    info = find_collection(butler, chain)
    children = info.children if info else ()
    return next((name for name in children if collections.version_of(name, chain)), "")


def count_of(butler: Butler, kind: str, name: str) -> int:
    """Count the datasets of a type in a collection; either may not exist."""
    if find_collection(butler, name) is None or not known_types(butler, [kind]):
        return 0
    return len(butler.query_datasets(kind, name, find_first=True, limit=None, explain=False))


def read_records(butler: Butler, pattern: str) -> dict[str, list[Record]]:
    """Return the records of versions, by version, the newest last.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    pattern : `str`
        A version, or ``{coadd}/v*`` for all of a template.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    runs = butler.collections.query(f"{pattern}/{STATE}/*", collection_types=CollectionType.RUN)
    if not runs or not known_types(butler, [DATASET]):
        return {}
    refs = butler.query_datasets(DATASET, runs, find_first=False, limit=None, explain=False)
    records: dict[str, list[Record]] = {}
    for ref in sorted(refs, key=lambda ref: ref.run):
        records.setdefault(ref.run.partition(f"/{STATE}/")[0], []).append(Record(**butler.get(ref)))
    return records


def settings_of(records: Mapping[str, list[Record]], version: str) -> dict[str, Any] | None:
    """Return the settings that a version was begun with, `None` if that is not recorded."""
    found = records.get(version)
    return found[0].settings if found else None

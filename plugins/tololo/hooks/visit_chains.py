"""Where the visits of a night are: from raws in ``{night}/drp``, from InstCal in ``{night}/instcal``.

Their difference images are in ``{night}/{coadd_subset}/{template_type}/diff_drp`` or ``.../diff_instcal``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tololo.engine.repositories import existing, known_types
from tololo.facility import collections
from tololo.facility.errors import BadInputError
from tololo.facility.scorecard import Word
from tololo.hooks.scorecard import PROC_TYPES, verdicts

if TYPE_CHECKING:
    from lsst.daf.butler import Butler


@dataclass(frozen=True)
class LeftOut:
    """What the scorecards of nights say about their visits.

    Attributes
    ----------
    visits : `dict` [`int`, `str`]
        The visits that are not to be used, and what the scorecard calls them.
    unscored : `list` [`int`]
        Nights without a scorecard: all of their visits are used.
    """

    visits: dict[int, Word] = field(default_factory=dict)
    unscored: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        groups: dict[str, list[int]] = {}
        for visit, word in sorted(self.visits.items()):
            groups.setdefault(word, []).append(visit)
        parts = [
            f"{len(visits)} {word} ({', '.join(map(str, visits))})" for word, visits in sorted(groups.items())
        ] or ["none"]
        if self.unscored:
            nights = ", ".join(map(str, self.unscored))
            parts.append(f"no scorecard, so all visits are taken, of {nights}")
        return "; ".join(parts)

    def of(self, visits: Collection[int]) -> LeftOut:
        """Return the same of some visits only."""
        return LeftOut({v: word for v, word in self.visits.items() if v in visits}, self.unscored)


def visit_chains(butler: Butler, proc_type: str | None = None, night: int | str = "*") -> dict[int, str]:
    """Return the chain of visits of each night that has some.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    proc_type : `str`, optional
        ``drp`` or ``instcal``: only nights that have visits of this kind. Unless given, those from raws are
        taken where a night has them, else those from InstCal.
    night : `int` or `str`, optional
        Only this one.

    Raises
    ------
    BadInputError
        If there is no such processing type.
    """
    if proc_type and proc_type not in PROC_TYPES:
        raise BadInputError(
            f"There are no visits of {proc_type!r}", "proc_type", f"use {' or '.join(PROC_TYPES)}, or none"
        )
    found: dict[int, str] = {}
    for kind in [proc_type] if proc_type else PROC_TYPES:
        there, _ = existing(butler, [f"{night}/{kind}"])
        by_night = {int(name.partition("/")[0]): name for name in there if _is_of_night(name, kind)}
        new = {key: name for key, name in by_night.items() if key not in found}
        found |= _with_images(butler, new, "visit_image")
    return dict(sorted(found.items()))


def difference_chains(butler: Butler, coadd_subset: str, template_type: str) -> dict[int, str]:
    """Return the chain of difference images of each night that has some, made with one template.

    Of a night whose visits were made from raws and from InstCal those from raws count.
    """
    found: dict[int, str] = {}
    for kind in PROC_TYPES:
        tail = collections.chain(
            collections.difference(kind), coadd_subset=coadd_subset, template_type=template_type
        )
        there, _ = existing(butler, [f"*/{tail}"])
        nights = {name.removesuffix(f"/{tail}"): name for name in there}
        chains = {int(night): name for night, name in nights.items() if night.isdigit() and len(night) == 8}
        chains = {night: name for night, name in chains.items() if night not in found}
        found |= _with_images(butler, chains, "difference_image")
    return dict(sorted(found.items()))


def left_out(butler: Butler, chains: Iterable[str], words: Collection[Word]) -> LeftOut:
    """Return the visits of some chains that their scorecards call one of some words.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    chains : iterable of `str`
        ``{night}/{proc_type}``.
    words : collection of `str`
        ``flagged``, ``rejected``.
    """
    found = LeftOut()
    for chain in chains:
        night, _, proc_type = chain.partition("/")
        said = verdicts(butler, night, proc_type)
        found.visits.update({visit: word for visit, word in said.items() if word in words})
        found.unscored.extend([] if said else [int(night)])
    return found


def _is_of_night(name: str, kind: str) -> bool:
    return len(name) == len(f"20190401/{kind}") and name.partition("/")[0].isdigit()


def _with_images(butler: Butler, chains: dict[int, str], image: str) -> dict[int, str]:
    """Choose the chains that hold images; ingest makes a chain of visits before there are any."""
    if not chains or not known_types(butler, [image]):
        return {}
    infos = butler.collections.query_info(chains.values(), include_summary=True, summary_datasets=[image])
    maybe = {info.name for info in infos if info.dataset_types}
    return {
        night: name
        for night, name in chains.items()
        if name in maybe and butler.query_datasets(image, name, limit=1, explain=False)
    }

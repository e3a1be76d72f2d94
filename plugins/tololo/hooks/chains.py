"""The one function that writes chains of collections.

The lock is the database's own: a write transaction on SQLite, the lock on the chain's row on PostgreSQL. It
holds for every process on every machine, and nobody has to clean it up after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tololo.facility import collections
from tololo.facility.errors import BadInputError

if TYPE_CHECKING:
    from lsst.daf.butler import Butler


@dataclass(frozen=True)
class ChainReport:
    """What a chain is now, and what became of it.

    Attributes
    ----------
    chain : `str`
        Its name.
    children : `tuple` [`str`, ...]
        In search order.
    added : `tuple` [`str`, ...]
        Children that were not in it before.
    vanished : `tuple` [`str`, ...]
        Children that nobody wants any more: kept at the end, or taken out if that was asked for.
    missing : `tuple` [`str`, ...]
        Wanted collections that the repository does not have.
    """

    chain: str
    children: tuple[str, ...]
    added: tuple[str, ...]
    vanished: tuple[str, ...]
    missing: tuple[str, ...]


def write_chain(
    butler: Butler,
    chain: str,
    own: Iterable[str] | None = None,
    inputs: Sequence[str] = (),
    *,
    drop: bool = False,
) -> ChainReport:
    """Bring a chain up to date: own RUNs newest first, then its inputs in search order.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable.
    chain : `str`
        Name of the chain; it is made if it does not exist.
    own : iterable of `str`, optional
        RUNs to have in it, besides those below its name that it has already; all RUNs below its name by
        default.
    inputs : sequence of `str`, optional
        What it reads after its own RUNs.
    drop : `bool`, optional
        Make the chain exactly ``own`` and ``inputs``, as when a template's accepted version changes.
        Otherwise a child is never lost: what nobody wants any more stays at the end.

    Returns
    -------
    report : `ChainReport`

    Raises
    ------
    BadInputError
        If the name is bad, or belongs to a collection that is no chain, or the chain would contain itself.

    Notes
    -----
    Safe when several processes write the same chain at once: the present children are read under the lock.
    """
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    collections.check_name(chain, "chain")
    below = f"{chain}/"
    if chain in inputs:
        raise BadInputError(f"The chain {chain!r} would contain itself", "chain", "take it out of its inputs")
    if chain not in _existing(butler, [chain]):
        butler.collections.register(chain, CollectionType.CHAINED)
    if (kind := butler.collections.get_info(chain).type) is not CollectionType.CHAINED:
        raise BadInputError(
            f"The collection {chain!r} is a {kind.name}, not a chain", "repository", "use another name"
        )
    with butler.transaction():
        # Adding nothing changes nothing, but takes the lock until the end of the transaction.
        butler.collections.extend_chain(chain, [])
        before = butler.collections.get_info(chain).children
        if own is None:
            runs = set(butler.collections.query(f"{below}*", collection_types=CollectionType.RUN))
        else:
            runs = set(own)
        if not drop:
            runs |= {child for child in before if child.startswith(below) and child not in inputs}
        wanted = list(dict.fromkeys([*collections.newest_first(runs), *inputs]))
        there = _existing(butler, wanted)
        vanished = [child for child in before if child not in wanted]
        children = [name for name in wanted if name in there] + ([] if drop else vanished)
        if tuple(children) != before:
            butler.collections.redefine_chain(chain, children)
    return ChainReport(
        chain=chain,
        children=tuple(children),
        added=tuple(name for name in children if name not in before),
        vanished=tuple(vanished),
        missing=tuple(name for name in wanted if name not in there),
    )


def _existing(butler: Butler, names: Iterable[str]) -> set[str]:
    from lsst.daf.butler import MissingCollectionError

    there = set()
    for name in names:
        try:
            butler.collections.get_info(name)
        except MissingCollectionError:
            continue
        there.add(name)
    return there

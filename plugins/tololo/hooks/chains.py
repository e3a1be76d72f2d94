"""The one function that writes chains of collections.

The lock is the database's own: a write transaction on SQLite, the lock on the chain's row on PostgreSQL. It
holds for every process on every machine, and nobody has to clean it up after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tololo.engine.repositories import find_collection
from tololo.facility import collections
from tololo.facility.errors import BadInputError, UnavailableError

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

ATTEMPTS = 5
"""How often a chain is computed anew because a child was removed while it was written."""


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

    def __str__(self) -> str:
        parts = [f"{self.chain}: children {len(self.children)}, of them new {len(self.added)}"]
        if kept := [name for name in self.vanished if name in self.children]:
            parts.append(f"nobody asks any more for {', '.join(kept)}, kept at the end")
        if gone := [name for name in self.vanished if name not in self.children]:
            parts.append(f"taken out: {', '.join(gone)}")
        if self.missing:
            parts.append(f"not in the repository: {', '.join(self.missing)}")
        return "; ".join(parts)


def write_chain(
    butler: Butler,
    chain: str,
    own: Iterable[str] | None = None,
    inputs: Sequence[str] = (),
    *,
    drop: bool = False,
    dry_run: bool = False,
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
    dry_run : `bool`, optional
        Say what the chain would be; write nothing.

    Returns
    -------
    report : `ChainReport`

    Raises
    ------
    BadInputError
        If the name is bad, or belongs to a collection that is no chain, or the chain would contain itself.
    UnavailableError
        If children are removed again and again while the chain is written.

    Notes
    -----
    Safe when several processes write the same chain at once: the present children are read under the lock.
    """
    from lsst.daf.butler import (  # type: ignore[attr-defined]
        CollectionCycleError,
        CollectionType,
        MissingCollectionError,
    )
    from sqlalchemy.exc import IntegrityError

    collections.check_name(chain, "chain")
    wanted = None if own is None else set(own)
    info = find_collection(butler, chain)
    if info and info.type is not CollectionType.CHAINED:
        raise BadInputError(
            f"The collection {chain!r} is a {info.type.name}, not a chain", "repository", "use another name"
        )
    if chain in inputs or chain in (wanted or ()):
        raise _contains_itself(chain)
    if dry_run:
        return _plan(butler, chain, wanted, inputs, drop, info is not None)
    for _ in range(ATTEMPTS):
        try:
            butler.collections.register(chain, CollectionType.CHAINED)
            with butler.transaction():
                # Adding nothing changes nothing, but takes the lock until the end of the transaction.
                butler.collections.extend_chain(chain, [])
                report = _plan(butler, chain, wanted, inputs, drop, True)
                if report.children != butler.collections.get_info(chain).children:
                    butler.collections.redefine_chain(chain, report.children)
            return report
        except CollectionCycleError:
            raise _contains_itself(chain) from None
        except (MissingCollectionError, IntegrityError):
            continue  # a child was removed after it was looked up: children themselves are not locked
    raise UnavailableError(
        "Children of the chain are being removed while it is written", f"chain {chain}", "try again"
    )


def _plan(
    butler: Butler, chain: str, own: set[str] | None, inputs: Sequence[str], drop: bool, is_there: bool
) -> ChainReport:
    """Compute what the chain has to be, from what it is now."""
    from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

    before = butler.collections.get_info(chain).children if is_there else ()
    if own is None:  # a glob reads the names of all collections of all nights, so only where it is needed
        own = set(butler.collections.query(f"{chain}/*", collection_types=CollectionType.RUN))
    runs = set(own)
    if not drop and (below := [child for child in before if child.startswith(f"{chain}/")]):
        runs |= set(butler.collections.query(below, collection_types=CollectionType.RUN)) - set(inputs)
    wanted = list(dict.fromkeys([*collections.newest_first(runs), *inputs]))
    there = {name for name in wanted if find_collection(butler, name)}
    vanished = [child for child in before if child not in wanted]
    children = [name for name in wanted if name in there] + ([] if drop else vanished)
    return ChainReport(
        chain=chain,
        children=tuple(children),
        added=tuple(name for name in children if name not in before),
        vanished=tuple(vanished),
        missing=tuple(name for name in wanted if name not in there),
    )


def _contains_itself(chain: str) -> BadInputError:
    return BadInputError(f"The chain {chain!r} would contain itself", "chain", "take it out of its inputs")

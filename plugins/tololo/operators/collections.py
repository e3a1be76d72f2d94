"""Operators on collections: tag, chain, prune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.operators.butler import ButlerOperator, names

if TYPE_CHECKING:
    from tololo.hooks.chains import ChainReport
    from tololo.hooks.curation import CurationHook
    from tololo.hooks.runs import PruneReport
    from tololo.hooks.tags import TagReport


class AssociateOperator(ButlerOperator):
    """Put datasets into a TAGGED collection, which is made if need be.

    Nothing found is a skip, with the reason. All that lists names takes one string with commas too.

    :param collection: the TAGGED collection (templated).
    :param dataset_types: which types (templated).
    :param sources: collections to search, in order (templated).
    :param where: data query in the Butler's language (templated); DECam is meant unless it names the
        instrument.
    :param replace: let a dataset take the place of another one with the same data ID, instead of refusing it.
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "collection",
        "dataset_types",
        "sources",
        "where",
    )

    def __init__(
        self,
        *,
        collection: str,
        dataset_types: str | Sequence[str],
        sources: str | Sequence[str],
        where: str = "",
        replace: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.collection = collection
        self.dataset_types = dataset_types
        self.sources = sources
        self.where = where
        self.replace = replace

    def curate(self, hook: CurationHook, *, dry_run: bool) -> TagReport:
        """Associate."""
        return hook.associate(
            self.collection,
            names(self.dataset_types),
            names(self.sources),
            self.where,
            replace=self.replace,
            dry_run=dry_run,
        )


class DisassociateOperator(ButlerOperator):
    """Take datasets out of a TAGGED collection; they stay in their RUNs.

    :param collection: the TAGGED collection (templated).
    :param dataset_types: which types (templated).
    :param where: data query in the Butler's language (templated).
    """

    template_fields: Sequence[str] = (*ButlerOperator.template_fields, "collection", "dataset_types", "where")

    def __init__(
        self, *, collection: str, dataset_types: str | Sequence[str], where: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.collection = collection
        self.dataset_types = dataset_types
        self.where = where

    def curate(self, hook: CurationHook, *, dry_run: bool) -> TagReport:
        """Disassociate."""
        return hook.disassociate(self.collection, names(self.dataset_types), self.where, dry_run=dry_run)


class WriteChainOperator(ButlerOperator):
    """Bring a chain up to date: own RUNs newest first, then what it reads. No child is lost silently.

    Safe when several tasks write the same chain at once.

    :param chain: the CHAINED collection (templated); it is made if need be.
    :param own: RUNs to have in it (templated); all RUNs below its name unless given.
    :param inputs: what it reads after them, in search order (templated).
    :param drop: make it exactly these, instead of keeping at the end what nobody asks for any more.
    """

    template_fields: Sequence[str] = (*ButlerOperator.template_fields, "chain", "own", "inputs")

    def __init__(
        self,
        *,
        chain: str,
        own: str | Sequence[str] | None = None,
        inputs: str | Sequence[str] = (),
        drop: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.chain = chain
        self.own = own
        self.inputs = inputs
        self.drop = drop

    def curate(self, hook: CurationHook, *, dry_run: bool) -> ChainReport:
        """Write the chain, and warn of what is missing or no longer wanted."""
        own = None if self.own is None else names(self.own)
        report = hook.write_chain(self.chain, own, names(self.inputs), drop=self.drop, dry_run=dry_run)
        for name in report.missing:
            self.log.warning("The repository has no collection %s; it is not in the chain", name)
        for name in report.vanished:
            self.log.warning(
                "Nobody asks any more for %s; it %s",
                name,
                "stays at the end" if name in report.children else "is taken out",
            )
        return report


class PruneRunsOperator(ButlerOperator):
    """Remove RUNs with all their datasets; files that were ingested in place stay.

    Refuses to, if a collection that is not named needs one of them. A dry run lists what would go.

    :param runs: the RUNs (templated).
    :param chains: collections that may lose them (templated).
    :param unlink: let every collection lose them.
    """

    template_fields: Sequence[str] = (*ButlerOperator.template_fields, "runs", "chains")

    def __init__(
        self,
        *,
        runs: str | Sequence[str],
        chains: str | Sequence[str] = (),
        unlink: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.runs = runs
        self.chains = chains
        self.unlink = unlink

    def curate(self, hook: CurationHook, *, dry_run: bool) -> PruneReport:
        """Prune."""
        return hook.prune(names(self.runs), chains=names(self.chains), unlink=self.unlink, dry_run=dry_run)

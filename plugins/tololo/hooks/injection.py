"""Catalogues of injected sources in the repository: each in a RUN of its own that never changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.engine.repositories import find_collection, known_types
from tololo.facility import collections
from tololo.facility.errors import BadInputError
from tololo.facility.nights import parse_night
from tololo.hooks.butler import ButlerHook
from tololo.hooks.chains import write_chain
from tololo.hooks.dataset_types import register_dataset_type
from tololo.hooks.injection_auto import PREFIX, night_catalogue

if TYPE_CHECKING:
    from astropy.table import Table
    from lsst.daf.butler import Butler

DATASET_TYPE = "injection_catalog"
DIMENSIONS = ("htm7", "band")


@dataclass(frozen=True)
class InjectionReport:
    """A catalogue in the repository.

    Attributes
    ----------
    catalogue, collection : `str`
        Its name, and the RUN that holds it.
    sources : `int`
    bands : `tuple` [`str`, ...]
    shards : `int`
        Datasets of the RUN.
    new : `bool`
        Whether they have been written now.
    """

    catalogue: str
    collection: str
    sources: int
    bands: tuple[str, ...]
    shards: int
    new: bool = False

    def __str__(self) -> str:
        return (
            f"{self.collection}: {self.sources} sources in {', '.join(self.bands)}, {self.shards} shards "
            f"{'written' if self.new else 'known'}"
        )


class InjectionHook(ButlerHook):
    """A Butler repository and the catalogues of sources that can be injected into its visits."""

    def ingest(self, path: str | Path, name: str = "", *, dry_run: bool = False) -> InjectionReport:
        """Ingest a catalogue: `ingest_injection_catalog`.

        Parameters
        ----------
        path : `str` or `pathlib.Path`
            As in `~tololo.reduction.injection_catalog.read_injection_catalog`.
        name : `str`, optional
            What to call it; the name of the file without its ending by default.
        dry_run : `bool`, optional
            Check everything; write nothing.
        """
        from tololo.reduction.injection_catalog import read_injection_catalog

        file = Path(path).expanduser().absolute()
        name = collections.check_part(name or file.name.split(".")[0], "name of the injection catalogue")
        sources = read_injection_catalog(file)
        with self.session(writeable=not dry_run) as butler:
            return ingest_injection_catalog(butler, sources, name, dry_run=dry_run)

    def find(self, name: str) -> InjectionReport:
        """Return a catalogue that has been ingested: `find_injection_catalog`."""
        with self.session() as butler:
            return find_injection_catalog(butler, name)

    def automatic(self, chain: str, *, dry_run: bool = False) -> InjectionReport:
        """Return the catalogue ``auto_{night}`` of the night of a chain; make and ingest it if there is none.

        A night has one such catalogue, whatever comes to the night later: what has been injected does not
        change.

        Parameters
        ----------
        chain : `str`
            Of visits or difference images with injected sources.
        dry_run : `bool`, optional
            Make it; write nothing.

        Raises
        ------
        NothingToDoError
            If the night has no visits yet.
        """
        visits = visits_of(chain)
        night = parse_night(visits.partition("/")[0])
        name = f"{PREFIX}{night}"
        with self.session(writeable=not dry_run) as butler:
            run = collections.injection(name)
            if (there := _told(butler, run)) and _count(butler, run):
                return _report(name, there)
            return ingest_injection_catalog(
                butler, night_catalogue(butler, night, visits), name, dry_run=dry_run
            )

    def route(self, chain: str, report: InjectionReport) -> tuple[str, str]:
        """Return the pipeline that makes injected difference images, and the collections it needs for that.

        Sources go into the night's calibrated visits on the way, unless visits with the sources of this
        catalogue exist: then these are differenced as any others are.

        Parameters
        ----------
        chain : `str`
            Of the difference images.
        report : `InjectionReport`
            The catalogue.

        Returns
        -------
        pipeline, inputs : `str`
            A file of ``include/pipelines/embedded``, and collections with commas between them.
        """
        visits = visits_of(chain)
        injected = collections.injected(visits)
        with self.session() as butler:
            info = find_collection(butler, injected)
            if (
                info is not None
                and report.collection in info.children
                and known_types(butler, ["visit_image"])
                and butler.query_datasets("visit_image", injected, limit=1, explain=False)
            ):
                return "difference_imaging.yaml", injected
        return "injection.yaml", f"{report.collection},{visits}"

    def claim(self, chain: str, name: str, *, dry_run: bool = False) -> None:
        """Keep a chain for the sources of one catalogue: its RUN becomes part of the chain.

        Parameters
        ----------
        chain : `str`
            Chain of visits or of difference images, which is made if need be.
        name : `str`
            Name of the catalogue.
        dry_run : `bool`, optional
            Check; write nothing.

        Raises
        ------
        BadInputError
            If it, or the difference images of its visits, hold the sources of another catalogue: one would be
            taken for the other.
        """
        from lsst.daf.butler import CollectionType  # type: ignore[attr-defined]

        own = collections.injection(name)
        night, _, kind = chain.partition("/")
        below = [f"{chain}/*"]
        if chain == collections.injected(visits_of(chain)):
            below.append(f"{night}/*/{collections.difference(kind)}/*")
        with self.session(writeable=not dry_run) as butler:
            there = write_chain(butler, chain, (), [own], dry_run=True).children
            others = [c for c in there if c.startswith(f"{collections.INJECTIONS}/") and c != own]
            runs = butler.collections.query(below, collection_types=CollectionType.RUN)
            if others and runs:
                raise BadInputError(
                    f"The chain {chain} holds images with the sources of {', '.join(others)}",
                    f"repository {self.repository}, catalogue {name}; {len(runs)} RUNs such as {min(runs)}",
                    "inject that catalogue, or remove these RUNs first",
                )
            if not dry_run:
                write_chain(butler, chain, (), [own], drop=bool(others))


def visits_of(chain: str) -> str:
    """Name the visits without injected sources that a chain with such sources is made of.

    ``20190401/drp`` of ``20190401/drp_injected`` and of ``20190401/2019/meanclip/diff_drp_injected``.
    """
    parts = chain.split("/")
    proc_type = parts[-1].removesuffix(collections.INJECTED).removeprefix(collections.DIFFERENCE)
    return collections.chain(proc_type, parts[0])


def ingest_injection_catalog(
    butler: Butler, sources: Table, name: str, *, dry_run: bool = False
) -> InjectionReport:
    """Put a catalogue into RUN ``injection/{name}``: dataset ``injection_catalog`` by htm7 and band.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    sources : `astropy.table.Table`
        As `~tololo.reduction.injection_catalog.read_injection_catalog` returns.
    name : `str`
        Letters, digits, ``_`` and ``-``.
    dry_run : `bool`, optional
        Check everything; write nothing.

    Raises
    ------
    BadInputError
        If another catalogue has this name, or the name is none.

    Notes
    -----
    The RUN's documentation says what it holds, before it holds it; the shards come all at once. So the same
    catalogue again adds nothing, and completes what a killed call has begun.
    """
    from tololo.reduction.injection_catalog import content_hash, injection_shards

    run = collections.injection(name)
    shards = injection_shards(sources)
    told: dict[str, Any] = {
        "sha256": content_hash(sources),
        "sources": len(sources),
        "bands": sorted({band for _, band in shards}),
        "shards": len(shards),
    }
    if there := _told(butler, run):
        is_whole = _count(butler, run) > 0
        if is_whole and there["sha256"] != told["sha256"]:
            raise BadInputError(
                f"The name {name!r} belongs to a catalogue with {there['sources']} other sources",
                f"collection {run}",
                "give this one another name (that of its file): what has been injected does not change",
            )
        if is_whole:
            return _report(name, there)
    if not dry_run:
        register_dataset_type(butler, DATASET_TYPE, DIMENSIONS, "ArrowAstropy")
        butler.collections.register(run, doc=json.dumps(told))
        if there:  # another catalogue's, of which nothing was written
            butler.registry.setCollectionDocumentation(run, json.dumps(told))
        with butler.transaction():
            for (trixel, band), shard in shards.items():
                butler.put(shard, DATASET_TYPE, {"htm7": trixel, "band": band}, run=run)
    return _report(name, told, new=True)


def find_injection_catalog(butler: Butler, name: str) -> InjectionReport:
    """Return what is known of a catalogue that has been ingested.

    Raises
    ------
    BadInputError
        If there is none of this name.
    """
    run = collections.injection(name)
    told = _told(butler, run)
    if told is None or not _count(butler, run):
        known = sorted(butler.collections.query(f"{collections.INJECTIONS}/*"))
        names = ", ".join(run.removeprefix(f"{collections.INJECTIONS}/") for run in known)
        raise BadInputError(
            f"There is no injection catalogue {name!r}",
            f"repository, which has {names or 'none'}",
            "name one of these, or the file that shall become one",
        )
    return _report(name, told)


def _told(butler: Butler, run: str) -> dict[str, Any] | None:
    """Return what the documentation of a RUN says, or `None` where there is no such RUN."""
    if find_collection(butler, run) is None:
        return None
    (info,) = butler.collections.query_info(run, include_doc=True)
    try:
        told: dict[str, Any] = json.loads(info.doc)
        if set(told) == {"sha256", "sources", "bands", "shards"}:
            return told
    except (ValueError, TypeError):
        pass
    raise BadInputError(
        "The collection is not one of an injection catalogue", f"collection {run}", "use another name"
    )


def _count(butler: Butler, run: str) -> int:
    if not list(butler.registry.queryDatasetTypes(DATASET_TYPE)):
        return 0
    return len(butler.query_datasets(DATASET_TYPE, run, find_first=False, limit=None, explain=False))


def _report(name: str, told: dict[str, Any], *, new: bool = False) -> InjectionReport:
    run = collections.injection(name)
    return InjectionReport(name, run, told["sources"], tuple(told["bands"]), told["shards"], new)

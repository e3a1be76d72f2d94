"""The Butler repository of the facility, as Airflow's tasks use it."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tololo.engine.repositories import find_collection, no_repository, unreachable
from tololo.facility import collections
from tololo.facility.errors import BadInputError, TololoError, UnavailableError
from tololo.hooks.chains import ChainReport, write_chain

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from tololo.reduction.formats.instcal import InstcalExposure
    from tololo.reduction.formats.raw_exposure import RawExposure
    from tololo.reduction.formats.raw_search import Excluded
    from tololo.reduction.ingest import IngestReport
    from tololo.reduction.ingest_raw import RawIngestReport

CONFIG = "butler.yaml"


class ButlerHook:
    """One Butler repository.

    Parameters
    ----------
    repository : `str` or `pathlib.Path`, optional
        Its root folder. Without it the connection is asked.
    butler_conn_id : `str`, optional
        Connection of type ``butler``: its host is the root folder. Passwords of a registry on PostgreSQL are
        never in it: they come from the file that ``LSST_DB_AUTH`` or the registry URL's ``passfile`` names.
    """

    conn_name_attr = "butler_conn_id"
    default_conn_name = "butler_default"
    conn_type = "butler"
    hook_name = "LSST Butler repository"

    def __init__(self, repository: str | Path = "", *, butler_conn_id: str = default_conn_name) -> None:
        self._repository = str(repository)
        self.butler_conn_id = butler_conn_id

    @classmethod
    def from_connection(cls, butler_conn_id: str = default_conn_name) -> Self:
        """Make the hook of a connection, looked up at once.

        Raises
        ------
        BadInputError
            If the connection does not exist or names no folder.
        """
        hook = cls(butler_conn_id=butler_conn_id)
        _ = hook.repository
        return hook

    @cached_property
    def repository(self) -> str:
        """Root folder of the repository."""
        return self._repository or self._from_connection()

    def exists(self) -> bool:
        """Tell whether there is a repository."""
        return (Path(self.repository) / CONFIG).is_file()

    def open(
        self, *, writeable: bool = False, inputs: str | Sequence[str] | None = None, run: str | None = None
    ) -> Butler:
        """Open the repository; close it, or use it in a ``with``.

        Parameters
        ----------
        writeable : `bool`, optional
            Whether it is to be written to.
        inputs : `str` or sequence of `str`, optional
            Collections to search.
        run : `str`, optional
            RUN to write to.

        Returns
        -------
        butler : `lsst.daf.butler.Butler`

        Raises
        ------
        BadInputError
            If there is no repository, or no such collection, or it is to be written to and cannot be.
        UnavailableError
            If its database does not answer.
        """
        if not self.exists():
            raise no_repository(self.repository)
        from lsst.daf.butler import Butler, MissingCollectionError
        from sqlalchemy.exc import OperationalError

        try:
            butler = Butler.from_config(self.repository, collections=inputs, run=run, writeable=writeable)
            if inputs:
                butler.collections.query_info(inputs)  # from_config does not look
            return butler
        except MissingCollectionError as error:
            raise BadInputError(str(error), self.repository, "run the step that makes it first") from error
        except OperationalError as error:
            raise database_error(self.repository, error) from error

    @contextmanager
    def session(self, *, writeable: bool = False) -> Iterator[Butler]:
        """Open the repository for one piece of work, in which the Butler's errors become the facility's.

        Raises
        ------
        BadInputError
            As `open`; if what is asked of the Butler makes no sense to it; if it may not write.
        UnavailableError
            If the database does not answer, or the disk is full.
        """
        from lsst.daf.butler import ButlerUserError
        from lsst.daf.butler.registry import RegistryError  # type: ignore[attr-defined]
        from sqlalchemy.exc import OperationalError

        with self.open(writeable=writeable) as butler:
            try:
                yield butler
            except (ButlerUserError, RegistryError) as error:
                raise BadInputError(
                    str(error).strip("'\""), self.repository, "correct what was asked of the repository"
                ) from error
            except OperationalError as error:
                raise database_error(self.repository, error) from error
            except OSError as error:
                raise disk_error(self.repository, error) from error

    def collections(self, pattern: str = "*") -> list[str]:
        """List the collections whose names match a glob."""
        with self.open() as butler:
            return sorted(butler.collections.query(pattern)) if self._globs(butler, pattern) else []

    def counts(self, name: str) -> dict[str, int]:
        """Count the datasets in a collection by dataset type, first found only; empty if there is no such."""
        with self.open() as butler:
            if not self._globs(butler, name):
                return {}
            types = butler.collections.query_info(name, include_summary=True, flatten_chains=True)
            names = sorted({kind for info in types for kind in info.dataset_types or ()})
            return {kind: count for kind in names if (count := self._count(butler, kind, name))}

    def count(self, dataset_type: str, name: str, where: str = "", **data_id: Any) -> int:
        """Count the datasets of a type in a collection; zero if either does not exist.

        Parameters
        ----------
        dataset_type : `str`
            Its name.
        name : `str`
            Collection.
        where : `str`, optional
            Condition in the Butler's query language.
        **data_id
            Further dimensions.
        """
        with self.open() as butler:
            known = butler.registry.queryDatasetTypes(dataset_type)
            if not list(known) or not self._globs(butler, name):
                return 0
            return self._count(butler, dataset_type, name, where, **data_id)

    def raw_exposures(self, night: int | str) -> list[int]:
        """Return the numbers of the raw exposures that serve a night."""
        from tololo.hooks.selection import data_ids
        from tololo.reduction.formats.raw_exposure import KINDS

        tags = [collections.raws(collections.chain(kind, night)) for kind in KINDS.values()]
        with self.open() as butler:
            return sorted({int(row["exposure"]) for row in data_ids(butler, "raw", tags, ("exposure",))})

    def ingest_instcal(self, folder: str | Path, transfer: str = "direct") -> IngestReport:
        """Find the InstCal exposures in a folder, ingest them and write the chains of their nights.

        Parameters
        ----------
        folder : `str` or `pathlib.Path`
            Searched at any depth.
        transfer : `str`, optional
            ``direct``, ``symlink`` or ``copy``.

        Returns
        -------
        report : `~tololo.reduction.ingest.IngestReport`

        Raises
        ------
        BadInputError
            As `~tololo.reduction.formats.instcal_search.find_instcal`; nothing has been ingested then.
        """
        from tololo.reduction.formats.instcal_search import find_instcal

        return self.ingest_exposures(find_instcal(Path(folder)).triples, transfer)

    def ingest_exposures(
        self, exposures: Sequence[InstcalExposure], transfer: str = "direct"
    ) -> IngestReport:
        """Ingest exposures that were found, and write the chains of their nights; see `ingest_instcal`."""
        from tololo.reduction.ingest import ingest_instcal

        with self.session(writeable=True) as butler:
            report = ingest_instcal(butler, exposures, transfer=transfer)
            for night in report.nights:
                chain = collections.chain("instcal", night)
                write_chain(butler, chain, own=(), inputs=collections.chain_inputs("instcal", night))
        return report

    def ingest_raws(
        self,
        exposures: Sequence[RawExposure],
        excluded: Iterable[Excluded] = (),
        transfer: str = "direct",
    ) -> RawIngestReport:
        """Ingest raws that were found, and write the chains ``bias``, ``flat`` and ``drp`` of their nights.

        Parameters
        ----------
        exposures, excluded
            What `~tololo.reduction.formats.raw_search.find_raws` found and what it left out.
        transfer : `str`, optional
            ``direct``, ``symlink``, ``copy`` or ``move``.

        Returns
        -------
        report : `~tololo.reduction.ingest_raw.RawIngestReport`
        """
        from tololo.reduction.formats.raw_exposure import KINDS
        from tololo.reduction.ingest_raw import ingest_raws

        with self.session(writeable=True) as butler:
            report = ingest_raws(butler, exposures, excluded, transfer=transfer)
            for night in report.nights:
                for kind in KINDS.values():
                    # An ingest has no RUN of its own, and what a dead run has left is for the next one to
                    # take in: looking for it would read the names of all collections, of every night.
                    chain = collections.chain(kind, night)
                    write_chain(butler, chain, own=(), inputs=collections.chain_inputs(kind, night))
            for path in report.moved:  # last: as long as they are there, the next try knows what to do
                path.unlink(missing_ok=True)
        return report

    def write_chain(
        self,
        chain: str,
        own: Iterable[str] | None = None,
        inputs: Sequence[str] = (),
        *,
        drop: bool = False,
        dry_run: bool = False,
    ) -> ChainReport:
        """Bring a chain up to date, as `tololo.hooks.chains.write_chain`."""
        with self.session(writeable=not dry_run) as butler:
            return write_chain(butler, chain, own, inputs, drop=drop, dry_run=dry_run)

    def test_connection(self) -> tuple[bool, str]:
        """Open the repository for Airflow's button *Test*."""
        try:
            with self.open() as butler:
                found = [
                    record.name for record in butler.query_dimension_records("instrument", explain=False)
                ]
        except (BadInputError, UnavailableError) as error:
            return False, str(error)
        return True, f"Butler repository of {', '.join(found) or 'no instrument'} at {self.repository}"

    def _from_connection(self) -> str:
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        where = f"connection {self.butler_conn_id}"
        try:
            host = BaseHook.get_connection(self.butler_conn_id).host
        except AirflowNotFoundException as error:
            raise BadInputError("There is no such connection", where, "create it, of type butler") from error
        if not host:
            raise BadInputError(
                "The connection names no repository", where, "put the repository's root folder into its host"
            )
        return str(host).removeprefix("file://")

    def _globs(self, butler: Butler, pattern: str) -> bool:
        return "*" in pattern or find_collection(butler, pattern) is not None

    @staticmethod
    def _count(butler: Butler, kind: str, name: str, where: str = "", **data_id: Any) -> int:
        refs = butler.query_datasets(
            kind, name, find_first=True, where=where, limit=None, explain=False, **data_id
        )
        return len(refs)


def database_error(repository: str, error: Exception) -> TololoError:
    """Return the error of a registry that cannot be used: its file may not be written to, or it is away."""
    reason = str(getattr(error, "orig", error))
    return read_only(repository, reason) if "readonly" in reason else unreachable(repository, error)


def disk_error(repository: str, error: OSError) -> TololoError:
    """Return the error of a file that could not be read or written."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return read_only(repository, str(error))
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE):
        return UnavailableError(
            f"The disk cannot be used: {error}", repository, "make room, or mend the disk"
        )
    return BadInputError(f"A file cannot be used: {error}", repository, "name another file, or mend it")


def read_only(repository: str, reason: str) -> BadInputError:
    """Return the error of a repository that this user may not write to."""
    return BadInputError(
        f"The repository cannot be written to: {reason}",
        repository,
        "give the user that runs Airflow the right to write there, or name another repository",
    )

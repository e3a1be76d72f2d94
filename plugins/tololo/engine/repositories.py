"""Butlers that stay open between questions, and what every question looks up first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tololo.facility.errors import BadInputError, UnavailableError

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, CollectionInfo

CONFIG = "butler.yaml"

T = TypeVar("T")
Mark = tuple[int, int, int, int]


class OpenButlers:
    """Read-only Butlers, one for each repository; for one thread of one process.

    A Butler whose database restarted is dropped and opened once more; so is one whose repository was made
    anew in the same place.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Mark, Butler]] = {}

    def use(self, repository: str, work: Callable[[Butler], T]) -> T:
        """Call a function with the Butler of a repository.

        Parameters
        ----------
        repository : `str`
            Root folder.
        work : callable
            Reads; it is called a second time if the connection to the database was lost in the first.

        Returns
        -------
        result
            What the function returns.

        Raises
        ------
        BadInputError
            If there is no repository.
        UnavailableError
            If its database does not answer.
        """
        from sqlalchemy.exc import SQLAlchemyError

        for is_last in (False, True):
            try:
                butler = self._open(repository)
                # Dataset types and dimension records are cached, and others have written since.
                butler.registry.refresh()
                return work(butler)
            except SQLAlchemyError as error:
                self.drop(repository)
                if is_last:
                    raise unreachable(repository, error) from error
        raise AssertionError("the loop returns or raises")

    def drop(self, repository: str) -> None:
        """Close the Butler of a repository, if there is one."""
        if (kept := self._kept.pop(repository, None)) is not None:
            kept[1].close()

    def _open(self, repository: str) -> Butler:
        from lsst.daf.butler import Butler

        try:
            mark = _mark(repository)
        except BadInputError:
            self.drop(repository)
            raise
        if (kept := self._kept.get(repository)) is not None and kept[0] == mark:
            return kept[1]
        self.drop(repository)
        butler = Butler.from_config(repository, writeable=False)
        self._kept[repository] = mark, butler
        return butler


def existing(butler: Butler, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tell collections that exist from names that do not; a glob becomes the collections that it matches.

    Returns
    -------
    there, absent : `list` [`str`]
        Absent is also a glob that matches nothing.
    """
    from lsst.daf.butler import MissingCollectionError

    there: list[str] = []
    absent: list[str] = []
    for name in names:
        try:
            matches = butler.collections.query(name)
        except MissingCollectionError:
            matches = []
        there += [match for match in matches if match not in there]
        if not matches:
            absent.append(name)
    return there, absent


def find_collection(butler: Butler, name: str) -> CollectionInfo | None:
    """Return a collection, or `None` if there is no such."""
    from lsst.daf.butler import MissingCollectionError

    try:
        return butler.collections.get_info(name)
    except MissingCollectionError:
        return None


def known_types(butler: Butler, names: Iterable[str]) -> list[str]:
    """List the registered dataset types that names or globs mean."""
    return sorted({found.name for found in butler.registry.queryDatasetTypes(list(names))})


def no_repository(repository: str) -> BadInputError:
    """Return the error of a folder that is no repository."""
    return BadInputError(
        "There is no Butler repository", repository, "run the DAG repo_bootstrap, or mend the connection"
    )


def unreachable(repository: str, error: Exception) -> UnavailableError:
    """Return the error of a registry whose database does not answer; no password is in it."""
    reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
    return UnavailableError(
        f"The registry's database does not answer: {reason}",
        repository,
        "start the database, or mend its address",
    )


def _mark(repository: str) -> Mark:
    """Return what changes when the repository is made anew."""
    try:
        stat = (Path(repository) / CONFIG).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise no_repository(repository) from None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns

"""The files of a folder, at any depth and each once, and what the searches among them have to say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tololo.facility.errors import BadInputError

INDEX = "_index.json"
"""What ``astrometadata write-index`` leaves in a folder; it is no data."""

MAX_LINES = 20
"""How many problems a message lists."""


@dataclass(frozen=True)
class Ignored:
    """A file that is not what is looked for, or one too many, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class FileSearch:
    """What is in a folder.

    Attributes
    ----------
    files : `list` [`pathlib.Path`]
        Regular files, each once, in the order of their names.
    indices : `list` [`pathlib.Path`]
        Index files of astro_metadata_translator.
    ignored : `list` [`Ignored`]
        Broken links, second names of a file, and what is neither a file nor a folder.
    problems : `list` [`BadInputError`]
        Folders and files that cannot be looked at.
    """

    files: list[Path] = field(default_factory=list)
    indices: list[Path] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    problems: list[BadInputError] = field(default_factory=list)


def search_files(folder: Path, remedy: str) -> FileSearch:
    """Walk through a folder.

    Parameters
    ----------
    folder : `pathlib.Path`
        Links are followed; a folder that is linked into itself is walked through once.
    remedy : `str`
        What to name instead where it is absent or empty.

    Returns
    -------
    search : `FileSearch`

    Raises
    ------
    BadInputError
        If the folder is absent, is no folder, or has no files.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise BadInputError(f"The data folder {state}", str(folder), remedy)
    found = FileSearch()
    seen: set[Path] = set()

    def unreadable(error: OSError) -> None:
        found.problems.append(_unreadable(Path(error.filename or folder), error))

    for path in walk(folder, unreadable):
        try:
            _sort_in(path, seen, found)
        except OSError as error:
            found.problems.append(_unreadable(path, error))
    if not found.files and not found.ignored and not found.problems:
        raise BadInputError("The data folder is empty", str(folder), remedy)
    return found


def walk(folder: Path, unreadable: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Give all files below a folder in the order of their names.

    Parameters
    ----------
    folder : `pathlib.Path`
        Links are followed; a folder that is linked into itself is walked through once.
    unreadable : callable, optional
        Takes the error of a folder that cannot be listed; such folders are passed over without.
    """
    seen = {folder.resolve()}
    for root, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        folders[:] = sorted(name for name in folders if Path(root, name).resolve() not in seen)
        seen.update(Path(root, name).resolve() for name in folders)
        yield from (Path(root, name) for name in sorted(names))


def joined(problems: Sequence[BadInputError], what: str, where: str, remedy: str) -> BadInputError | None:
    """Make one error of several, or `None` of none; a single one stays as it is.

    Parameters
    ----------
    problems : sequence of `BadInputError`
    what : `str`
        What they are together: "raw files cannot be taken"; their number stands before it.
    where, remedy : `str`
        Of all.
    """
    if len(problems) <= 1:
        return problems[0] if problems else None
    lines = [f"  {number}. {problem}" for number, problem in enumerate(problems[:MAX_LINES], 1)]
    if len(problems) > MAX_LINES:
        lines.append(f"  and {len(problems) - MAX_LINES} more")
    return BadInputError(f"{len(problems)} {what}:\n" + "\n".join(lines) + "\n", where, remedy)


def _sort_in(path: Path, seen: set[Path], found: FileSearch) -> None:
    real = path.resolve()
    if path.name == INDEX:
        found.indices.append(path)
    elif not path.exists():
        gone = f"broken symbolic link to {os.readlink(path)}" if path.is_symlink() else "it is gone"
        found.ignored.append(Ignored(path, gone))
    elif not path.is_file():
        found.ignored.append(Ignored(path, "not a regular file"))
    elif real in seen:
        found.ignored.append(Ignored(path, f"the same file as {real}"))
    else:
        seen.add(real)
        found.files.append(path)


def _unreadable(path: Path, error: OSError) -> BadInputError:
    return BadInputError(
        f"It cannot be looked at: {error.strerror}", str(path), "give the right to read it, or bring it back"
    )

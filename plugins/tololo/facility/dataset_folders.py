"""Datasets of frames on disk: ``<root>/<target>/<instrument>/<filter>/``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tololo.facility.errors import BadInputError

DEPTH = 3
FRAME_ENDINGS = (".fits", ".fits.fz", ".fts", ".fts.fz")


def scan(root: Path, instruments: Iterable[str]) -> list[Path]:
    """Return the folders of all datasets of some instruments, in the order of their names.

    Raises
    ------
    BadInputError
        There is no such root folder.
    """
    if not root.is_dir():
        raise BadInputError("There is no such folder of datasets", str(root), "mend data_reduction_dir")
    wanted = set(instruments)
    return sorted(
        folder
        for folder in root.glob("*/*/*")
        if folder.is_dir()
        and folder.parent.name in wanted
        and not any(part.startswith(".") for part in folder.relative_to(root).parts)
    )


def listed(root: Path, list_file: Path) -> list[Path]:
    """Return the folders that a text file names, one a line relative to the root, in its order.

    What follows a ``#`` is a comment; a folder that is named twice counts once.

    Raises
    ------
    BadInputError
        The file cannot be read, or a line of it names no dataset.
    """
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"The list of datasets cannot be read: {error}", str(list_file), "mend dataset_selection.file"
        ) from error
    found: dict[Path, None] = {}
    for number, line in enumerate(lines, 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        where = f"{list_file}, line {number}"
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts or len(parts) != DEPTH:
            raise BadInputError(
                f"{name!r} is no dataset",
                where,
                "write <target>/<instrument>/<filter>, below the root folder",
            )
        if not (root / name).is_dir():
            raise BadInputError(f"There is no dataset {name}", where, f"make it in {root}, or drop the line")
        found[root / name] = None
    return list(found)


def frames(folder: Path) -> list[Path]:
    """Return the frames of a dataset, by name."""
    return sorted(
        path for path in folder.iterdir() if path.name.lower().endswith(FRAME_ENDINGS) and path.is_file()
    )

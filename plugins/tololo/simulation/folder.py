"""A folder of a simulation that is made whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tololo.facility.errors import BadInputError

MANIFEST = "simulation.json"


def is_finished(folder: Path, digest: str) -> bool:
    """Tell whether a folder holds the simulation of that digest.

    Raises
    ------
    BadInputError
        If it holds something that is no simulation.
    """
    found = _digest(folder)
    if found is None and folder.is_dir() and any(folder.iterdir()):
        raise BadInputError(
            "The folder is not empty and holds no simulation", str(folder), "name an empty or a new folder"
        )
    return found == digest


@contextmanager
def whole_folder(folder: Path, digest: str, seed: int) -> Iterator[Path]:
    """Give a new folder beside to write to; it takes the place of ``folder`` when all went well."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    (partial / MANIFEST).write_text(json.dumps({"digest": digest, "seed": seed}) + "\n")
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)


def _digest(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / MANIFEST).read_text())["digest"])
    except (OSError, ValueError, KeyError):
        return None

"""How raw files come into the repository, and how a move loses none.

A move is a hard link (a copy from another file system) whose source is removed when everything else is done:
a kill at any moment leaves the file in one place at least, and as long as there is something to do the
sources that tell so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError

from .formats.raw_exposure import RawExposure

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

TRANSFERS = ("direct", "symlink", "copy", "move")


def by_mode(
    butler: Butler, exposures: Iterable[RawExposure], run: str, transfer: str
) -> dict[str, list[RawExposure]]:
    """Group exposures by how the Butler shall take their files into a RUN."""
    if transfer != "move":
        return {transfer: list(exposures)}
    device = _folder(butler, run).stat().st_dev
    groups: dict[str, list[RawExposure]] = defaultdict(list)
    for exposure in exposures:
        groups["hardlink" if exposure.path.stat().st_dev == device else "copy"].append(exposure)
    return groups


def moved(
    butler: Butler, exposures: Iterable[RawExposure], there: Mapping[int, Mapping[int, DatasetRef]]
) -> list[Path]:
    """List the files that a move may remove, for the repository has them.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
    exposures : iterable of `~tololo.reduction.formats.raw_exposure.RawExposure`
        Whose files are to go; those that the repository does not have itself stay.
    there : `~collections.abc.Mapping`
        The repository's datasets by exposure and detector.
    """
    found: list[Path] = []
    for exposure in exposures:
        source, refs = exposure.path.resolve(), there.get(exposure.exposure, {})
        stored = {Path(butler.getURI(ref).ospath) for ref in refs.values()}
        refers_to_it = any(path.resolve() == source for path in stored)
        if set(exposure.detectors) <= set(refs) and not refers_to_it:
            size = source.stat().st_size
            if any(path.is_file() and path.stat().st_size == size for path in stored):
                found.append(exposure.path)
    return found


def _folder(butler: Butler, run: str) -> Path:
    """Return the folder where the repository keeps the files of a RUN, or that this will be made in."""
    (root, *_) = butler.get_datastore_roots().values()
    if root is None:
        raise BadInputError(
            "The repository has no folder for files", "repository", "use the transfer mode direct"
        )
    path = Path(root.ospath)
    path.mkdir(parents=True, exist_ok=True)
    own = path / run  # another file system may be mounted there
    return next(folder for folder in (own, *own.parents) if folder.exists())

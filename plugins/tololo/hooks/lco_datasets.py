"""Downloaded frames into datasets: a rename each, under the dataset's lock, and a configuration."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tololo.engine.locks import Lock, lock_for, process_owner
from tololo.facility import dataset_config
from tololo.facility.angles import degrees
from tololo.facility.disk import writing
from tololo.facility.errors import BadInputError
from tololo.facility.yaml_file import read_yaml

APERTURE = 2.0
"""Radius in arcsec, where no template says otherwise."""

OWNER = "download of frames"
_REMEDY = "docs/datasets.md has an example"
_TTL = 120.0


def lock_of(folder: Path) -> Lock:
    """Return the lock of a folder, for this process."""
    return lock_for(f"folder:{folder}", process_owner(OWNER), ttl=_TTL)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a dataset, for a moment; only a lock that a dead download left is broken.

    Raises
    ------
    UnavailableError
        Another holds it: who.
    """
    lock = lock_of(folder)
    holder = lock.holder()
    ours = holder is not None and holder.owner is not None and holder.owner.dag_id == OWNER
    lock.acquire("if_stale" if ours else "never")
    try:
        yield
    finally:
        lock.release()


def deliver(source: Path, folder: Path) -> None:
    """Move a frame into the folder of its dataset.

    Raises
    ------
    DiskError
        The disk does not let it.
    """
    with writing(folder / source.name):
        try:
            source.replace(folder / source.name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, folder)  # the folder is a link to another disk


def _copy(source: Path, folder: Path) -> None:
    beside = folder / f".{source.name}.part"
    with open(source, "rb") as old, open(beside, "wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())
    beside.replace(folder / source.name)
    source.unlink()


def configure(root: Path, folder: Path, frame: Path) -> bool:
    """Give a dataset, whose lock is held, a configuration if it has none.

    ``reduction_config.yaml`` in the root folder itself, where there is one, is the template for all but the
    target.

    Parameters
    ----------
    root, folder : `pathlib.Path`
        Of all datasets, and of this one.
    frame : `pathlib.Path`
        One of its frames, whose header has the target and its position.

    Returns
    -------
    made : `bool`

    Raises
    ------
    BadInputError
        The frame does not say where the target is, or the template is wrong.
    DiskError
        The disk takes no more.
    """
    path, draft = folder / dataset_config.FILE, folder / ".configuration"
    if path.exists():
        shutil.rmtree(draft, ignore_errors=True)  # of a download that was killed
        return False
    template = root / dataset_config.FILE
    content: Any = {"photometry": {"aperture_arcsec": APERTURE}, "tom": {"upload": False}}
    if template.exists():
        content, _ = read_yaml(template, "The template of configurations", _REMEDY)
        if not isinstance(content, dict):
            raise BadInputError("The template of configurations is empty", str(template), _REMEDY)
    rest = {key: value for key, value in content.items() if key != "target"}
    text = yaml.safe_dump({"target": target_of(frame)} | rest, sort_keys=False, allow_unicode=True)
    # It is read where nobody else looks before it gets its name.
    with writing(draft / dataset_config.FILE):
        draft.mkdir(exist_ok=True)
        (draft / dataset_config.FILE).write_text(text)
    try:
        dataset_config.read_dataset_config(draft)
        with writing(path):
            os.link(draft / dataset_config.FILE, path)  # never over one that somebody has just written
        return True
    except BadInputError as error:
        raise BadInputError(
            error.what, str(template if template.exists() else frame), error.remedy
        ) from error
    finally:
        shutil.rmtree(draft)


def target_of(frame: Path) -> dict[str, str]:
    """Return name, RA and Dec of the target as the header of a frame writes them.

    ``CAT-RA`` and ``CAT-DEC`` are what was asked for; ``RA`` and ``DEC`` where the telescope pointed.

    Raises
    ------
    BadInputError
        The frame cannot be read, or does not say it.
    """
    from astropy.io import fits

    try:
        with fits.open(frame) as hdus:
            headers = [hdu.header for hdu in hdus]
    except (OSError, ValueError) as error:
        raise BadInputError(f"The frame cannot be read: {error}", str(frame), "look at it") from error
    for names in (("CAT-RA", "CAT-DEC"), ("RA", "DEC")):
        for header in headers:
            name, ra, dec = (str(header.get(key, "")).strip() for key in ("OBJECT", *names))
            if not name:
                continue
            with contextlib.suppress(ValueError):
                degrees(ra, hours=True), degrees(dec, hours=False)
                return {"name": name, "RA": ra, "Dec": dec}
    raise BadInputError(
        "The header of the frame does not say where the target is",
        str(frame),
        f"make a {dataset_config.FILE} in the folder of its dataset",
    )

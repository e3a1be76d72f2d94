"""Files on disks: what they hold, and one clear message where a disk takes no more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tololo.facility.errors import UnavailableError


class DiskError(UnavailableError):
    """A file cannot be written; further ones would fare no better."""


def md5_of(path: Path) -> str:
    """Return the MD5 checksum of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that is written into a `DiskError`."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{path.name} cannot be written: {error.strerror or error}",
            str(path.parent),
            "make room or mend the disk, then run again",
        ) from error

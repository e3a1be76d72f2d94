"""The files behind datasets: where they are, and whether two copies are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.selection import data_id

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef
    from lsst.resources import ResourcePath

    type Artifacts = dict[DatasetRef, list[ResourcePath]]

SHOWN = 5
"""How many files a message names."""


def artifacts(butler: Butler, refs: Iterable[DatasetRef]) -> Artifacts:
    """Return the files of each dataset, without those datasets whose file the repository does not know.

    Several datasets may share a file; a dataset whose components are apart has several, by component.
    """
    found = butler.get_many_uris(list(refs), allow_missing=True)
    return {
        ref: [uris.primaryURI]
        if uris.primaryURI
        else [uris.componentURIs[name] for name in sorted(uris.componentURIs)]
        for ref, uris in found.items()
    }


def refuse_missing(refs: Iterable[DatasetRef], originals: Mapping[DatasetRef, list[ResourcePath]]) -> None:
    """Refuse datasets whose file is not there.

    Raises
    ------
    BadInputError
        If there is one; it is named.
    """
    for ref in refs:
        gone = [file for file in originals.get(ref, ()) if not file.exists()]
        if gone or ref not in originals:
            raise BadInputError(
                f"The file of {ref.datasetType.name} of {data_id(ref)} is missing",
                f"RUN {ref.run}" + (f": {gone[0]}" if gone else ""),
                "restore it, or leave this dataset out",
            )


def known_copies(butler: Butler, originals: Artifacts) -> Artifacts:
    """Return the files of those datasets that the repository has already.

    Raises
    ------
    BadInputError
        If one of them is missing or has another size than its original.
    """
    known = artifacts(butler, originals)
    if spoilt := differences(known, originals, content=False):
        raise BadInputError(
            f"What was copied before is not as it should be: {spoilt}",
            "the repository that is copied to",
            "prune it there, and copy again",
        )
    return known


def check_copies(butler: Butler, originals: Artifacts) -> None:
    """Compare what was copied with its originals, by size and checksum.

    Raises
    ------
    UnavailableError
        If one differs or is not there; raised in a transaction, it takes the copies back.
    """
    copies = artifacts(butler, originals)
    missing = [f"{ref.datasetType.name} of {data_id(ref)}" for ref in originals if ref not in copies]
    if wrong := differences(copies, originals, content=True) or "; ".join(missing[:SHOWN]):
        raise UnavailableError(
            f"A copy is not as its original: {wrong}",
            "the repository that is copied to",
            "look at the disk; nothing of these copies is kept",
        )


def differences(copies: Artifacts, originals: Artifacts, *, content: bool) -> str:
    """Say which copies differ from their originals, or nothing."""
    pairs = {pair for ref, files in copies.items() for pair in zip(originals[ref], files, strict=True)}
    wrong = [text for pair in sorted(pairs, key=str) if (text := difference(*pair, content=content))]
    return "; ".join(wrong[:SHOWN]) + (f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")


def difference(original: ResourcePath, copy: ResourcePath, *, content: bool = True) -> str:
    """Say in what a copy differs from its original, or nothing.

    Parameters
    ----------
    original, copy : `lsst.resources.ResourcePath`
        Files.
    content : `bool`, optional
        Compare checksums too, not the sizes alone.
    """
    if not copy.exists():
        return f"{copy} does not exist"
    if (there := copy.size()) != (wanted := original.size()):
        return f"{copy} has {there} bytes instead of {wanted}"
    if content and checksum(copy) != checksum(original):
        return f"{copy} has another content than {original}"
    return ""


def checksum(file: ResourcePath) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.as_local() as local, open(local.ospath, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

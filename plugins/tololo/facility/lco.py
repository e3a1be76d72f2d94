"""Frames of Las Cumbres Observatory's archive: what a record says, and which dataset a frame belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tololo.facility.dataset_folders import FRAME_ENDINGS
from tololo.facility.errors import BadInputError

REDUCED = 91
"""Reduction level of frames that BANZAI has finished; lower ones are raw or quick looks."""

CONFIGURATION = "EXPOSE"
"""Kind of exposure that shows a target; all others are calibrations, pointings and guiding."""

INCOMING = ".incoming"
"""Folder below the root of files that are being fetched, or wait for the lock of their dataset."""

UNSORTED = ".unsorted"
"""Folder below the root of frames that belong to no dataset."""

CLASSES = {
    "fa": "sinistro",
    "fl": "sinistro",
    "sq": "qhy",
    "ep": "muscat",
    "kb": "sbig",
    "fs": "spectral",
}
"""Folders of instruments by the letters that their cameras' names begin with, as fa03."""

_MISSING = ("", "n/a", "na", "nan", "none", "null", "unknown")


@dataclass(frozen=True)
class ArchiveFrame:
    """A frame as the archive describes it.

    ``url`` expires after some hours. ``target``, ``instrument``, ``filter`` and ``proposal`` are as in the
    header, empty where the archive has none; ``md5`` is that of the newest version.
    """

    id: int
    filename: str
    url: str
    md5: str
    target: str
    instrument: str
    filter: str
    proposal: str
    reduction_level: int
    configuration: str

    @property
    def dataset(self) -> str:
        """Where it belongs below the root: ``<target>/<instrument>/<filter>``; empty if that is unknown."""
        if not (self.target and self.instrument and self.filter):
            return ""
        return "/".join(map(clean_name, (self.target, instrument_folder(self.instrument), self.filter)))

    @property
    def stem(self) -> str:
        """Its name without the ending, the same for a packed and an unpacked file."""
        return stem_of(self.filename)

    def objection(self) -> str:
        """Say why it is not to be fetched; empty if it is."""
        if self.reduction_level < REDUCED:
            return f"not reduced, its level is {self.reduction_level}"
        if self.configuration != CONFIGURATION:
            return f"no exposure of a target but {self.configuration or 'of an unknown kind'}"
        if not self.filename.lower().endswith(FRAME_ENDINGS):
            return "not a FITS file"
        return ""


def frame_of(record: Mapping[str, Any]) -> ArchiveFrame:
    """Read a record of the archive's ``/frames/``, which may use the old names of fields (``OBJECT``) or new.

    Raises
    ------
    BadInputError
        It has no id or no usable file name.
    """

    def field(*names: str) -> str:
        texts = (str(record.get(name, "")).strip() for name in names)
        return next((text for text in texts if text.lower() not in _MISSING), "")

    try:
        number, filename = int(record["id"]), str(record["filename"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(
            f"The archive describes a frame without {error}", "/frames/", "see whether its API has changed"
        ) from None
    if not filename or filename != clean_name(filename):
        raise BadInputError(
            f"The archive gives a frame the name {filename!r}, which cannot be that of a file",
            f"/frames/{number}/",
            "tell the observatory",
        )
    versions = record.get("version_set")
    newest = versions[0] if isinstance(versions, list) and versions else {}
    level = field("reduction_level", "RLEVEL")
    return ArchiveFrame(
        id=number,
        filename=filename,
        url=field("url"),
        md5=str((isinstance(newest, Mapping) and newest.get("md5")) or "").lower(),
        target=field("target_name", "OBJECT"),
        instrument=field("instrument_id", "INSTRUME"),
        filter=field("primary_optical_element", "FILTER"),
        proposal=field("proposal_id", "PROPID"),
        reduction_level=int(level) if level.isdecimal() else 0,
        configuration=field("configuration_type", "OBSTYPE"),
    )


def instrument_folder(instrument: str) -> str:
    """Return the folder of a camera: that of its class, or its own name where the class is not known."""
    letters = re.match(r"[a-z]*", instrument.lower())
    return CLASSES.get(letters[0] if letters else "", instrument)


def clean_name(name: str) -> str:
    """Return a name as that of a file or folder: blanks, slashes and control characters become ``_``."""
    clean = re.sub(r"[\s/\\\x00-\x1f\x7f]", "_", name.strip())
    return f"_{clean[1:]}" if clean.startswith(".") else clean


def stem_of(filename: str) -> str:
    """Return the name of a frame without ``.fits`` and what follows."""
    return re.split(r"\.(?:fits|fts)\b", filename, maxsplit=1, flags=re.IGNORECASE)[0]


def read_time(text: str, key: str, *, end: bool = False) -> datetime:
    """Read a day or a time, UTC.

    Parameters
    ----------
    text : `str`
        ``YYYY-MM-DD``, or ``YYYY-MM-DD HH:MM`` with or without seconds.
    key : `str`
        Where it was written, for the message.
    end : `bool`, optional
        A day alone counts to its end.

    Raises
    ------
    BadInputError
        It is neither.
    """
    text = text.strip()
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        return time + timedelta(days=1) if end and len(text) <= len("YYYY-MM-DD") else time
    except (ValueError, OverflowError):
        raise BadInputError(
            f"{text!r} is no time", key, "write YYYY-MM-DD or YYYY-MM-DD HH:MM, UTC"
        ) from None


def proposals_in(text: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return proposals from a list, or from a text with commas, blanks or lines between them; each once."""
    words = (
        re.split(r"[\s,;]+", text) if isinstance(text, str) else [str(word).strip() for word in text or ()]
    )
    return tuple(dict.fromkeys(word for word in words if word))

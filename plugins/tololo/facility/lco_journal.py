"""What was downloaded from Las Cumbres' archive: a line of JSON a frame, in a hidden file of the root.

Lines are only ever added. Of several lines about one frame the last counts; one that a dying process left
unfinished is passed over.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tololo.facility.disk import writing

FILE = ".lco_archive.jsonl"


@dataclass(frozen=True)
class Downloaded:
    """A frame that was downloaded and compared with its checksum.

    ``dataset`` is the folder below the root that it belongs to; until it is ``delivered`` there, it waits in
    the folder of incoming frames.
    """

    id: int
    filename: str
    md5: str
    size: int
    dataset: str
    delivered: bool = False


class Journal:
    """The frames that were downloaded below a root folder, and until when all of each proposal were.

    Parameters
    ----------
    root : `pathlib.Path`
        The root folder; the journal is made with its first line.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / FILE
        self.frames: dict[int, Downloaded] = {}
        self.complete: dict[str, datetime] = {}
        for line in self.path.read_text(errors="replace").splitlines() if self.path.exists() else ():
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue

    def note(self, frame: Downloaded) -> None:
        """Add a frame, or what became of it."""
        self._append(asdict(frame))

    def note_complete(self, proposal: str, start: datetime, end: datetime) -> None:
        """Add that all frames of a proposal in a window are here.

        A window that begins after the last complete one ended leaves a gap, and moves nothing.
        """
        before = self.complete.get(proposal)
        if before is None or start <= before < end:
            self._append({"proposal": proposal, "complete": end.isoformat()})

    def _take(self, line: dict[str, Any]) -> None:
        if "proposal" in line:
            self.complete[line["proposal"]] = datetime.fromisoformat(line["complete"])
        else:
            frame = Downloaded(**line)
            self.frames[frame.id] = frame

    def _append(self, line: dict[str, Any]) -> None:
        with writing(self.path), open(self.path, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(("\n" * torn + json.dumps(line) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self._take(line)

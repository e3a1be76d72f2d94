"""What is here already of what Las Cumbres' archive lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tololo.facility.disk import md5_of
from tololo.facility.lco import INCOMING, UNSORTED, ArchiveFrame, stem_of
from tololo.facility.lco_journal import Downloaded, Journal


@dataclass(frozen=True)
class Judgement:
    """Whether a frame is to be fetched; if it is neither that nor simply here, the reason."""

    fetch: bool
    reason: str = ""


FETCH, HERE = Judgement(True), Judgement(False)


class Inventory:
    """The frames below a root folder.

    A frame is here if a file of its name lies in its dataset's folder or below, also unpacked, packed or put
    into a subfolder by hand. What was changed here, by hand or by another tool, is never overwritten; what is
    shorter than it came is spoilt, and fetched anew.

    Parameters
    ----------
    root : `pathlib.Path`
        The root folder.
    journal : `Journal`
        Which of its files were downloaded, and how they were then.
    """

    def __init__(self, root: Path, journal: Journal) -> None:
        self.root = root
        self.journal = journal
        self._files: dict[str, dict[str, list[Path]]] = {}
        self._first: dict[tuple[str, str], int] = {}  # by folder and name

    def judge(self, frame: ArchiveFrame) -> Judgement:
        """Say whether a frame is to be fetched."""
        if objection := frame.objection() or self._objection(frame):
            return Judgement(False, objection)
        known = self.journal.frames.get(frame.id)
        if known and known.md5 == frame.md5 and (self.waits(known) or not frame.dataset):
            return HERE  # what belongs nowhere may have been sorted by hand
        files = self._of(frame)
        named = next((path for path in files if path.name == frame.filename), None)
        if not files or known is None:
            return self._judge_unknown(named, frame) if files else FETCH
        if known.md5 == frame.md5:
            spoilt = named is not None and named.stat().st_size < known.size
            return FETCH if spoilt else HERE
        if named and len(files) == 1 and named.stat().st_size == known.size:
            return FETCH
        return Judgement(False, "the archive has a newer version, but the file was changed or unpacked here")

    def waits(self, frame: Downloaded) -> bool:
        """Tell whether a frame is among the incoming ones."""
        return not frame.delivered and (self.root / INCOMING / frame.filename).exists()

    def waiting_under_the_name_of(self, frame: ArchiveFrame) -> Downloaded | None:
        """Return another frame among the incoming ones that has the name of this one, if there is one."""
        return next(
            (
                other
                for other in self.journal.frames.values()
                if other.filename == frame.filename and other.id != frame.id and self.waits(other)
            ),
            None,
        )

    def waiting(self) -> list[Downloaded]:
        """Return the frames that are among the incoming ones, dataset by dataset."""
        return sorted(filter(self.waits, self.journal.frames.values()), key=lambda frame: frame.dataset)

    def _objection(self, frame: ArchiveFrame) -> str:
        """Say if another frame that was listed has its place; empty if none has."""
        first = self._first.setdefault((frame.dataset, frame.filename), frame.id)
        return "" if first == frame.id else f"frame {first} has the same name in the same dataset"

    @staticmethod
    def _judge_unknown(named: Path | None, frame: ArchiveFrame) -> Judgement:
        """Judge a file that was not downloaded from here."""
        if named is None or md5_of(named) == frame.md5:
            return HERE
        return Judgement(False, "another file of this name is here, and was left as it is")

    def _of(self, frame: ArchiveFrame) -> list[Path]:
        """Return the files of a frame in its dataset or below."""
        folder = frame.dataset or UNSORTED
        if folder not in self._files:
            files = self._files[folder] = {}
            for path in (self.root / folder).rglob("*"):
                if (stem := stem_of(path.name)) != path.name and not path.name.startswith("."):
                    files.setdefault(stem, []).append(path)
        return self._files[folder].get(frame.stem, [])

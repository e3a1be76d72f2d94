"""A copy of the package that tests may edit: an engine server that runs it sees the change."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import tololo


class PackageCopy:
    """A copy of the package in a folder.

    Parameters
    ----------
    folder : `pathlib.Path`
        Where to put it; its ``plugins`` is for ``PYTHONPATH``.
    """

    def __init__(self, folder: Path) -> None:
        source = Path(tololo.__file__).parent
        self.path = folder / "plugins"
        shutil.copytree(source, self.path / "tololo", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "include").symlink_to(source.parents[1] / "include")

    def edit(self, file: str, pattern: str, replacement: str) -> None:
        """Replace the one match of a pattern in a file."""
        path = self.path / "tololo" / file
        text, count = re.subn(pattern, lambda _: replacement, path.read_text())
        assert count == 1, f"{pattern} matches {count} times in {file}"
        path.write_text(text)

    def write(self, file: str, text: str) -> None:
        """Put another text in the place of a file."""
        (self.path / "tololo" / file).write_text(text)

    def append(self, file: str, text: str) -> None:
        """Add to a file."""
        with open(self.path / "tololo" / file, "a") as end:
            end.write(text)

    def import_nothing_first(self) -> None:
        """Let a server import nothing before it listens."""
        self.edit("engine/warm.py", r"(?s)\nFIRST = \(.*?\n\)\n", "\nFIRST = ()\n")
        self.edit("engine/warm.py", r"\n    recall.remember\(\)\n", "\n")

    def import_when_needed(self) -> None:
        """Let a server import nothing at all by itself."""
        self.import_nothing_first()
        self.edit("engine/warm.py", r"\n    from tololo.reduction import kernels, tasks\n", "\n    return\n")

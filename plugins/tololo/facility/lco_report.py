"""What became of a download of frames."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DownloadReport:
    """What a download did.

    Attributes
    ----------
    found, new, present : `int`
        Frames that the archive lists, those that were fetched (in a dry run: would be), and those that were
        here.
    waiting : `dict` [`str`, `str`]
        Datasets whose lock another holds, and who; their frames come in with the next download.
    set_aside : `dict` [`str`, `str`]
        Frames that are in no dataset, or were left as they are, and why.
    failed : `dict` [`str`, `str`]
        Frames that could not be fetched, and why.
    datasets : `list` [`str`]
        Folders that got frames (in a dry run: would get).
    configured, unconfigured : `list` [`str`], `dict` [`str`, `str`]
        Datasets that got a configuration, and those that could not be given one, and why.
    """

    found: int = 0
    new: int = 0
    present: int = 0
    waiting: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    configured: list[str] = field(default_factory=list)
    unconfigured: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"Frames in the archive {self.found}, new {self.new}, here already {self.present}, set aside "
            f"{len(self.set_aside)}, failed {len(self.failed)}; datasets with new frames "
            f"{len(self.datasets)}, waiting for a lock {len(self.waiting)}"
        )

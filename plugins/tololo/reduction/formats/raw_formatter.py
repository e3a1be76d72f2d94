"""How the Butler reads a raw."""

from __future__ import annotations

from pathlib import Path

from lsst.images import Image

from .archive_formatter import ArchiveFormatter
from .raw import read_pixels

DATASET_TYPE = "raw"


class RawFormatter(ArchiveFormatter):
    """Counts as they were read out; `~tololo.reduction.formats.raw.raw_detector` makes sense of them."""

    @staticmethod
    def read_detector(path: Path, detector: int) -> Image:
        """Read a raw: uint16, the whole array."""
        pixels, cards = read_pixels(path, detector)
        return Image(pixels, metadata=dict(cards))

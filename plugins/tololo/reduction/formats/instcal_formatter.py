"""How the Butler reads a plane of an InstCal exposure."""

from __future__ import annotations

from pathlib import Path

from lsst.images import Image

from .archive_formatter import ArchiveFormatter
from .instcal import read_plane

# Dataset types of the three planes, by the attribute of an InstcalDetector that names their file.
PLANES = {"image": "instcal_image", "weight": "instcal_weight", "mask": "instcal_mask"}


class InstcalFormatter(ArchiveFormatter):
    """The pixels as they stand: ADU, ADU^-2, or codes."""

    @staticmethod
    def read_detector(path: Path, detector: int) -> Image:
        """Read a plane in native byte order; see `instcal.read_plane`."""
        plane = read_plane(path, detector)
        return Image(plane.array, metadata=dict(plane.metadata))

"""How the Butler reads files of an archive that hold all detectors of an exposure, one in each HDU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from lsst.daf.butler import FormatterV2
from lsst.images import Image
from lsst.resources import ResourcePath

DIMENSIONS = ("instrument", "exposure", "detector")
STORAGE_CLASS = "ImageV2"


class ArchiveFormatter(FormatterV2):
    """Read the HDU whose ``CCDNUM`` is the detector of the data id; a subclass says how.

    It comes as a `lsst.images.Image`, with the cards of the primary header and of the HDU as its metadata.
    The files belong to the archive, so nothing is ever written.
    """

    can_read_from_local_file: ClassVar[bool] = True
    default_extension: ClassVar[str] = ".fits.fz"
    supported_extensions: ClassVar[frozenset[str]] = frozenset({".fits", ".fits.fz", ".fits.gz", ".fz"})

    @staticmethod
    def read_detector(path: Path, detector: int) -> Image:
        """Read a detector from a file.

        Raises
        ------
        BadInputError
            If the file is damaged or has no such detector.
        """
        raise NotImplementedError

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the detector of the data id, or its ``bbox``, ``unit`` or ``sky_projection``."""
        image = self.read_detector(Path(path), int(self.data_id["detector"]))
        box = (self.file_descriptor.parameters or {}).get("bbox")
        image = image if box is None else image[box]
        return image if component is None else getattr(image, component)

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Refuse: these are ingested, never written."""
        raise NotImplementedError(f"An archive's files are ingested, not written ({uri})")

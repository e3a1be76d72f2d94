"""How the Butler reads a raw: one HDU of a file that holds all detectors of an exposure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from lsst.daf.butler import FormatterV2
from lsst.images import Image
from lsst.resources import ResourcePath

from .raw import read_pixels

DATASET_TYPE = "raw"
DIMENSIONS = ("instrument", "exposure", "detector")
STORAGE_CLASS = "ImageV2"


class RawFormatter(FormatterV2):
    """Read the HDU whose ``CCDNUM`` is the detector of the data id.

    It comes as a `lsst.images.Image`: counts as they were read out, the cards of the primary header and of
    the HDU as its metadata; `~tololo.reduction.formats.raw.raw_detector` makes sense of them. Raws belong to
    the archive, so nothing is ever written.
    """

    can_read_from_local_file: ClassVar[bool] = True
    default_extension: ClassVar[str] = ".fits.fz"
    supported_extensions: ClassVar[frozenset[str]] = frozenset({".fits", ".fits.fz", ".fz"})

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read a raw, or one of its components.

        Parameters
        ----------
        path : `str`
            Local path.
        component : `str`, optional
            ``bbox``, ``unit`` or ``sky_projection``.
        expected_size : `int`, optional
            Not used.

        Returns
        -------
        raw : `lsst.images.Image`
            Shape ``(ny, nx)`` of the raw array, uint16.

        Raises
        ------
        BadInputError
            If the file is damaged or has no such detector.
        """
        image = raw_image(path, int(self.data_id["detector"]))
        box = (self.file_descriptor.parameters or {}).get("bbox")
        image = image if box is None else image[box]
        return image if component is None else getattr(image, component)

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Refuse: raws are ingested, never written."""
        raise NotImplementedError(f"Raws are ingested from files, not written ({uri})")


def raw_image(path: str, detector: int) -> Image:
    """Read a detector as the image type that the Butler hands out; see `raw.read_pixels`."""
    pixels, cards = read_pixels(Path(path), detector)
    return Image(pixels, metadata=dict(cards))

"""How the Butler reads a plane of an InstCal exposure: one HDU of a file that holds all detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from lsst.daf.butler import FormatterV2
from lsst.images import Image
from lsst.resources import ResourcePath

from .instcal import read_plane

# Dataset types of the three planes, by the attribute of an InstcalDetector that names their file.
PLANES = {"image": "instcal_image", "weight": "instcal_weight", "mask": "instcal_mask"}
DIMENSIONS = ("instrument", "exposure", "detector")
STORAGE_CLASS = "ImageV2"


class InstcalFormatter(FormatterV2):
    """Read the HDU whose ``CCDNUM`` is the detector of the data id.

    The plane comes as a `lsst.images.Image`: the pixels as they stand (ADU; ADU^-2; codes), the cards of the
    primary header and of the HDU as its metadata. The files belong to the archive, so nothing is ever
    written.
    """

    can_read_from_local_file: ClassVar[bool] = True
    default_extension: ClassVar[str] = ".fits"
    supported_extensions: ClassVar[frozenset[str]] = frozenset({".fits", ".fits.fz", ".fits.gz", ".fz"})

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read a plane, or one of its components.

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
        plane : `lsst.images.Image`
            Shape ``(ny, nx)`` in native byte order.

        Raises
        ------
        BadInputError
            If the file is damaged or has no such detector.
        """
        image = plane_image(path, int(self.data_id["detector"]))
        box = (self.file_descriptor.parameters or {}).get("bbox")
        image = image if box is None else image[box]
        return image if component is None else getattr(image, component)

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Refuse: planes are ingested, never written."""
        raise NotImplementedError(f"InstCal planes are ingested from files, not written ({uri})")


def plane_image(path: str, detector: int) -> Image:
    """Read the plane of a detector as the image type that the Butler hands out; see `instcal.read_plane`."""
    plane = read_plane(Path(path), detector)
    return Image(plane.array, metadata=dict(plane.metadata))

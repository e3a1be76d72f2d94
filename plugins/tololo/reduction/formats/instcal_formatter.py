"""How the Butler reads a plane of an InstCal exposure: one HDU of a file that holds all detectors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from astropy.io import fits
from lsst.daf.butler import FormatterV2
from lsst.images import Image
from lsst.resources import ResourcePath

from tololo.facility.errors import BadInputError

from .instcal import cards_of

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
        image = read_plane(path, int(self.data_id["detector"]))
        box = (self.file_descriptor.parameters or {}).get("bbox")
        image = image if box is None else image[box]
        return image if component is None else getattr(image, component)

    def write_local_file(self, in_memory_dataset: Any, uri: ResourcePath) -> None:
        """Refuse: planes are ingested, never written."""
        raise NotImplementedError(f"InstCal planes are ingested from files, not written ({uri})")


def read_plane(path: str, detector: int) -> Image:
    """Read the plane of a detector from a file, as `InstcalFormatter` does.

    Parameters
    ----------
    path : `str`
        FITS file, tile-compressed or not.
    detector : `int`
        ``CCDNUM``.

    Returns
    -------
    plane : `lsst.images.Image`

    Raises
    ------
    BadInputError
        If the file is damaged or has no such detector.
    """
    try:
        with fits.open(path, memmap=False) as hdus:
            hdu = next((hdu for hdu in hdus if hdu.header.get("CCDNUM") == detector and hdu.is_image), None)
            if hdu is not None and hdu.data is not None:
                pixels = np.asarray(hdu.data)
                native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
                return Image(native, metadata=dict(cards_of(hdus[0].header, hdu.header)))
    except (OSError, ValueError, TypeError) as error:
        raise BadInputError(f"The file is damaged: {error}", path, "fetch the file again") from error
    raise BadInputError(
        f"The file has no detector {detector}", f"{path}, card CCDNUM", "ingest the exposure anew"
    )

"""Mask planes: integers with one bit for each plane in the kernels, `lsst.images.Mask` in files."""

from __future__ import annotations

from typing import Any

import numpy as np
from lsst.images import Box, Mask, MaskPlane, MaskSchema, MaskSerializationModel
from lsst.images.serialization import NumberType, OutputArchive, no_header_updates
from numpy.typing import NDArray
from pydantic import BaseModel

PLANES = (
    MaskPlane("BAD", "Bad pixel in the instrument."),
    MaskPlane("SATURATED", "Pixel was saturated or lies in a bleed trail."),
    MaskPlane("INTERPOLATED", "Pixel value was interpolated."),
    MaskPlane("COSMIC_RAY", "A cosmic ray affected this pixel."),
    MaskPlane("DETECTION_EDGE", "Pixel was too close to the edge to be considered for detection."),
    MaskPlane("DETECTED", "Pixel was part of a detected source."),
    MaskPlane("SUSPECT", "Pixel value is doubtful."),
    MaskPlane("NO_DATA", "No data was available for this pixel."),
    MaskPlane("STREAK", "A streak, probably an artificial satellite, affected this pixel."),
    MaskPlane("CLIPPED", "At least one input was left out here because it disagreed with the others."),
    MaskPlane("DETECTED_NEGATIVE", "Pixel was part of a detected source with negative flux."),
    MaskPlane("SATURATED_TEMPLATE", "Template pixel was saturated."),
    MaskPlane("INEXACT_PSF", "Fewer visits contribute here than around it, so that the PSF is another."),
    MaskPlane("SPOILED", "A bad pixel of the science image or of the template reaches the difference here."),
)
"""The planes in bit order; the names are those of LSST's visit and difference images where it has one."""

BIT = {plane.name: 1 << i for i, plane in enumerate(PLANES)}
"""Value of each plane's bit."""

UNUSABLE = BIT["BAD"] | BIT["SATURATED"] | BIT["COSMIC_RAY"] | BIT["NO_DATA"] | BIT["STREAK"] | BIT["SPOILED"]
"""Planes whose pixels are not to be measured (suspect ones may be: a transient is suspect to the archive)."""

SCHEMA = MaskSchema(PLANES)


def pack_mask(bits: NDArray[np.integer], bbox: Box | None = None) -> Mask:
    """Return integers of shape (ny, nx) as a mask of `SCHEMA`."""
    array = np.ascontiguousarray(bits, dtype="<u2").view(np.uint8).reshape(*bits.shape, 2)
    return Mask(array, schema=SCHEMA, bbox=bbox if bbox is not None else Box.from_shape(bits.shape))


def unpack_mask(mask: Mask) -> NDArray[np.int32]:
    """Return a mask as integers of shape (ny, nx); planes that Tololo does not know are left out."""
    if mask.schema == SCHEMA:
        return np.ascontiguousarray(mask.array).view("<u2")[..., 0].astype(np.int32)
    bits = np.zeros(mask.array.shape[:2], dtype=np.int32)
    for name, value in BIT.items():
        if name in mask.schema.names:
            bits[mask.get(name)] |= value
    return bits


class FlatMask(Mask):
    """A mask on its way to a FITS file, where it is one image of integers with a bit for each plane.

    LSST's own code makes that image plane by plane, which for a CCD takes longer than coding all its pixels.
    What is written is the same, and reads back as the mask that it was made of.
    """

    @classmethod
    def of(cls, mask: Mask) -> Mask:
        """Return a mask for writing; as it is where its planes do not stand bit by bit in one number."""
        schema = mask.schema
        if (
            schema.dtype != np.uint8
            or schema.mask_size not in (1, 2)
            or any(plane is None for plane in schema)
        ):
            return mask
        array = np.ascontiguousarray(mask.array).view(f"<u{schema.mask_size}").astype(np.int32)
        flat = MaskSchema(schema, dtype=np.int32)
        return cls(
            array,
            schema=flat,
            bbox=mask.bbox,
            sky_projection=mask.sky_projection,
            metadata=mask.metadata.copy(),
        )

    def serialize[P: BaseModel](self, archive: OutputArchive[P], **options: Any) -> MaskSerializationModel[P]:
        """Write the mask; the options are those of `lsst.images.Mask.serialize`."""
        projection = None
        if options.pop("save_projection", True) and self.sky_projection is not None:
            projection = archive.serialize_direct("sky_projection", self.sky_projection.serialize)
        return MaskSerializationModel.model_construct(
            data=[
                self._serialize_2d(
                    archive, **{"update_header": no_header_updates, "add_offset_wcs": "A", **options}
                )
            ],
            yx0=list(self.bbox.start),
            planes=list(self.schema),
            dtype=NumberType.uint8,
            sky_projection=projection,
            metadata=self.metadata.copy(),
        )

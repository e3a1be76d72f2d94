"""Mask planes: integers with one bit for each plane in the kernels, `lsst.images.Mask` in files."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from lsst.images import Box, Mask, MaskPlane, MaskSchema
from numpy.typing import NDArray

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
)
"""The planes in bit order; the names are those of LSST's visit and difference images where it has one."""

BIT = {plane.name: 1 << i for i, plane in enumerate(PLANES)}
"""Value of each plane's bit."""

UNUSABLE = BIT["BAD"] | BIT["SATURATED"] | BIT["COSMIC_RAY"] | BIT["NO_DATA"] | BIT["STREAK"]
"""Planes whose pixels are not to be measured (suspect ones may be: a transient is suspect to the archive)."""

SCHEMA = MaskSchema(PLANES)


class UsedSchema(MaskSchema):
    """The schema of a mask of which only some planes have a pixel set.

    ``names`` are those planes. Writing a mask goes through all names, 10 ms each for a CCD; in files, and for
    everything else, the schema is the whole `SCHEMA`.
    """

    def __init__(self, used: int) -> None:
        super().__init__(PLANES)
        self._used = {plane.name: None for plane in PLANES if BIT[plane.name] & used}

    @property
    def names(self) -> Set[str]:
        """Names of the planes that have a pixel set, in bit order."""
        return self._used.keys()


def pack_mask(bits: NDArray[np.integer], bbox: Box | None = None) -> Mask:
    """Return integers of shape (ny, nx) as a mask of `SCHEMA`."""
    packed = np.ascontiguousarray(bits, dtype="<u2")
    schema = UsedSchema(int(np.bitwise_or.reduce(packed, axis=None)))
    array = packed.view(np.uint8).reshape(*bits.shape, 2)
    return Mask(array, schema=schema, bbox=bbox if bbox is not None else Box.from_shape(bits.shape))


def unpack_mask(mask: Mask) -> NDArray[np.int32]:
    """Return a mask as integers of shape (ny, nx); planes that Tololo does not know are left out."""
    bits = np.zeros(mask.array.shape[:2], dtype=np.int32)
    if mask.schema == SCHEMA:
        bits[:] = np.ascontiguousarray(mask.array).view("<u2")[..., 0]
        return bits
    for name, value in BIT.items():
        if name in mask.schema.names:
            bits[mask.get(name)] |= value
    return bits

"""The Community Pipeline's data-quality maps, turned into named bit planes.

From version 3.5.0 of the pipeline on, a pixel holds one code (the gravest of its faults); before, a bit mask.
The codes are those of the NOIRLab Data Handbook, the bits those of the pipeline's version 2 documentation
(PL201_3); the version at which they changed is the one that the Legacy Surveys' ``legacypipe.decam`` uses.
"""

from __future__ import annotations

import re
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray


class DQ(IntFlag):
    """Bit planes of `InstcalPixels.mask`."""

    BAD = 1
    "Detector defect, interpolated value or very low weight."
    SAT = 2
    "Saturated."
    CR = 4
    "Cosmic ray."
    NO_DATA = 8
    "No measurement: no value in the image, or weight zero without another reason."
    BLEED = 16
    "Bleed trail of a saturated star; in some runs of version 4 also a disk around bright stars."
    SUSPECT = 32
    "At the edge, or unlike other exposures: no reason to reject (a transient is unlike them too)."
    STREAK = 64
    "Long streak, such as a satellite."


UNUSABLE = DQ.BAD | DQ.SAT | DQ.CR | DQ.NO_DATA | DQ.BLEED
"""Planes whose pixels hold no measurement of the sky."""

_CODES_SINCE = "V3.5.0"
_CODES = {
    1: DQ.BAD,
    2: DQ.NO_DATA,
    3: DQ.SAT,
    4: DQ.BLEED,
    5: DQ.CR,
    6: DQ.BAD,
    7: DQ.SUSPECT,
    8: DQ.STREAK,
}
_BITS = {
    1: DQ.BAD,
    2: DQ.SAT,
    4: DQ.BAD,  # interpolated
    16: DQ.CR,
    64: DQ.BLEED,
    128: DQ.SUSPECT,  # transient between exposures
    256: DQ.SUSPECT,  # edge
    512: DQ.SUSPECT,  # edge
}


def plver_key(plver: str) -> tuple[int, int, int, int, str]:
    """Return a key that sorts pipeline versions by age.

    Parameters
    ----------
    plver : `str`
        ``PLVER`` as headers have it: ``V4.8.2a``, ``V3.9``, ``DES V2.0.8+1``, ``V5.0beta``, ``V5.2.2LS``.

    Returns
    -------
    key : `tuple`
        Major, minor, patch, rank of the suffix (a beta comes before its release), suffix. A string without a
        number sorts first.
    """
    match = re.search(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?(.*)", plver.strip())
    if match is None:
        return (-1, 0, 0, 0, "")
    suffix = match[4].strip().removeprefix("LS")
    rank = -1 if suffix.startswith(("beta", "rc")) else int(bool(suffix))
    return (int(match[1]), int(match[2] or 0), int(match[3] or 0), rank, suffix)


def has_codes(plver: str) -> bool:
    """Tell whether maps of this pipeline version hold codes (`True`) or bits (`False`)."""
    return plver_key(plver) >= plver_key(_CODES_SINCE)


def dq_planes(dq: NDArray[np.integer], plver: str) -> NDArray[np.uint8]:
    """Turn a data-quality map into bit planes.

    Parameters
    ----------
    dq : `numpy.ndarray`, (ny, nx), integer
        The map as the file has it.
    plver : `str`
        Version of the pipeline that made it (``PLVER``).

    Returns
    -------
    mask : `numpy.ndarray`, (ny, nx), uint8
        Bits of `DQ`. A code or bit that is not documented becomes ``BAD``.

    Notes
    -----
    In some runs before version 4.8.0 the codes of cosmic rays and streaks were confused; both are masked here
    all the same.
    """
    table = _code_table() if has_codes(plver) else _bit_table()
    inside = (dq >= 0) & (dq < len(table))
    planes: NDArray[np.uint8] = table[np.where(inside, dq, 0)]
    planes[~inside] = DQ.BAD
    return planes


def plane_names() -> dict[str, int]:
    """Return the name of each plane and its bit value."""
    return {plane.name: int(plane) for plane in DQ if plane.name}


def _code_table() -> NDArray[np.uint8]:
    table = np.full(256, DQ.BAD, np.uint8)
    table[0] = 0
    for code, plane in _CODES.items():
        table[code] = plane
    return table


def _bit_table() -> NDArray[np.uint8]:
    values = np.arange(1024)
    table = np.zeros(1024, np.uint8)
    for bit, plane in _BITS.items():
        table[(values & bit) != 0] |= np.uint8(plane)
    known = sum(_BITS)
    table[(values & ~known) != 0] |= np.uint8(DQ.BAD)
    # A defect that is also called saturated is a defect: its level says nothing of the sky.
    both = np.uint8(DQ.BAD | DQ.SAT)
    table[(table & both) == both] &= np.uint8(~int(DQ.SAT) & 0xFF)
    return table

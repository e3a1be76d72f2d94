"""Filters of DECam: physical filters, bands, and what headers call them.

The physical filters of the broad bands, VR, N419, N540, N708 and N964 are the ones of ``lsst.obs.decam``, so
a repository of either agrees. The other interference filters are named after their header string where one
has been seen in public data, and after the bare name of the filter where none has (N501, N673).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from tololo.facility.errors import BadInputError


@dataclass(frozen=True)
class Filter:
    """One piece of glass.

    Attributes
    ----------
    physical_filter : `str`
        Name in the Butler, as in the ``FILTER`` card.
    band : `str`
        Band in the Butler.
    wavelength : `float`
        Central wavelength, nm; 0 for the solid plate.
    """

    physical_filter: str
    band: str
    wavelength: float

    @property
    def name(self) -> str:
        """First word of the header string: ``g``, ``VR``, ``N964``."""
        return self.physical_filter.split()[0]

    @property
    def slot(self) -> str:
        """CTIO's code of the glass (``c0001``); empty where it is not known."""
        match = _SLOT.search(self.physical_filter)
        return match[0] if match else ""


_SLOT = re.compile(r"\b[ck]\d{4}\b")

FILTERS = (
    Filter("u DECam c0006 3500.0 1000.0", "u", 350.0),
    Filter("g DECam SDSS c0001 4720.0 1520.0", "g", 472.0),
    Filter("r DECam SDSS c0002 6415.0 1480.0", "r", 641.5),
    Filter("i DECam SDSS c0003 7835.0 1470.0", "i", 783.5),
    Filter("z DECam SDSS c0004 9260.0 1520.0", "z", 926.0),
    Filter("Y DECam c0005 10095.0 1130.0", "y", 1009.5),
    Filter("VR DECam c0007 6300.0 2600.0", "VR", 630.0),
    Filter("N395 DECam c0015 3950.0 100.0", "N395", 395.0),
    Filter("N419 DECam c0013 4194.0 75.0", "N419", 419.4),
    Filter("N501 DECam", "N501", 501.0),
    Filter("N540 DECam c0014 5403.2 210.0", "N540", 540.3),
    Filter("N662 DECam c0009 6620.0 172.0", "N662", 662.0),
    Filter("N673 DECam", "N673", 673.0),
    Filter("N708 DECam c0012 7080.0 400.0", "N708", 708.0),
    Filter("N964 DECam c0008 9645.0 94.0", "N964", 964.5),
    Filter("M411 DECam c0017 4112.0 264.0", "M411", 411.2),
    Filter("M438 DECam c0019 4380.0 260.0", "M438", 438.0),
    Filter("M464 DECam c0018 4640.0 264.0", "M464", 464.0),
    Filter("M490 DECam c0020 4900.0 260.0", "M490", 490.0),
    Filter("M517 DECam c0021 5170.0 260.0", "M517", 517.0),
    Filter("solid plate 0.0 0.0", "opaque", 0.0),
)

BANDS = tuple(filter_.band for filter_ in FILTERS if filter_.wavelength)
_BY_NAME = {filter_.name: filter_ for filter_ in FILTERS} | {
    filter_.band: filter_ for filter_ in FILTERS if filter_.wavelength
}


@cache
def find(header_string: str) -> Filter:
    """Find the filter that a header names.

    Parameters
    ----------
    header_string : `str`
        Value of the ``FILTER`` card, or a bare name such as ``g`` or ``Y``. Wavelengths may differ in their
        last digit (``5403.0``, ``5403.2``); the code of the glass, where given, must not.

    Returns
    -------
    filter : `Filter`

    Raises
    ------
    BadInputError
        If DECam has no such filter; the message lists the known ones.
    """
    words = str(header_string).split()
    found = _BY_NAME.get(words[0]) if words else None
    slot = _SLOT.search(header_string)
    if found is None or (slot and found.slot and slot[0] != found.slot):
        known = ", ".join(filter_.name for filter_ in FILTERS)
        raise BadInputError(
            f"{header_string!r} is not a filter of DECam", "header card FILTER", f"the known ones are {known}"
        )
    return found


def band_of(header_string: str) -> str:
    """Return the band of a header string, as in `find`: ``z DECam SDSS c0004 9260.0 1520.0`` is ``z``."""
    return find(header_string).band


def physical_filter_of(header_string: str) -> str:
    """Return the Butler's physical filter of a header string, as in `find`."""
    return find(header_string).physical_filter

from __future__ import annotations

import pytest

from tololo.facility.errors import BadInputError
from tololo.reduction.instrument import filters


@pytest.mark.parametrize(
    ("header", "band", "physical"),
    [
        ("z DECam SDSS c0004 9260.0 1520.0", "z", "z DECam SDSS c0004 9260.0 1520.0"),
        ("Y DECam c0005 10095.0 1130.0", "y", "Y DECam c0005 10095.0 1130.0"),
        ("  g   DECam SDSS c0001 4720.0 1520.0 ", "g", "g DECam SDSS c0001 4720.0 1520.0"),
        ("N540 DECam c0014 5403.0 210.0", "N540", "N540 DECam c0014 5403.2 210.0"),
        ("y", "y", "Y DECam c0005 10095.0 1130.0"),
        ("VR Supermacho c0007 6300.0 2600.0", "VR", "VR DECam c0007 6300.0 2600.0"),
        ("N501 DECam c9999 5010.0 75.0", "N501", "N501 DECam"),
        ("solid plate 0.0 0.0", "opaque", "solid plate 0.0 0.0"),
    ],
)
def test_header_strings(header: str, band: str, physical: str) -> None:
    assert filters.band_of(header) == band
    assert filters.physical_filter_of(header) == physical


@pytest.mark.parametrize("header", ["", "B Bessell c6002", "z SDSS c6020", "Z", "None"])
def test_unknown_filter_lists_the_known(header: str) -> None:
    with pytest.raises(BadInputError, match="u, g, r, i, z, Y, VR") as caught:
        filters.band_of(header)
    assert repr(header) in str(caught.value)


def test_every_filter_finds_itself() -> None:
    assert {
        "u",
        "g",
        "r",
        "i",
        "z",
        "y",
        "VR",
        "N419",
        "N501",
        "N540",
        "N662",
        "N673",
        "N708",
        "N964",
    } <= set(filters.BANDS)
    for known in filters.FILTERS:
        assert filters.find(known.physical_filter) is known
        assert filters.find(known.name) is known
        assert len(known.physical_filter) <= 32

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.instcal_formatter import InstcalFormatter


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    planes = [fits.PrimaryHDU()]
    planes[0].header["EXPNUM"] = 7
    for ccdnum in (1, 3, 62):
        hdu = fits.CompImageHDU(np.full((40, 30), ccdnum, "i4"), compression_type="RICE_1")
        hdu.header["CCDNUM"] = ccdnum
        planes.append(hdu)
    fits.HDUList(planes).writeto(tmp_path / "planes.fits.fz")
    return tmp_path / "planes.fits.fz"


def test_reads_the_detector_of_many(compressed: Path) -> None:
    plane = InstcalFormatter.read_detector(compressed, 62)
    np.testing.assert_array_equal(plane.array, np.full((40, 30), 62))
    assert plane.array.dtype == np.dtype("i4")
    assert (plane.metadata["EXPNUM"], plane.metadata["CCDNUM"]) == (7, 62)


def test_one_clear_error(compressed: Path) -> None:
    with pytest.raises(BadInputError, match="no detector 2"):
        InstcalFormatter.read_detector(compressed, 2)
    cut = compressed.with_name("cut.fits.fz")
    cut.write_bytes(compressed.read_bytes()[:-6000])
    with pytest.raises(BadInputError, match=r"cut\.fits\.fz"):
        InstcalFormatter.read_detector(cut, 62)

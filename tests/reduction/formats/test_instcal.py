"""Reading InstCal pixels: data-quality maps, variances of real exposures, what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from real_data import FIELD, INSTCAL, needs
from tololo.facility.errors import BadInputError
from tololo.reduction.formats.dqmask import DQ, UNUSABLE, dq_planes, has_codes, plane_names, plver_key
from tololo.reduction.formats.instcal import InstcalPixels, read_instcal
from tololo.reduction.formats.instcal_search import find_instcal

needs_real_data = needs(INSTCAL)


def test_versions_sort_by_age() -> None:
    ages = [
        "V2.0.8",
        "V2.0.8+1",
        "V3.4.9",
        "V3.5.0",
        "V3.9",
        "V4.8.2",
        "V4.8.2a",
        "V5.0beta",
        "V5.0",
        "V5.2.2LS",
    ]
    assert sorted(reversed(ages), key=plver_key) == ages
    assert plver_key("DES V2.0.8") == plver_key("V2.0.8")
    assert plver_key("") < plver_key("V1.0")
    assert [has_codes(plver) for plver in ("V3.4.9", "V3.5", "V3.5.0", "V4.8.2a")] == [
        False,
        True,
        True,
        True,
    ]


def test_codes_of_newer_versions() -> None:
    planes = dq_planes(np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 99]], np.int32), "V4.8.2a")
    assert planes.tolist() == [
        [0, DQ.BAD, DQ.NO_DATA, DQ.SAT, DQ.BLEED],
        [DQ.CR, DQ.BAD, DQ.SUSPECT, DQ.STREAK, DQ.BAD],
    ]
    assert planes.dtype == np.uint8


def test_bits_of_older_versions() -> None:
    planes = dq_planes(
        np.array([[0, 1, 2, 4], [16, 64, 128, 256], [2 | 64, 1 | 2, 32, -1]], np.int16), "V2.0.8"
    )
    assert planes.tolist() == [
        [0, DQ.BAD, DQ.SAT, DQ.BAD],
        [DQ.CR, DQ.BLEED, DQ.SUSPECT, DQ.SUSPECT],
        [DQ.SAT | DQ.BLEED, DQ.BAD, DQ.BAD, DQ.BAD],
    ]


def test_a_difference_from_other_exposures_is_no_reason_to_reject() -> None:
    assert not UNUSABLE & DQ.SUSPECT
    assert plane_names() == {plane.name: int(plane) for plane in DQ}


def real_pixels(folder: Path) -> list[InstcalPixels]:
    pixels = []
    for exposure in find_instcal(folder).triples:
        ccd = exposure.detectors[0]
        pixels.append(read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, ccd.ccdnum))
    return pixels


def blank_of(pixels: InstcalPixels) -> np.ndarray:
    good = pixels.mask == 0
    level = np.median(pixels.image[good])
    return good & (np.abs(pixels.image - level) < 2.5 * np.sqrt(np.median(pixels.variance[good])))


@needs_real_data
def test_variance_of_real_exposures_is_the_scatter_of_their_sky() -> None:
    ratios = []
    for pixels in real_pixels(FIELD):
        blank = blank_of(pixels)
        pairs = blank[:, 2:] & blank[:, :-2]
        steps = (pixels.image[:, 2:] - pixels.image[:, :-2])[pairs]
        # Both pixels are within 2.5 sigma, which takes 4.9 % off the scatter of a normal distribution.
        scatter = np.std(steps) / np.sqrt(2) / 0.951
        ratios.append(scatter / np.sqrt(np.median(pixels.variance[blank])))
    assert len(ratios) == 9
    assert np.median(ratios) == pytest.approx(1, abs=0.02)
    assert np.ptp(ratios) < 0.06


@needs_real_data
def test_variance_of_real_exposures_holds_the_noise_of_sources_but_not_of_the_pixel() -> None:
    for pixels in real_pixels(FIELD):
        blank = blank_of(pixels)
        assert abs(np.corrcoef(pixels.image[blank], pixels.variance[blank])[0, 1]) < 0.25
        bright = (pixels.mask == 0) & (pixels.image > pixels.sky + 30 * np.sqrt(np.median(pixels.variance)))
        if bright.sum() > 20:
            expected = pixels.image[bright] / pixels.gain + pixels.read_noise**2
            assert np.median(pixels.variance[bright] / expected) == pytest.approx(1, abs=0.14)


@needs_real_data
def test_real_headers_give_gain_noise_saturation_sky_and_wcs() -> None:
    for pixels in real_pixels(INSTCAL):
        assert 3.5 < pixels.gain < 4.5
        assert 1.4 < pixels.read_noise < 1.8
        assert 30_000 < pixels.saturation < 55_000
        assert pixels.sky == pytest.approx(np.median(pixels.image), rel=0.05)
        corner = pixels.wcs.all_pix2world([[0, 0], [100, 0]], 0)
        step = np.hypot(np.diff(corner[:, 0]) * np.cos(np.radians(corner[0, 1])), np.diff(corner[:, 1]))[0]
        assert step * 36 == pytest.approx(0.263, abs=0.003)
        assert pixels.wcs.wcs.radesys == "ICRS"
        assert np.isfinite(pixels.variance).all()
        assert (pixels.variance > 0).all()


@needs_real_data
def test_what_cannot_be_read() -> None:
    ccd = find_instcal(INSTCAL / "field_346.684+12.791").triples[0].detectors[0]
    with pytest.raises(BadInputError, match="has no detector 12"):
        read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, 12)
    with pytest.raises(BadInputError, match="mask of float32"):
        read_instcal(ccd.image.path, ccd.weight.path, ccd.weight.path, ccd.ccdnum)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from real_data import REAL, needs
from reduction.raw_files import COLUMNS, ROWS, pixels, write_raw
from tololo.facility.errors import BadInputError
from tololo.reduction.formats.instcal_cards import wcs_cards
from tololo.reduction.formats.raw import RawDetector, raw_detector, read_raw
from tololo.reduction.formats.raw_formatter import RawFormatter
from tololo.reduction.formats.raw_layout import hdu_of
from tololo.reduction.instrument.detectors import detector_geometry, detectors

REAL_RAW = REAL / "decam_raw"
CUTOUT = REAL_RAW / "cutout_c4d_200306_000415_ori.fits.fz"
CUT = (1030, 2023)  # pixels (x, y) that were cut off before it, as its CRPIX says


def assembled(raw: RawDetector) -> np.ndarray:
    image = np.zeros(raw.shape, np.uint16)
    for amplifier in raw.amplifiers:
        image[amplifier.target] = raw.pixels[amplifier.data]
    return image


@pytest.mark.parametrize(("detector", "name"), [(2, "S30"), (35, "N4")])
def test_a_detector_of_either_half(tmp_path: Path, detector: int, name: str) -> None:
    raw = read_raw(write_raw(tmp_path, 841_001), detector)
    assert (raw.exposure, raw.detector, raw.name) == (841_001, detector, name)
    assert raw.pixels.dtype == np.uint16
    np.testing.assert_array_equal(raw.pixels, pixels(detector))
    assert raw.shape == (ROWS, 2 * COLUMNS)
    south = name[0] == "S"
    rows = slice(4, 4 + ROWS) if south else slice(0, ROWS)
    np.testing.assert_array_equal(assembled(raw), pixels(detector)[rows, 8 : 8 + 2 * COLUMNS])
    a, b = raw.amplifiers
    assert (a.name, b.name) == ("A", "B")
    left, right = (b, a) if south else (a, b)
    assert (left.target[1], right.target[1]) == (slice(0, COLUMNS), slice(COLUMNS, 2 * COLUMNS))
    assert (left.overscan, right.overscan) == ((rows, slice(2, 8)), (rows, slice(40, 46)))
    ccd = detectors()[detector]
    assert (a.gain, b.read_noise, a.saturation) == (
        ccd.gain["A"],
        ccd.read_noise["B"],
        ccd.saturation["A"],
    )


def test_the_header_is_that_of_file_and_ccd(tmp_path: Path) -> None:
    path = write_raw(tmp_path, 841_001, change_ccd={"RADESYS": "ICRS"})
    for raw in (read_raw(path, 35), raw_detector(RawFormatter.read_detector(path, 35), "there")):
        assert (raw.header["EXPNUM"], raw.header["CCDNUM"], raw.header["ZD"]) == (841_001, 35, 32.5)
        assert raw.header["RADESYS"] == "ICRS"
        assert raw.header["time_recorded"].startswith("2019-04-02T01:30")
        assert not {"NAXIS", "BITPIX", "BZERO", "ZIMAGE"} & set(raw.header)


def test_what_the_butler_gives_is_the_same(tmp_path: Path) -> None:
    path = write_raw(tmp_path, 841_001)
    direct, given = read_raw(path, 61), raw_detector(RawFormatter.read_detector(path, 61), "there")
    np.testing.assert_array_equal(direct.pixels, given.pixels)
    assert direct.amplifiers == given.amplifiers
    assert dict(direct.header) == dict(given.header)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"GAINA": None}, "GAINA is missing"),
        ({"RDNOISEB": -1.0}, "RDNOISEB is -1.0"),
        ({"SATURATA": "NaN"}, "SATURATA is 'NaN'"),
        ({"TRIMSEC": None}, "TRIMSEC is missing"),
        ({"DATASECA": "[9:24]"}, r"DATASECA is '\[9:24\]'"),
        ({"BIASSECA": "[3000:3010,1:40]"}, "BIASSECA reach beyond 48 x 44"),
        ({"BIASSECB": "[41:46,2:40]"}, "BIASSECB and TRIMSEC have different rows"),
        ({"DATASECB": "[9:24,1:40]"}, "do not make up TRIMSEC"),
        ({"EXPNUM": "x"}, "EXPNUM is 'x'"),
    ],
)
def test_cards_that_make_no_sense_are_named(tmp_path: Path, change: dict[str, object], says: str) -> None:
    path = write_raw(tmp_path, 841_001, ccds=[35], change_ccd=change)
    with pytest.raises(BadInputError, match=says) as caught:
        read_raw(path, 35)
    assert str(path) in str(caught.value)
    assert "What to do" in str(caught.value)


def test_counts_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path, 841_001, ccds=[35])
    header = fits.getheader(path, 1)
    reduced = tmp_path / "reduced.fits"
    hdus = [
        fits.PrimaryHDU(header=fits.getheader(path)),
        fits.ImageHDU(np.ones((44, 48), np.float32), header),
    ]
    fits.HDUList(hdus).writeto(reduced)
    with pytest.raises(BadInputError, match="no raw: float32"):
        read_raw(reduced, 35)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path, 841_001)
    with pytest.raises(BadInputError, match="no detector 7"):
        read_raw(path, 7)
    content = path.read_bytes()
    _, last = hdu_of(path, 61)
    for size, says in ((last.end - 10, "cut short: it has"), (last.begin + 3000, "inside a header")):
        path.write_bytes(content[:size])
        assert read_raw(path, 35).name == "N4"  # what comes before is whole
        with pytest.raises(BadInputError, match=says):
            read_raw(path, 61)
    path.write_bytes(b"")
    with pytest.raises(BadInputError, match="empty"):
        read_raw(path, 61)
    path.write_text("a page that says that the archive is down\n" * 100)
    with pytest.raises(BadInputError, match="not FITS"):
        read_raw(path, 61)


def test_garbled_pixels_are_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path, 841_001)
    _, hdu = hdu_of(path, 35)
    content = bytearray(path.read_bytes())
    begin = hdu.begin + len(hdu.text)
    content[begin : begin + 200] = b"\xff" * 200  # the table that says where the tiles are
    path.write_bytes(bytes(content))
    with pytest.raises(BadInputError, match="cannot be read"):
        read_raw(path, 35)


@needs(REAL_RAW)
def test_pixels_of_a_cutout_are_refused_and_its_headers_are_whole() -> None:
    for number, ccd in detectors().items():
        with pytest.raises(BadInputError, match=r"sections do not fit the pixels: .* beyond 100 x 100"):
            read_raw(CUTOUT, number)
        image = RawFormatter.read_detector(CUTOUT, number)
        metadata = image.metadata
        assert (image.array.shape, image.array.dtype) == ((100, 100), np.uint16)
        assert (metadata["DETPOS"], metadata["EXPNUM"], metadata["ZD"]) == (ccd.name, 941_420, 12.75)


@needs(REAL_RAW)
def test_sections_of_real_headers_agree_with_the_cameras_geometry() -> None:
    for number in detectors():
        image = RawFormatter.read_detector(CUTOUT, number)
        whole = type(image)(np.zeros((4146, 2160), np.uint16), metadata=dict(image.metadata))
        raw = raw_detector(whole, "real header")
        assert raw.shape == (4096, 2048)
        geometry = {amplifier.name: amplifier for amplifier in detector_geometry(number).amplifiers}
        for amplifier in raw.amplifiers:
            nominal = geometry[amplifier.name]
            layout = nominal.assembled_raw_geometry
            assert amplifier.data == layout.data_bbox.slice_within(whole.bbox)
            assert amplifier.overscan == layout.serial_overscan_bbox.slice_within(whole.bbox)
            assert amplifier.target == nominal.bbox.slice_within(detector_geometry(number).bbox)


@needs(REAL_RAW)
def test_cards_are_read_as_astropy_reads_them() -> None:
    primary = fits.getheader(CUTOUT)
    for index in (1, 30, 62):
        theirs = fits.getheader(CUTOUT, index)
        raw = RawFormatter.read_detector(CUTOUT, theirs["CCDNUM"]).metadata
        for header, shadowed in ((primary, theirs), (theirs, {})):
            for key in set(header) & set(raw) - set(shadowed):
                assert raw[key] == header[key], key
                assert type(raw[key]) is type(header[key]), key
        assert {"time_recorded", "PV1_7", "ZPDELRA", "VALIDA", "EXCLUDED", "TELFOCUS"} <= set(raw)


@needs(REAL_RAW)
def test_the_wcs_of_real_headers_is_read_as_expected() -> None:
    """The middle of each cutout, as another project computed it from the same headers."""
    documents = yaml.safe_load((REAL_RAW / "expectedStandardizedValues.yaml").read_text())
    expected = documents[CUTOUT.name]["wcs"]
    assert len(expected) == 62
    with fits.open(CUTOUT) as hdus:
        numbers = [int(hdu.header["CCDNUM"]) for hdu in hdus[1:63]]
    for number, values in zip(numbers, expected, strict=True):
        cards = dict(RawFormatter.read_detector(CUTOUT, number).metadata)
        (center,) = WCS(fits.Header(wcs_cards(cards, "real"))).all_pix2world([[50, 50]], 0)
        vector = SkyCoord(*center, unit="deg").cartesian.xyz.value
        np.testing.assert_allclose(vector, [values[f"center_{axis}"] for axis in "xyz"], atol=2e-6)


@needs(REAL_RAW)
def test_the_wcs_of_real_headers_counts_pixels_of_the_assembled_ccd() -> None:
    """Southern CCDs begin 50 rows later in the raw array, northern ones do not, and both 56 columns later."""
    pointing = SkyCoord(84.20145, -21.204944, unit="deg").skyoffset_frame()
    found, nominal, south = [], [], []
    for number, ccd in detectors().items():
        cards = dict(RawFormatter.read_detector(CUTOUT, number).metadata)
        cards["CRPIX1"] += CUT[0]
        cards["CRPIX2"] += CUT[1]
        (center,) = WCS(fits.Header(wcs_cards(cards, "real"))).all_pix2world([[1023.5, 2047.5]], 0)
        sky = SkyCoord(*center, unit="deg").transform_to(pointing)
        found.append((sky.lon.arcsec * np.cos(sky.lat), sky.lat.arcsec))
        angle = detector_geometry(number).to_field_angle.apply_forward(x=1023.5, y=2047.5)
        nominal.append((angle.y, -angle.x))  # +y is east, +x is south
        south.append(ccd.side == "S")
    # The camera is turned by 0.14 degrees: an affine transformation, and a step between the halves.
    terms = np.column_stack([np.ones(62), south, nominal])
    fit, *_ = np.linalg.lstsq(terms, np.array(found) / 0.263, rcond=None)
    shift, step = fit[:2]
    assert np.abs(shift).max() < 4
    assert np.abs(step).max() < 4

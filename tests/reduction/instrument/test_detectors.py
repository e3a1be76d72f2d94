from __future__ import annotations

import re

import numpy as np
import pytest
from lsst.images.cameras import Detector

from real_data import REAL, needs
from tololo.facility.errors import BadInputError
from tololo.reduction.instrument.detectors import PIXEL_SIZE, detector, detector_geometry, detectors

HEADERS = REAL / "decam_raw" / "headers_txt"


def test_62_detectors_by_id_and_name() -> None:
    assert sorted(detectors()) == list(range(1, 63))
    assert detector(1).name == "S29"
    assert detector("N30").id == 61
    assert detector("62").name == "N31"
    assert {ccd.name for ccd in detectors().values()} == {f"{s}{n}" for s in "SN" for n in range(1, 32)}
    for bad in (0, 63, "FS1", "s29"):
        with pytest.raises(BadInputError, match="science detector"):
            detector(bad)


@needs(HEADERS)
def test_real_headers_agree() -> None:
    compared = 0
    for path in HEADERS.glob("*.hdr"):
        cards = dict(re.findall(r"^(\S+)\s*=\s*'?([^'/]+?)\s*'?\s*(?:/|$)", path.read_text(), re.MULTILINE))
        number = int(cards.get("CCDNUM", 0))
        if not 1 <= number <= 62:
            continue
        ccd, geometry = detector(number), detector_geometry(number)
        assert ccd.name == cards["DETPOS"]
        for amplifier in geometry.amplifiers:
            raw = amplifier.assembled_raw_geometry
            assert raw is not None
            assert amplifier.nominal_calibrations is not None
            for card, box in (
                ("CCDSEC", amplifier.bbox),
                ("DATASEC", raw.data_bbox),
                ("BIASSEC", raw.serial_overscan_bbox),
                ("PRESEC", raw.prescan_bbox),
                ("POSTSEC", raw.parallel_overscan_bbox),
            ):
                x0, x1, y0, y1 = map(int, re.findall(r"\d+", cards[card + amplifier.name]))
                assert (box.x.start, box.x.stop, box.y.start, box.y.stop) == (x0 - 1, x1, y0 - 1, y1), (
                    card,
                    ccd,
                )
            assert amplifier.nominal_calibrations.gain == pytest.approx(
                float(cards["GAIN" + amplifier.name]), rel=0.01
            )
        compared += 1
    assert compared == 62


def test_geometry() -> None:
    ccd = detector_geometry(31, visit=7)
    assert isinstance(ccd, Detector)
    assert (ccd.name, ccd.id, ccd.visit, ccd.instrument) == ("S7", 31, 7, "DECam")
    assert (ccd.bbox.x.size, ccd.bbox.y.size) == (2048, 4096)
    assert ccd.frame.bbox == ccd.bbox
    assert detector_geometry(31, visit=7) is ccd
    # the centre of the detector is where the table says; one pixel is 15 microns, and 0.263 arcsec on the sky
    here = detector("S7")
    x, y = np.array([1023.5, 1024.5]), np.array([2047.5, 2047.5])
    plane = ccd.to_focal_plane.apply_forward(x=x, y=y)
    assert (plane.x[0], plane.y[0]) == pytest.approx((here.x, here.y), abs=1e-9)
    assert np.hypot(plane.x[1] - plane.x[0], plane.y[1] - plane.y[0]) == pytest.approx(PIXEL_SIZE)
    field = ccd.to_field_angle.apply_forward(x=x, y=y)
    assert np.degrees(np.hypot(field.x[0], field.y[0])) == pytest.approx(0.935, abs=0.005)
    assert np.degrees(np.hypot(*np.diff(field))) * 3600 == pytest.approx(0.263, abs=0.003)
    back = ccd.to_field_angle.apply_inverse(x=field.x, y=field.y)
    np.testing.assert_allclose([back.x, back.y], [x, y], atol=1e-5)

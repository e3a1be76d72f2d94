"""What a point of a light curve can be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tololo.facility.errors import BadInputError
from tololo.facility.photometry_point import PhotometryPoint, ab_magnitude, njy

POINT = PhotometryPoint(58161.341, "TAI", 3630.78, 30.0, "g", 712345, 29, dia_object_id=2**62 + 1)
FRAME = PhotometryPoint(58161.341, "UTC", 3630.78, 30.0, "ip", image="lsc1m005-fa15-20180211-0123-e91")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mjd": 2458161.8}, "neither JD"),
        ({"flux_njy": float("nan")}, "not a measurement"),
        ({"flux_err_njy": 0.0}, "not a measurement"),
        ({"time_scale": "UT1"}, "time scale"),
        ({"filter_label": "g DECam SDSS c0001 4720.0 1520.0 A"}, "cannot be used"),
        ({"band": "1"}, "cannot be used"),  # a reader of tables takes these four for numbers
        ({"filter_label": "1e5"}, "cannot be used"),
        ({"filter_label": "nan"}, "cannot be used"),
        ({"instrument": "015"}, "cannot be used"),
        ({"telescope": ""}, "cannot be used"),
        ({"zero_point": float("nan")}, "no zero point"),
        ({"visit": None}, "no image"),
        ({"hjd_utc": 58161.341}, "no HJD"),
        ({"hjd_utc": 2458161.85}, "no HJD"),
        ({"hjd_utc": float("nan")}, "no HJD"),
    ],
)
def test_bad_points(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        replace(POINT, **change)
    visit = change.get("visit", 712345)
    assert f"visit {visit}, detector 29" in str(caught.value)


def test_a_frame_of_another_camera() -> None:
    assert FRAME.provenance == "image=lsc1m005-fa15-20180211-0123-e91"
    assert replace(FRAME, filter_label="1m0_ip", hjd_utc=2458161.843).filter_label == "1m0_ip"
    with pytest.raises(BadInputError, match="too long") as caught:
        replace(FRAME, image="x" * 195)
    assert "image xxx" in str(caught.value)


def test_fluxes_and_magnitudes() -> None:
    assert POINT.magnitude == pytest.approx(22.5, abs=1e-5)  # 3630.78 nJy
    assert njy(POINT.magnitude) == pytest.approx(POINT.flux_njy, rel=1e-12)
    assert ab_magnitude(njy(17.25)) == pytest.approx(17.25, abs=1e-12)

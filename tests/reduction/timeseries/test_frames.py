from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real_data import REAL, needs
from reduction.timeseries.made_frames import write_frame
from tololo.facility.errors import BadInputError
from tololo.reduction.timeseries.frames import image_id_of, read_frame

LCO = REAL / "lco"


@pytest.mark.parametrize("name", ["a.b-e91.fits", "a.b-e91.fits.fz", "a.b-e91.fts"])
def test_the_name_of_a_frame(name: str) -> None:
    assert image_id_of(Path("somewhere") / name) == "a.b-e91"


@pytest.mark.parametrize("compress", [False, True])
def test_a_frame(tmp_path: Path, compress: bool) -> None:
    image = np.full((40, 50), 100.0, np.float32)
    image[3, 4], image[5, 6] = 130000.0, np.nan
    mask = np.zeros(image.shape, np.uint8)
    mask[7, 8] = 1
    path = write_frame(tmp_path / "x.fits", image, mask=mask, compress=compress)
    before = path.read_bytes()
    frame = read_frame(path)
    assert path.read_bytes() == before
    assert frame.info.image_id == "x"
    assert (frame.info.filter, frame.info.telescope, frame.info.fwhm) == ("ip", "1m0-12", 1.8)
    assert [tuple(spot) for spot in np.argwhere(frame.bad)] == [(3, 4), (5, 6), (7, 8)]
    assert frame.error[0, 0] == pytest.approx(math.sqrt(100 + 64), rel=1e-3)
    assert list(frame.catalogue["x"]) == [10.0, 30.0], "from 0"


def test_its_own_error_plane_is_used(tmp_path: Path) -> None:
    error = np.full((40, 50), 3.0, np.float32)
    assert (read_frame(write_frame(tmp_path / "x.fits", error=error)).error == 3.0).all()


def test_its_times(tmp_path: Path) -> None:
    times = read_frame(write_frame(tmp_path / "x.fits")).info.times
    assert times.start == "2024-05-02T03:04:05.500"
    assert times.mjd_utc == pytest.approx(60432.12818866, abs=1e-8)  # 30 s after the begin
    # TT - UTC was 69.184 s; TDB is within 2 ms of TT.
    assert (times.mjd_tdb - times.mjd_utc) * 86400 == pytest.approx(69.184, abs=0.003)
    # Six weeks before opposition light reaches the Earth by cos(41 deg) of 499 s before the Sun.
    assert 370 < (times.hjd_utc - 2400000.5 - times.mjd_utc) * 86400 < 385
    assert abs(times.bjd_tdb - times.hjd_utc - 69.184 / 86400) * 86400 < 5


def test_a_time_without_a_fraction(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "x.fits", cards={"DATE-OBS": "2024-05-02T03:04:05"})
    assert read_frame(path).info.times.start == "2024-05-02T03:04:05.000"


@pytest.mark.parametrize(
    ("cards", "says"),
    [
        ({"WCSERR": 4}, "astrometric fit failed .WCSERR 4"),
        ({"WCSERR": None}, "no WCSERR"),
        ({"WCSERR": "N/A"}, "astrometric fit failed .WCSERR N/A"),
        ({"RLEVEL": "N/A"}, "not reduced"),
        ({"RLEVEL": 0}, "not reduced"),
        ({"RLEVEL": None}, "not reduced"),
        ({"OBSTYPE": "BIAS"}, "OBSTYPE is BIAS"),
        ({"FILTER": None, "DATE-OBS": "N/A"}, "lacks DATE-OBS, FILTER"),
        ({"DATE-OBS": "yesterday"}, "cannot be read"),
        ({"DATE-OBS": "2024-05-02"}, "DATE-OBS 2024-05-02 has no time of day"),
        ({"RA": "noon"}, "no angle"),
    ],
)
def test_what_is_set_aside(tmp_path: Path, cards: dict[str, Any], says: str) -> None:
    path = write_frame(tmp_path / "x.fits", cards=cards)
    with pytest.raises(BadInputError, match=says) as caught:
        read_frame(path)
    assert caught.value.where == str(path)


def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "x.fits", np.ones((500, 500), np.float32))
    path.write_bytes(path.read_bytes()[:200000])
    with pytest.raises(BadInputError, match=r"cannot be read|set aside"):
        read_frame(path)
    path.write_bytes(b"")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_frame(path)
    with pytest.raises(BadInputError, match="shape"):
        read_frame(write_frame(tmp_path / "y.fits", mask=np.zeros((4, 5), np.uint8)))


@pytest.mark.parametrize("fill", [0, 255])
def test_a_packed_file_that_is_damaged(tmp_path: Path, fill: int) -> None:
    noise = np.random.default_rng(1).normal(100, 10, (200, 300)).astype(np.float32)
    path = write_frame(tmp_path / "x.fits.fz", noise, compress=True)
    content = bytearray(path.read_bytes())
    content[20000:24000] = bytes([fill]) * 4000
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_frame(path)


@pytest.mark.parametrize("gain", [0.0, -1.0, "N/A", None])
def test_a_gain_that_is_none(tmp_path: Path, gain: float | str | None) -> None:
    frame = read_frame(write_frame(tmp_path / "x.fits", cards={"GAIN": gain, "RDNOISE": -1.0}))
    assert (frame.info.gain, frame.info.read_noise) == (1.0, 0.0)
    assert np.isfinite(frame.error).all()


@needs(LCO)
def test_the_real_frame_whose_astrometry_failed_is_refused_by_name() -> None:
    path = LCO / "banzai_e91_sbig" / "banzai_test_frame.fits.fz"
    with pytest.raises(BadInputError, match=r"WCSERR 4.*banzai_test_frame\.fits\.fz"):
        read_frame(path)


@needs(LCO)
def test_real_raws_are_seen_as_not_reduced() -> None:
    for path in sorted((LCO / "raw_frames").iterdir()):
        with pytest.raises(BadInputError, match=r"set aside: (it is not reduced|OBSTYPE)"):
            read_frame(path)

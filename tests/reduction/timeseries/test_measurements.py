from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tololo.reduction.timeseries import measurements
from tololo.reduction.timeseries.photometry import FIELDS


def test_written_read_and_forgotten(tmp_path: Path) -> None:
    frame, other = tmp_path / "a-e91.fits.fz", tmp_path / "b-e91.fits"
    for path in (frame, other):
        path.write_bytes(b"pixels")
    stars = np.zeros(3, FIELDS)
    stars["flux"], stars["flags"] = [1.5, np.nan, 3.0], [0, 1, 4]
    mark = measurements.fingerprint_of(frame, {"aperture": 2.0})
    assert not measurements.is_current(tmp_path, frame, mark)
    measurements.write(
        tmp_path, frame, mark, "", {"mjd_utc": 60000.123456789, "airmass": float("nan")}, stars
    )
    measurements.write(tmp_path, other, "x", "clouds", {}, None)
    assert measurements.is_current(tmp_path, frame, mark)
    found = measurements.read(tmp_path, frame)
    assert (found.image_id, found.reason, found.facts["mjd_utc"]) == ("a-e91", "", 60000.123456789)
    assert np.isnan(found.facts["airmass"])
    np.testing.assert_array_equal(found.stars["flux"], stars["flux"])
    assert found.stars["flags"].dtype == np.int32
    bad = measurements.read(tmp_path, other)
    assert (bad.reason, len(bad.stars)) == ("clouds", 0)
    measurements.forget_others(tmp_path, [frame])
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["a-e91.parquet"]


def test_what_a_measurement_depends_on(tmp_path: Path) -> None:
    frame = tmp_path / "a.fits"
    frame.write_bytes(b"pixels")
    mark = measurements.fingerprint_of(frame, {"aperture": 2.0})
    assert mark == measurements.fingerprint_of(frame, {"aperture": 2.0})
    assert mark != measurements.fingerprint_of(frame, {"aperture": 2.1})
    os.utime(frame, ns=(1, 1))
    assert mark != measurements.fingerprint_of(frame, {"aperture": 2.0})


@pytest.mark.parametrize("content", [b"", b"PAR1 half of a file", None])
def test_a_file_that_is_damaged_is_measured_again(tmp_path: Path, content: bytes | None) -> None:
    frame = tmp_path / "a.fits"
    frame.write_bytes(b"pixels")
    measurements.write(tmp_path, frame, "mark", "", {}, np.zeros(2, FIELDS))
    file = measurements.file_of(tmp_path, frame)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert not measurements.is_current(tmp_path, frame, "mark")

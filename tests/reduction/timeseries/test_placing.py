from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from reduction.timeseries.datasets import SMALL, files, make_dataset
from tololo.facility.errors import BadInputError
from tololo.reduction.timeseries.frames import Frame, read_frame
from tololo.reduction.timeseries.placing import place, shows


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> tuple[Frame, Table]:
    truth = make_dataset(tmp_path_factory.mktemp("placing"))
    return read_frame(files(truth.folder)[0]), truth.stars


def off_by(frame: Frame, dx: float, dy: float, turn: float = 0.0) -> Frame:
    """A frame whose WCS is wrong by some pixels and a small angle, degrees."""
    header = frame.header.copy()
    wcs = WCS(header)
    angle = np.radians(turn)
    matrix = wcs.pixel_scale_matrix @ [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for key in [key for key in header if key.startswith(("PC", "CD1_", "CD2_", "CDELT"))]:
        del header[key]
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
    header["CRPIX1"] += dx
    header["CRPIX2"] += dy
    return replace(frame, header=header)


def true_places(frame: Frame, stars: Table) -> np.ndarray:
    return np.column_stack(WCS(frame.header).all_world2pix(stars["ra"], stars["dec"], 0))


@pytest.mark.parametrize(("dx", "dy", "turn"), [(0.0, 0.0, 0.0), (12.0, -20.0, 0.0), (3.0, 4.0, 0.3)])
def test_a_wcs_that_is_off_is_mended(field: tuple[Frame, Table], dx: float, dy: float, turn: float) -> None:
    frame, stars = field
    before = frame.header.tostring()
    found = place(off_by(frame, dx, dy, turn), stars["ra"], stars["dec"], 10 ** (-0.4 * stars["mag"]))
    true = true_places(frame, stars)
    inside = ((true > 0) & (true < 320)).all(axis=1)
    wrong = np.hypot(found.x - true[:, 0], found.y - true[:, 1])[inside]
    assert np.median(wrong) < 0.12
    assert wrong.max() < 0.6
    assert found.n_matched > 30
    assert found.rms < 0.3
    if not turn:
        assert found.shift == pytest.approx(np.hypot(dx, dy), abs=0.2)
    assert frame.header.tostring() == before
    seen = found.source >= 0
    own = np.column_stack([frame.catalogue["x"], frame.catalogue["y"]])[found.source[seen]]
    assert np.abs(own - true[seen]).max() < 1.5
    ra, dec = found.sky(found.x[inside], found.y[inside])
    np.testing.assert_allclose(ra, stars["ra"][inside], atol=1e-7)
    np.testing.assert_allclose(dec, stars["dec"][inside], atol=1e-7)


def test_stars_far_away_and_on_the_other_side_of_the_sky_lie_nowhere(field: tuple[Frame, Table]) -> None:
    frame, stars = field
    ra = np.concatenate([stars["ra"], [stars["ra"][0] + 180.0, stars["ra"][0] + 3.0]])
    dec = np.concatenate([stars["dec"], [-stars["dec"][0], stars["dec"][0]]])
    found = place(frame, ra, dec)
    assert np.isnan(found.x[-2:]).all()
    assert np.isfinite(found.x[0])


def test_what_lies_on_a_frame(field: tuple[Frame, Table]) -> None:
    frame, stars = field
    ra, dec = float(stars["ra"][0]), float(stars["dec"][0])
    pixel = 0.389 / 3600
    assert shows(frame, ra, dec)
    assert shows(frame, ra, dec + 170 * pixel), "so near that the WCS may be wrong by it"
    assert not shows(frame, ra, dec + 250 * pixel)
    assert not shows(frame, ra + 90, dec)
    header = frame.header.copy()
    del header["CTYPE1"], header["CTYPE2"], header["CRVAL1"]
    assert not shows(replace(frame, header=header), ra, dec)


def test_another_field_few_stars_and_no_wcs(field: tuple[Frame, Table]) -> None:
    frame, stars = field
    ra, dec = np.asarray(stars["ra"]), np.asarray(stars["dec"])
    with pytest.raises(BadInputError, match="recognised"):
        place(frame, ra + 0.5, dec)
    rng = np.random.default_rng(2)
    with pytest.raises(BadInputError, match="recognised"):
        place(frame, rng.uniform(ra.min(), ra.max(), 60), rng.uniform(dec.min(), dec.max(), 60))
    few = replace(frame, catalogue=frame.catalogue[:3])
    with pytest.raises(BadInputError, match="recognised") as caught:
        place(few, ra, dec)
    assert caught.value.where == str(frame.path)
    header = frame.header.copy()
    del header["CTYPE1"], header["CTYPE2"]
    with pytest.raises(BadInputError, match="no usable WCS"):
        place(replace(frame, header=header), ra, dec)


def test_the_frame_is_not_written(tmp_path: Path) -> None:
    truth = make_dataset(tmp_path, replace(SMALL, n_frames=1, clouds={}))
    path = files(truth.folder)[0]
    path.chmod(0o444)
    before = path.stat()
    place(read_frame(path), truth.stars["ra"], truth.stars["dec"])
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)

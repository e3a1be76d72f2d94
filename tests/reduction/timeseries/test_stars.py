from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from reduction.timeseries.datasets import SMALL, edit, files, make_dataset
from tololo.facility.errors import BadInputError
from tololo.reduction.timeseries.frames import read_frame
from tololo.reduction.timeseries.stars import FILE, Stars, find_stars, read_reference, read_stars
from tololo.simulation.timeseries import SeriesTruth

PS1 = Table(
    {
        "RA": [10.0, 10.1, 10.2],
        "Dec": [1.0, 1.1, 1.2],
        "rmag": [17.0, 17.5, np.nan],
        "rmagerr": [0.01, 0.02, 0.01],
        "imag": [16.5, 17.2, 15.0],
        "imagerr": [0.01, np.nan, 0.01],
    }
)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> SeriesTruth:
    return make_dataset(tmp_path_factory.mktemp("stars"), replace(SMALL, n_frames=1, clouds={}))


@pytest.mark.parametrize("ending", ["csv", "ecsv", "fits", "parquet", "dat"])
def test_a_reference_catalogue_of_many_bands(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"stars.{ending}"
    PS1.write(path, format="ascii" if ending == "dat" else None)
    found = read_reference(path, "ip")
    np.testing.assert_allclose(found["magnitude"], [16.5, 17.2, 15.0])
    np.testing.assert_allclose(found["error"], [0.01, 0.02, 0.01], err_msg="0.02 where nothing says it")
    np.testing.assert_allclose(found["color"], [0.5, 0.3, np.nan])
    assert len(read_reference(path, "rp")) == 2, "only stars with a magnitude"


def test_what_is_wrong_with_a_reference_catalogue_is_said(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    PS1.write(path)
    with pytest.raises(BadInputError, match=r"no magnitudes for the filter w.*stars\.csv.*gp, ip"):
        read_reference(path, "w")
    path.write_text("ra,mag\n1,2\n")
    with pytest.raises(BadInputError, match="no column dec"):
        read_reference(path, "ip")
    path.write_text("ra,dec,mag\n17:30:00,-25:00:00,15\n")
    with pytest.raises(BadInputError, match=r"column ra.*holds no numbers"):
        read_reference(path, "ip")
    path.write_bytes(b"\x00\x01\x02")
    with pytest.raises(BadInputError):
        read_reference(path, "ip")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_reference(tmp_path / "nothing.fits", "ip")


def test_numbers_that_stand_for_unknown_ones_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "stars.txt"
    path.write_text("ra dec gmag gmagerr rmag\n1 1 -999 0.1 15\n1 2 16 -999 99.99\n1 3 17 0.01 16\n")
    found = read_reference(path, "gp")
    assert list(found["magnitude"]) == [16.0, 17.0]
    assert list(found["error"]) == [0.02, 0.01]
    np.testing.assert_allclose(found["color"], [np.nan, 1.0])


@pytest.mark.parametrize("name", ["stars", "stars.cat", "stars.fits"])
def test_a_reference_catalogue_of_unknown_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("ra,dec,mag\n1,2,3\n")
    with pytest.raises(BadInputError, match=r"cannot be read.*\.ecsv"):
        read_reference(tmp_path / name, "ip")


def test_the_stars_of_a_field(truth: SeriesTruth) -> None:
    frame = read_frame(files(truth.folder)[0])
    stars = find_stars(frame, 262.60625, -25.50847, read_reference(truth.reference, "ip"), "x")
    assert (stars.ra[0], stars.dec[0]) == (262.60625, -25.50847)
    assert stars.magnitude[0] == pytest.approx(15.254, abs=0.01), "the target's own row of the catalogue"
    assert (stars.filter, stars.reference_image, stars.origin) == ("ip", files(truth.folder)[0].stem, "x")
    places = np.round(np.column_stack([stars.ra, stars.dec]), 6)
    assert len(np.unique(places, axis=0)) == len(places), "none twice"
    known = np.isfinite(stars.magnitude)
    assert known.sum() > 50
    bright = known & np.isfinite(stars.flux)
    assert np.corrcoef(stars.magnitude[bright], -2.5 * np.log10(stars.flux[bright]))[0, 1] > 0.97


def test_sources_take_the_catalogues_astrometry(truth: SeriesTruth, tmp_path: Path) -> None:
    path = tmp_path / "moved.fits"
    path.write_bytes(files(truth.folder)[0].read_bytes())
    frame = read_frame(path)
    edit(path, CRPIX1=frame.header["CRPIX1"] + 9.0)
    half = read_reference(truth.reference, "ip")[::2]
    stars = find_stars(read_frame(path), 262.60625, -25.50847, half)
    own = ~np.isfinite(stars.magnitude)
    assert own.sum() > 10
    scale = np.cos(np.radians(25.5))
    for ra, dec in zip(stars.ra[own], stars.dec[own], strict=True):
        distance = np.hypot((truth.stars["ra"] - ra) * scale, truth.stars["dec"] - dec) * 3600
        assert distance.min() < 0.3, "not where the frame's own WCS has it, 3.5 arcsec away"


def test_without_a_catalogue_and_without_a_source_at_the_target(truth: SeriesTruth) -> None:
    frame = read_frame(files(truth.folder)[0])
    stars = find_stars(frame, 262.60625, -25.50347, None)
    assert len(stars.ra) == len(frame.catalogue) + 1
    assert np.isnan([stars.flux[0], stars.magnitude[0]]).all()
    assert np.isnan(stars.magnitude).all()


def test_without_a_catalogue_a_frame_needs_stars_and_a_wcs(truth: SeriesTruth) -> None:
    frame = read_frame(files(truth.folder)[0])
    none, half = frame.header.copy(), frame.header.copy()
    del none["CTYPE1"], none["CTYPE2"]
    half["CTYPE1"] = "DEC--TAN"
    for bad, says in (
        (replace(frame, catalogue=frame.catalogue[:5]), "5 stars"),
        (replace(frame, catalogue=frame.catalogue[:0]), "0 stars"),
        (replace(frame, header=none), "no usable WCS"),
        (replace(frame, header=half), "no usable WCS"),
    ):
        with pytest.raises(BadInputError, match=says) as caught:
            find_stars(bad, 262.60625, -25.50847, None)
        assert caught.value.where == str(frame.path)


def test_written_and_read_again(truth: SeriesTruth, tmp_path: Path) -> None:
    assert read_stars(tmp_path) is None
    frame = read_frame(files(truth.folder)[0])
    stars = find_stars(frame, 262.60625, -25.50847, read_reference(truth.reference, "ip"), "made of this")
    stars.write(tmp_path)
    again = read_stars(tmp_path)
    assert isinstance(again, Stars)
    for name in ("ra", "dec", "flux", "magnitude", "error", "color"):
        np.testing.assert_array_equal(getattr(again, name), getattr(stars, name), err_msg="to the bit")
    assert (again.origin, again.fingerprint) == ("made of this", stars.fingerprint)
    moved = replace(stars, ra=stars.ra + 1e-5)
    assert moved.fingerprint != stars.fingerprint
    (tmp_path / FILE).write_text("half of")
    assert read_stars(tmp_path) is None

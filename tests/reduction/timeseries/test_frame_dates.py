from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from real_data import REAL, needs
from tololo.facility.errors import BadInputError
from tololo.reduction.timeseries.frame_dates import frame_date


def written(path: Path, date: str | None, *, where: str = "SCI") -> Path:
    """A frame in the form of the observatory's: image behind a table, compressed in .fz."""
    cards = {"DATE-OBS": date} if date is not None else {}
    random = np.random.default_rng(1)
    image = random.normal(100, 5, (70, 90)).astype(np.float32)
    kind = fits.CompImageHDU if path.name.endswith(".fz") else fits.ImageHDU
    table = fits.BinTableHDU.from_columns(
        [fits.Column("x", "PE()", array=np.array([[1.0], [2.0, 3.0]], object))]
    )
    hdus = [fits.PrimaryHDU(), table, kind(image, name="SCI")]
    hdus[0 if where == "PRIMARY" else 2].header.update(cards)
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("name", ["a.fits", "a.fits.fz"])
@pytest.mark.parametrize("where", ["PRIMARY", "SCI"])
def test_the_date_stands_in_whichever_hdu(tmp_path: Path, name: str, where: str) -> None:
    path = written(tmp_path / name, "2024-05-02T01:02:03.456", where=where)
    assert frame_date(path) == datetime(2024, 5, 2, 1, 2, 3, 456000, UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-05-02T01:02:03", datetime(2024, 5, 2, 1, 2, 3, tzinfo=UTC)),
        ("2024-05-02T01:02:03.4567891", datetime(2024, 5, 2, 1, 2, 3, 456789, UTC)),
        ("2024-05-02", datetime(2024, 5, 2, tzinfo=UTC)),
        ("2024-05-02T01:02:03Z", datetime(2024, 5, 2, 1, 2, 3, tzinfo=UTC)),
    ],
)
def test_with_and_without_fraction(tmp_path: Path, text: str, time: datetime) -> None:
    assert frame_date(written(tmp_path / "a.fits", text)) == time


def test_what_has_no_date_is_named(tmp_path: Path) -> None:
    for name, date, says in (("none.fits", None, "no DATE-OBS"), ("odd.fits", "02/05/24", "is no time")):
        with pytest.raises(BadInputError, match=says) as caught:
            frame_date(written(tmp_path / name, date))
        assert caught.value.where == str(tmp_path / name)
    whole = (tmp_path / "none.fits").read_bytes()
    for name, content in (
        ("text.fits", b"no frame " * 1000),
        ("empty.fits", b""),
        ("cut.fits", whole[:1000]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInputError, match=r"no FITS file|no DATE-OBS"):
            frame_date(tmp_path / name)
    with pytest.raises(BadInputError, match="No such file"):
        frame_date(tmp_path / "away.fits")


@needs(REAL / "lco")
def test_real_frames_have_the_dates_that_astropy_reads() -> None:
    paths = sorted(path for path in (REAL / "lco").rglob("*") if path.name.endswith((".fits", ".fits.fz")))
    compared = 0
    for path in paths:
        with fits.open(path) as hdus:
            dates = [hdu.header["DATE-OBS"] for hdu in hdus if hdu.header.get("DATE-OBS")]
        if dates:
            assert frame_date(path) == datetime.fromisoformat(dates[0]).replace(tzinfo=UTC)
            compared += 1
    assert compared

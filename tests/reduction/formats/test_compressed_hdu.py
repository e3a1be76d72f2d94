"""Tables of compressed tiles, as other programs read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from lsst.images.fits import FitsCompressionOptions
from numpy.typing import NDArray

from tololo.reduction.formats.compressed_hdu import RiceOptions

STEP = 0.25


def options(width: int, step: float | None, rows: int = 32, **changes: Any) -> RiceOptions:
    steps = {"dither": "SUBTRACTIVE_DITHER_2", "level": -step, "seed": 77} if step else None
    return RiceOptions.model_validate(
        {"algorithm": "RICE_1", "tile_shape": (rows, width), "quantization": steps, **changes}
    )


def pixels() -> NDArray[np.float32]:
    """Return an image with stars, a row of zeros, unknown pixels, and a tile that steps do not suit."""
    random = np.random.default_rng(1)
    image = random.normal(20, 4, (150, 211)).astype(np.float32)
    image[70:75, 80:85] += 6e4
    image[100] = 0
    image[3, 5] = image[149, 210] = np.nan
    image[40, 40] = 1e30
    return image


def bits() -> NDArray[np.int32]:
    random = np.random.default_rng(2)
    return (random.integers(0, 1 << 13, (150, 211)) * (random.random((150, 211)) < 0.1)).astype(np.int32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits.fz"
    hdus = [
        options(211, STEP).make_hdu(pixels(), "IMAGE"),
        options(211, None).make_hdu(bits(), "MASK"),
        options(211, STEP).make_hdu(np.full((1, 211), 3.25, np.float32), "FLAT"),
    ]
    hdus[0].header["BUNIT"] = "nJy"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def check(image: NDArray[Any], mask: NDArray[Any], flat: NDArray[Any]) -> None:
    expected = pixels()
    np.testing.assert_array_equal(mask, bits())
    np.testing.assert_array_equal(np.isnan(image), np.isnan(expected))
    np.testing.assert_array_equal(image[100], 0)
    np.testing.assert_array_equal(image[32:64], expected[32:64])  # the tile of 1e30 is without loss
    good = np.isfinite(expected)
    assert (
        np.abs(image[good] - expected[good]).max() <= STEP * 0.5 + 0.005
    )  # float32 has steps of .004 at 6e4
    np.testing.assert_allclose(flat, 3.25, atol=STEP / 2)


def test_astropy_reads_it(file: Path) -> None:
    with fits.open(file) as hdus:
        hdus.verify("exception")
        assert [type(hdu) for hdu in hdus[1:]] == 3 * [fits.CompImageHDU]
        assert hdus["IMAGE"].header["BUNIT"] == "nJy"
        check(hdus["IMAGE"].data, hdus["MASK"].data, hdus["FLAT"].data)
        np.testing.assert_array_equal(hdus["MASK"].section[33:35, 7:9], bits()[33:35, 7:9])
    with fits.open(file, disable_image_compression=True) as hdus:
        assert hdus["IMAGE"].header["ZBLANK"] == -2147483648
        assert "ZBLANK" not in hdus["FLAT"].header


def test_funpack_reads_it(file: Path) -> None:
    if (funpack := shutil.which("funpack")) is None:
        pytest.skip("funpack is not there (Debian: libcfitsio-bin)")
    unpacked = file.with_name("image.fits")
    subprocess.run([funpack, "-O", str(unpacked), str(file)], check=True, capture_output=True)
    with fits.open(unpacked) as hdus:
        assert [type(hdu) for hdu in hdus[1:]] == 3 * [fits.ImageHDU]
        check(hdus["IMAGE"].data, hdus["MASK"].data, hdus["FLAT"].data)


def test_bytes_of_another_order_and_slices_are_the_same() -> None:
    image = np.pad(pixels(), 1)[1:-1, 1:-1]
    assert not image.flags.c_contiguous
    expected = options(211, STEP).make_hdu(pixels(), "IMAGE").data
    for given in (image, pixels().astype(">f4")):
        found = options(211, STEP).make_hdu(given, "IMAGE").data
        np.testing.assert_array_equal(found["COMPRESSED_DATA"][0], expected["COMPRESSED_DATA"][0])


@pytest.mark.parametrize(
    ("data", "chosen"),
    [
        (np.zeros((5, 8), np.float64), options(8, STEP)),
        (np.zeros((5, 8), np.int16), options(8, None)),
        (np.zeros((2, 5, 8), np.float32), options(8, STEP, tile_shape=(1, 5, 8))),
        (np.zeros((5, 8), np.float32), options(4, STEP)),
        (np.zeros((5, 8), np.float32), options(8, None, algorithm="GZIP_2")),
    ],
)
def test_what_does_not_suit_is_left_to_lsst(data: NDArray[Any], chosen: FitsCompressionOptions) -> None:
    hdu = chosen.make_hdu(data, "X")
    assert isinstance(hdu, fits.CompImageHDU)
    assert hdu.compression_type == chosen.algorithm

"""An image as the table of compressed tiles that the FITS standard describes, from our own coder."""

from __future__ import annotations

import gzip
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from lsst.images.fits import FitsCompressionAlgorithm, FitsCompressionOptions, FitsDitherAlgorithm
from numpy.typing import NDArray

from tololo.reduction.formats.fits_layout import BLOCK
from tololo.reduction.kernels.rice import BLANK, PIXELS_PER_BLOCK, Tiles, encode_floats, encode_integers

_FLOAT, _INTEGER = np.dtype(np.float32), np.dtype(np.int32)


class RiceOptions(FitsCompressionOptions, frozen=True):
    """Options whose HDU `tololo.reduction.kernels.rice` codes, many times as fast as astropy does.

    That is for images of float32 in absolute steps (a negative level) with ``SUBTRACTIVE_DITHER_2``, and for
    int32 without steps, in tiles of whole rows. Anything else is left to LSST's code.
    """

    def make_hdu(self, data: NDArray[Any], name: str) -> fits.CompImageHDU | fits.BinTableHDU:
        """Return the HDU of an image."""
        if not self._suits(data):
            return super().make_hdu(data, name)
        pixels = np.ascontiguousarray(data, data.dtype.newbyteorder("="))
        rows = pixels.shape[0] if self.tile_shape is None else min(self.tile_shape[0], pixels.shape[0])
        if self.quantization is None:
            return _hdu(name, pixels, rows, encode_integers(pixels, rows))
        step, seed = -self.quantization.level, self.quantization.seed or 1
        return _hdu(name, pixels, rows, encode_floats(pixels, rows, step, seed), step, seed)

    def _suits(self, data: NDArray[Any]) -> bool:
        if data.ndim != 2 or data.size == 0 or self.algorithm != FitsCompressionAlgorithm.RICE_1:
            return False
        if self.tile_shape is not None and (len(self.tile_shape), self.tile_shape[-1]) != (2, data.shape[1]):
            return False
        steps = self.quantization
        if steps is None:
            return data.dtype.newbyteorder("=") == _INTEGER
        dithered = steps.dither == FitsDitherAlgorithm.SUBTRACTIVE_DITHER_2
        return dithered and steps.level < 0 and data.dtype.newbyteorder("=") == _FLOAT


def _hdu(
    name: str, pixels: NDArray[Any], rows: int, tiles: Tiles, step: float = 0.0, seed: int = 0
) -> fits.BinTableHDU:
    """Return the table, which is written as it stands: astropy neither decodes nor checks its columns."""
    columns, heap, cards = [_pointers("COMPRESSED_DATA", tiles.sizes, tiles.offsets)], [tiles.heap.data], []
    if step:
        kept = _uncoded(pixels, rows, tiles)
        sizes = np.array([len(part) for part in kept])
        offsets = np.where(sizes > 0, tiles.heap.size + np.cumsum(sizes) - sizes, 0)
        columns += [
            _pointers("GZIP_COMPRESSED_DATA", sizes, offsets),
            _Column("ZSCALE", "1D", np.where(tiles.sizes > 0, step, 0.0).astype(">f8")),
            _Column("ZZERO", "1D", tiles.zeros.astype(">f8")),
        ]
        heap += [memoryview(part) for part in kept]
        cards += [("ZQUANTIZ", "SUBTRACTIVE_DITHER_2"), ("ZDITHER0", seed)]
    if tiles.blank:
        cards += [("ZBLANK", BLANK)]
    bytes_of = [column.values.view(np.uint8).reshape(tiles.sizes.size, -1) for column in columns]
    content = b"".join([np.hstack(bytes_of).data, *heap])
    width = sum(part.shape[1] for part in bytes_of)
    header = fits.Header(
        [
            ("XTENSION", "BINTABLE", "binary table extension"),
            ("BITPIX", 8),
            ("NAXIS", 2),
            ("NAXIS1", width, "width of the table in bytes"),
            ("NAXIS2", tiles.sizes.size, "number of tiles"),
            ("PCOUNT", len(content) - width * tiles.sizes.size, "size of the heap in bytes"),
            ("GCOUNT", 1),
            ("TFIELDS", len(columns)),
            *(card for number, column in enumerate(columns, start=1) for card in column.cards(number)),
            ("ZIMAGE", True, "a compressed image"),
            ("ZTENSION", "IMAGE"),
            ("ZBITPIX", -32 if step else 32, "type of its pixels"),
            ("ZNAXIS", 2),
            ("ZNAXIS1", pixels.shape[1]),
            ("ZNAXIS2", pixels.shape[0]),
            ("ZPCOUNT", 0),
            ("ZGCOUNT", 1),
            ("ZTILE1", pixels.shape[1], "width of a tile"),
            ("ZTILE2", rows, "height of a tile"),
            ("ZCMPTYPE", "RICE_1"),
            ("ZNAME1", "BLOCKSIZE"),
            ("ZVAL1", PIXELS_PER_BLOCK, "pixels per block"),
            ("ZNAME2", "BYTEPIX"),
            ("ZVAL2", 4, "bytes per pixel"),
            *cards,
            # Behind the others: funpack keeps their order, and a header begins with what ZTENSION becomes.
            ("EXTNAME", name),
        ]
    )
    return fits.BinTableHDU.fromstring(
        b"".join([header.tostring().encode("ascii"), content, bytes(-len(content) % BLOCK)])
    )


class _Column(NamedTuple):
    name: str
    form: str
    values: NDArray[Any]

    def cards(self, number: int) -> list[tuple[str, str]]:
        return [(f"TTYPE{number}", self.name), (f"TFORM{number}", self.form)]


def _pointers(name: str, sizes: NDArray[np.int64], offsets: NDArray[np.int64]) -> _Column:
    """Return a column of lengths and offsets in the heap."""
    return _Column(name, f"1PB({int(sizes.max())})", np.column_stack([sizes, offsets]).astype(">i4"))


def _uncoded(pixels: NDArray[np.float32], rows: int, tiles: Tiles) -> list[bytes]:
    """Return for each tile that has no code its pixels without loss, and nothing for the others."""
    return [
        b"" if size else gzip.compress(pixels[i * rows : (i + 1) * rows].astype(">f4").tobytes(), mtime=0)
        for i, size in enumerate(tiles.sizes)
    ]

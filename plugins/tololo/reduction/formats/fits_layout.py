"""Where the HDUs of a FITS file lie, by its headers alone: finds a file cut short without decoding any."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from astropy.io import fits

from tololo.facility.errors import BadInputError

BLOCK = 2880
_FETCH_AGAIN = "fetch the file again (a transfer that stopped leaves such a file)"


@dataclass(frozen=True)
class HduLayout:
    """One HDU of a file.

    Attributes
    ----------
    index : `int`
        Position in the file, 0 for the primary.
    header : `astropy.io.fits.Header`
        Its header as it stands in the file (that of the binary table, where the image is compressed).
    begin, end : `int`
        Offsets of its header and of the end of its data, bytes.
    complete : `bool`
        Whether the file is that long.
    """

    index: int
    header: fits.Header
    begin: int
    end: int
    complete: bool

    @property
    def is_compressed_image(self) -> bool:
        """Whether it is a binary table that holds a tile-compressed image."""
        return bool(self.header.get("ZIMAGE", False))

    @property
    def is_image(self) -> bool:
        """Whether it holds a two-dimensional image, compressed or not."""
        return self.shape is not None

    @property
    def shape(self) -> tuple[int, int] | None:
        """Shape (ny, nx) of the image, or `None` where there is no two-dimensional one."""
        prefix = "ZNAXIS" if self.is_compressed_image else "NAXIS"
        kind = str(self.header.get("XTENSION", "IMAGE")).strip()
        if (kind != "IMAGE" and not self.is_compressed_image) or self.header.get(prefix) != 2:
            return None
        return int(self.header[f"{prefix}2"]), int(self.header[f"{prefix}1"])

    @property
    def is_integer(self) -> bool:
        """Whether the pixels are integers."""
        return int(self.header["ZBITPIX" if self.is_compressed_image else "BITPIX"]) > 0

    def describe(self) -> str:
        """Say in a word or two what it is, for a message."""
        if self.is_image:
            return "image"
        return f"{str(self.header.get('XTENSION', 'empty')).strip()} {self.header.get('EXTNAME', '')}".strip()


def is_fits(path: Path) -> bool:
    """Tell whether a file begins as FITS files do."""
    with path.open("rb") as file:
        return file.read(9) == b"SIMPLE  ="


def scan_layout(path: Path) -> list[HduLayout]:
    """List the HDUs of a FITS file.

    Parameters
    ----------
    path : `pathlib.Path`
        An uncompressed or tile-compressed (``.fz``) file; gzip is not undone.

    Returns
    -------
    layout : `list` [`HduLayout`]
        At least the primary HDU. The last one is incomplete where the file is shorter than its headers say.

    Raises
    ------
    BadInputError
        If the file ends inside a header, or a header does not say how long its data are.
    """
    return list(iterate_layout(path))


def iterate_layout(path: Path) -> Iterator[HduLayout]:
    """Yield what `scan_layout` lists, reading no further than asked for."""
    size = os.path.getsize(path)
    index = offset = 0
    with path.open("rb") as file:
        while offset < size and (index == 0 or _begins_extension(file, offset)):
            file.seek(offset)
            header = _read_header(file, path, index)
            end = file.tell() + _data_bytes(header, path, index)
            yield HduLayout(index, header, offset, end, end <= size)
            index += 1
            offset = math.ceil(end / BLOCK) * BLOCK


def read_hdu(path: Path, primary: HduLayout, hdu: HduLayout) -> fits.HDUList:
    """Read one HDU, whatever stands before it in the file.

    Parameters
    ----------
    path : `pathlib.Path`
    primary, hdu : `HduLayout`
        Of this file.

    Returns
    -------
    hdus : `astropy.io.fits.HDUList`
        In memory: the primary HDU and, unless that is the one asked for, the HDU after it.
    """
    parts = [primary] if hdu.index == 0 else [primary, hdu]
    content = bytearray()
    with path.open("rb") as file:
        for part in parts:
            file.seek(part.begin)
            content += file.read(part.end - part.begin)
            content += bytes(-len(content) % BLOCK)
    return fits.open(BytesIO(content))


def truncation(path: Path, last: HduLayout) -> BadInputError | None:
    """Return the error of a file that ends before this HDU does, or `None`."""
    if last.complete:
        return None
    return BadInputError(
        f"The FITS file is cut short: it has {os.path.getsize(path)} bytes, its headers ask for {last.end}",
        f"{path}, HDU {last.index} ({last.header.get('EXTNAME', 'unnamed')})",
        _FETCH_AGAIN,
    )


def _begins_extension(file: BinaryIO, offset: int) -> bool:
    """Anything else after the last HDU is padding or a special record, which FITS readers skip."""
    file.seek(offset)
    start = file.read(8)
    return bool(start.strip(b"\0 ")) and b"XTENSION".startswith(start)


def _read_header(file: BinaryIO, path: Path, index: int) -> fits.Header:
    try:
        return fits.Header.fromfile(file)
    except (OSError, EOFError, ValueError) as error:
        raise BadInputError(
            f"The FITS file is cut short or damaged inside a header ({error})",
            f"{path}, HDU {index}",
            _FETCH_AGAIN,
        ) from error


def _data_bytes(header: fits.Header, path: Path, index: int) -> int:
    try:
        axes = [int(header[f"NAXIS{axis + 1}"]) for axis in range(int(header["NAXIS"]))]
        elements = math.prod(axes) if axes else 0
        return (
            abs(int(header["BITPIX"]))
            // 8
            * int(header.get("GCOUNT", 1))
            * (int(header.get("PCOUNT", 0)) + elements)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(
            f"The header does not say how long its data are ({error})", f"{path}, HDU {index}", _FETCH_AGAIN
        ) from error

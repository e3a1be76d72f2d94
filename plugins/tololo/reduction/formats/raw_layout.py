"""Where the CCDs of a raw file lie: the HDUs by the few cards that tell, parsed no further than needed.

`~tololo.reduction.formats.fits_layout` does the same with astropy's headers, which costs a millisecond for
each of seventy HDUs; here all of them take two.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from astropy.io import fits

from tololo.facility.errors import BadInputError

type Cards = dict[str, str | int | float | bool]

BLOCK = 2880
CARD = 80
_CHUNK = 5 * BLOCK
"""Bytes of a header that are read at once: those of a CCD take four blocks."""

_MAX_HEADER = 400 * BLOCK
_STRUCTURE = tuple(
    f"{key:<8}".encode() for key in ("BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT")
)
_KNOWN = frozenset(
    (
        *_STRUCTURE,
        *(
            f"{key:<8}".encode()
            for key in ("CCDNUM", "DETPOS", "EXPNUM", "INSTRUME", "OBSTYPE", "PROCTYPE", "ZIMAGE", "XTENSION")
        ),
    )
)
_EMPTY = b"".join(
    f"{key:<8}= {value:>20}".encode().ljust(CARD)
    for key, value in (("SIMPLE", "T"), ("BITPIX", "8"), ("NAXIS", "0"), ("EXTEND", "T"))
)
_EMPTY = (_EMPTY + b"END").ljust(BLOCK)
_IS_STRUCTURE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|[PG]COUNT|N?EXTEND|TFIELDS|T(TYPE|FORM)\d|B(ZERO|SCALE)|Z?(CHECKSUM|DATASUM)"
    r"|Z(IMAGE|TENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TILE\d|CMPTYPE|NAME\d|VAL\d|QUANTIZ|DITHER0|HECKSUM|SIMPLE)"
    r"|COMMENT|HISTORY|"
)
_FETCH_AGAIN = "fetch the file again (a transfer that stopped leaves such a file)"
_INTEGER = re.compile(r"[+-]?\d+")
_PLAIN = re.compile(
    r" *(?:'((?:[^']|'')*)'|([TF])|([+-]?\d+)|([+-]?(?:\d+\.\d*|\.\d+|\d+(?=E))(?:E[+-]?\d+)?)) *(?:/.*)?"
)


@dataclass(frozen=True)
class RawHdu:
    """One HDU of a file.

    Attributes
    ----------
    index : `int`
        Position in the file, 0 for the primary.
    begin, end : `int`
        Offsets of its header and of the end of its data, bytes.
    text : `bytes`
        Its header as it stands, whole blocks.
    cards : `dict` [`str`, `str`]
        The cards that tell what it is: structure, CCDNUM, DETPOS, EXPNUM, INSTRUME, OBSTYPE, PROCTYPE.
    """

    index: int
    begin: int
    end: int
    text: bytes
    cards: dict[str, str]

    @property
    def ccdnum(self) -> int | None:
        """CCDNUM, or `None` where there is none."""
        return self.integer("CCDNUM")

    def integer(self, card: str) -> int | None:
        """Return a card as an integer, or `None` where it is none."""
        value = self.cards.get(card, "")
        return int(value) if _INTEGER.fullmatch(value) else None

    def values(self) -> Cards:
        """Parse the header: all cards that have a value, but not those that describe the file's structure."""
        if b"CONTINUE" in self.text:
            pairs = fits.Header.fromstring(self.text).items()
        else:
            pairs = map(_card, (self.text[at : at + CARD] for at in range(0, len(self.text), CARD)))
        return {
            key: value
            for key, value in pairs
            if isinstance(value, str | int | float | bool) and not _IS_STRUCTURE.fullmatch(key)
        }

    def alone(self, path: Path) -> BytesIO:
        """Return a file in memory with an empty primary HDU and this extension."""
        content = bytearray(_EMPTY)
        with path.open("rb") as file:
            file.seek(self.begin)
            content += file.read(self.end - self.begin)
        content += bytes(-len(content) % BLOCK)
        return BytesIO(content)


def iterate_hdus(path: Path) -> Iterator[RawHdu]:
    """Yield the HDUs of a FITS file, reading no further than asked for.

    Parameters
    ----------
    path : `pathlib.Path`

    Raises
    ------
    BadInputError
        If it is no FITS file, or it ends before an HDU does.
    """
    size = os.path.getsize(path)
    index = offset = 0
    with path.open("rb", buffering=0) as file:
        while offset < size:
            hdu = _hdu(file, path, index, offset)
            if hdu is None:
                return  # anything else after the last HDU is padding, which FITS readers skip
            if hdu.end > size:
                raise BadInputError(
                    f"The FITS file is cut short: it has {size} bytes, its headers ask for {hdu.end}",
                    f"{path}, HDU {index} ({hdu.cards.get('DETPOS', 'primary')})",
                    _FETCH_AGAIN,
                )
            yield hdu
            index += 1
            offset = math.ceil(hdu.end / BLOCK) * BLOCK
    if index == 0:
        raise BadInputError("The file is empty", str(path), _FETCH_AGAIN)


def hdu_of(path: Path, detector: int) -> tuple[RawHdu, RawHdu]:
    """Return the primary HDU and that of a detector.

    Raises
    ------
    BadInputError
        If the file is damaged before its end, or has no such detector.
    """
    hdus = iterate_hdus(path)
    primary = next(hdus)
    for hdu in hdus:
        if hdu.ccdnum == detector:
            return primary, hdu
    raise BadInputError(
        f"The file has no detector {detector}", f"{path}, card CCDNUM", "give a CCDNUM that it has"
    )


def _hdu(file: BinaryIO, path: Path, index: int, offset: int) -> RawHdu | None:
    file.seek(offset)
    text, scanned, cards = b"", 0, dict[str, str]()
    while True:
        chunk = file.read(_CHUNK)
        if not text:
            start = chunk[:8]
            if index == 0 and not start.startswith(b"SIMPLE"):
                raise BadInputError("The file is not FITS", str(path), "take it out of the folder")
            if index > 0 and not (start.strip(b"\0 ") and b"XTENSION".startswith(start)):
                return None
        text += chunk
        while scanned + CARD <= len(text):
            key = text[scanned : scanned + 8]
            scanned += CARD
            if key in _KNOWN:
                cards[key.decode().strip()] = _value(text[scanned - CARD + 10 : scanned])
            elif key == b"END     ":
                used = math.ceil(scanned / BLOCK) * BLOCK
                end = offset + used + _data_bytes(cards, path, index)
                return RawHdu(index, offset, end, text[:used], cards)
        if not chunk or len(text) > _MAX_HEADER:
            raise BadInputError(
                "The FITS file is cut short or damaged inside a header", f"{path}, HDU {index}", _FETCH_AGAIN
            )


def _card(card: bytes) -> tuple[str, Any]:
    """Return keyword and value of a card; astropy, which takes 30 us, is asked where it is not plain."""
    key = card[:8].decode("latin-1").rstrip()
    if card[8:10] != b"= ":
        if key != "HIERARCH":
            return "", None
    elif plain := _PLAIN.fullmatch(card[10:].decode("latin-1")):
        text, logical, integer, real = plain.groups()
        if text is not None:
            return key, text.rstrip().replace("''", "'")
        if logical:
            return key, logical == "T"
        return key, int(integer) if integer else float(real)
    parsed = fits.Card.fromstring(card)
    try:
        return parsed.keyword, parsed.value
    except (ValueError, fits.VerifyError):
        return "", None


def _value(field: bytes) -> str:
    text = field.decode("latin-1").strip()
    if text.startswith("'"):
        return text[1:].split("'")[0].strip()
    return text.split("/")[0].strip()


def _data_bytes(cards: dict[str, str], path: Path, index: int) -> int:
    try:
        axes = [int(cards[f"NAXIS{axis + 1}"]) for axis in range(int(cards["NAXIS"]))]
        elements = math.prod(axes) if axes else 0
        heap, groups = int(cards.get("PCOUNT", 0)), int(cards.get("GCOUNT", 1))
        size = abs(int(cards["BITPIX"])) // 8 * groups * (heap + elements)
    except (KeyError, ValueError) as error:
        raise BadInputError(
            f"The header does not say how long its data are ({error})", f"{path}, HDU {index}", _FETCH_AGAIN
        ) from error
    return size

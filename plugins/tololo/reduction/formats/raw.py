"""Raw detectors of DECam: pixels as they were read out, and what the header says about them.

A raw is one multi-extension file with a primary HDU and one tile-compressed HDU per CCD. A CCD has two
amplifiers, A and B, side by side; each brings its overscan at the outer edge, and 50 rows of postscan. On the
southern half of the focal plane A is on the right and the postscan below; on the northern half A is on the
left and the postscan above. What holds for a file is what its section cards say.

The WCS cards (TPV) count pixels of the assembled CCD, not of the raw array: CRPIX2 is the same for S and N
CCDs of one row although the data of the southern ones begin 50 rows higher (LTV1 and LTV2 say by how much).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.instcal_cards import ARCHIVE, wcs_cards
from tololo.reduction.formats.raw_layout import Cards, hdu_of

if TYPE_CHECKING:
    from lsst.images import Image

type Section = tuple[slice, slice]

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")


@dataclass(frozen=True)
class RawAmplifier:
    """One amplifier of a CCD; sections are (y, x) slices.

    Attributes
    ----------
    name : `str`
        ``A`` or ``B``.
    data, overscan : `tuple` [`slice`, `slice`]
        Light-sensitive pixels, and the serial overscan of the same rows, in the raw array.
    target : `tuple` [`slice`, `slice`]
        Where the data go on the assembled CCD.
    gain : `float`
        e-/ADU.
    read_noise : `float`
        e-.
    saturation : `float`
        ADU, overscan included.
    """

    name: str
    data: Section
    overscan: Section
    target: Section
    gain: float
    read_noise: float
    saturation: float


@dataclass(frozen=True)
class RawDetector:
    """One CCD of an exposure.

    Attributes
    ----------
    exposure : `int`
        EXPNUM.
    detector : `int`
        CCDNUM.
    name : `str`
        DETPOS, such as ``N4``.
    pixels : `numpy.ndarray`, (4146, 2160) for a whole CCD, uint16
        ADU.
    amplifiers : `tuple` [`RawAmplifier`, `RawAmplifier`]
        A and B; their targets cover the assembled CCD.
    header : `astropy.io.fits.Header`
        Cards of the primary header and of the CCD's, which go before.
    """

    exposure: int
    detector: int
    name: str
    pixels: NDArray[np.uint16]
    amplifiers: tuple[RawAmplifier, RawAmplifier]
    header: fits.Header

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the assembled CCD: (4096, 2048) for a whole one."""
        rows, columns = zip(*(amplifier.target for amplifier in self.amplifiers), strict=True)
        return max(part.stop for part in rows), max(part.stop for part in columns)

    @cached_property
    def wcs(self) -> WCS:
        """Pixel (zero-based) of the assembled CCD to ICRS, as the telescope believed it: good to arcseconds.

        Raises
        ------
        BadInputError
            If the header has no usable WCS, as that of a bias may have none.
        """
        where = f"exposure {self.exposure}, detector {self.detector}"
        return WCS(fits.Header(wcs_cards(dict(self.header), where)))


def raw_detector(image: Image, where: str) -> RawDetector:
    """Make the detector from the image that the Butler gives for a ``raw``.

    Parameters
    ----------
    image : `lsst.images.Image`
        As `~tololo.reduction.formats.raw_formatter.RawFormatter` reads it.
    where : `str`
        Where it comes from, for messages.

    Returns
    -------
    raw : `RawDetector`

    Raises
    ------
    BadInputError
        If cards are missing or the sections do not fit the pixels.
    """
    cards = {
        key: value for key, value in image.metadata.items() if isinstance(value, str | int | float | bool)
    }
    return from_pixels(image.array, cards, where)


def read_raw(path: Path, detector: int) -> RawDetector:
    """Read one detector of a raw file.

    Parameters
    ----------
    path : `pathlib.Path`
        Multi-extension file, tile-compressed or not.
    detector : `int`
        CCDNUM.

    Returns
    -------
    raw : `RawDetector`

    Raises
    ------
    BadInputError
        If the file is damaged or lacks the detector, cards are missing or the sections do not fit the pixels.
    """
    pixels, cards = read_pixels(path, detector)
    return from_pixels(pixels, cards, f"{path}, CCDNUM {detector}")


def read_pixels(path: Path, detector: int) -> tuple[NDArray[Any], Cards]:
    """Read the pixels of a detector (in native byte order) and its cards, with those of the file behind them.

    See `read_raw`.
    """
    primary, hdu = hdu_of(path, detector)
    try:
        with fits.open(hdu.alone(path)) as hdus:
            data = hdus[-1].data
    except MemoryError:
        raise
    except Exception as error:  # the decoder's own kind derives from nothing else
        raise BadInputError(
            f"The pixels cannot be read: {error}", f"{path}, HDU {hdu.index}", "fetch the file again"
        ) from error
    return data.astype(data.dtype.newbyteorder("="), copy=False), primary.values() | hdu.values()


def from_pixels(pixels: NDArray[Any], cards: Cards, where: str) -> RawDetector:
    """Make the detector of raw pixels and their cards; see `raw_detector`."""
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise BadInputError(
            f"The pixels are no raw: {pixels.dtype} of shape {pixels.shape}", where, "raws hold 16-bit counts"
        )
    trim = _section(cards, "TRIMSEC", where)
    a, b = (_amplifier(cards, name, trim, where) for name in "AB")
    raw = RawDetector(
        exposure=int(_number(cards, "EXPNUM", where)),
        detector=int(_number(cards, "CCDNUM", where)),
        name=str(cards.get("DETPOS", "")).strip(),
        pixels=pixels,
        amplifiers=(a, b),
        header=fits.Header(
            fits.Card(key if len(key) <= 8 else f"HIERARCH {key}", value) for key, value in cards.items()
        ),
    )
    _check(raw, trim, where)
    return raw


def _amplifier(cards: Cards, name: str, trim: Section, where: str) -> RawAmplifier:
    data = _section(cards, f"DATASEC{name}", where)
    y, x = (
        slice(part.start - origin.start, part.stop - origin.start)
        for part, origin in zip(data, trim, strict=True)
    )
    return RawAmplifier(
        name=name,
        data=data,
        overscan=_section(cards, f"BIASSEC{name}", where),
        target=(y, x),
        gain=_number(cards, f"GAIN{name}", where),
        read_noise=_number(cards, f"RDNOISE{name}", where),
        saturation=_number(cards, f"SATURAT{name}", where),
    )


def _section(cards: Cards, card: str, where: str) -> Section:
    text = str(cards.get(card, "")).strip()
    match = _SECTION.fullmatch(text)
    x0, x1, y0, y1 = map(int, match.groups()) if match else (0, 0, 0, 0)
    if not (1 <= x0 <= x1 and 1 <= y0 <= y1):
        raise BadInputError(
            f"{card} is {repr(text) if text else 'missing'}; it has to be a section as '[57:2104,51:4146]'",
            where,
            ARCHIVE,
        )
    return slice(y0 - 1, y1), slice(x0 - 1, x1)


def _number(cards: Cards, card: str, where: str) -> float:
    value = cards.get(card)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
        raise BadInputError(
            f"{card} is {'missing' if value is None else repr(value)}; it has to be a positive number",
            where,
            ARCHIVE,
        )
    return value


def _check(raw: RawDetector, trim: Section, where: str) -> None:
    """See that the sections lie in the array and the targets tile the CCD."""
    ny, nx = raw.pixels.shape
    sections = {f"DATASEC{a.name}": a.data for a in raw.amplifiers}
    sections |= {f"BIASSEC{a.name}": a.overscan for a in raw.amplifiers}
    outside = [name for name, (y, x) in sections.items() if y.stop > ny or x.stop > nx]
    if outside:
        raise BadInputError(
            f"The sections do not fit the pixels: {', '.join(outside)} reach beyond {nx} x {ny}",
            where,
            "use whole CCDs; a cutout cannot be reduced",
        )
    size = (trim[0].stop - trim[0].start, trim[1].stop - trim[1].start)
    covered = np.zeros(size[1], int)
    for amplifier in raw.amplifiers:
        y, x = amplifier.target
        whole = y == slice(0, size[0]) and x.start >= 0 and x.stop <= size[1]
        if not whole or amplifier.overscan[0] != amplifier.data[0]:
            raise BadInputError(
                f"The sections do not fit one another: DATASEC{amplifier.name}, "
                f"BIASSEC{amplifier.name} and TRIMSEC have different rows, or columns outside TRIMSEC",
                where,
                ARCHIVE,
            )
        covered[x] += 1
    if (covered != 1).any():
        raise BadInputError(
            "The sections do not fit one another: DATASECA and DATASECB do not make up TRIMSEC",
            where,
            ARCHIVE,
        )

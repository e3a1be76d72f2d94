"""What one file contributes to InstCal triples: its planes, or why it has none, or what is wrong with it.

What a plane is: PRODTYPE of the primary header says ``wtmap`` or ``dqmask`` in files as the archive gives
them. Cut-outs copy the image's primary header into all three, so beyond that a map of integers is the mask,
and of two maps of real numbers the weight is the one without negative values whose median is below one (an
inverse variance in ADU^-2 cannot be more: the read noise alone is 1.5 ADU). Only where no pixel can tell (a
file without one usable pixel, or cut short) the name decides.
"""

from __future__ import annotations

import gzip
import os
import re
import warnings
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.dqmask import plver_key
from tololo.reduction.formats.fits_layout import HduLayout, is_fits, scan_layout, truncation
from tololo.reduction.formats.instcal import HduPlace, ccdnum_of
from tololo.reduction.formats.instcal_cards import ARCHIVE

_NAME = re.compile(r"_oo([iwd])_")
_GZIP_PEEK = 40 * 2880


class Plane(StrEnum):
    """What a file of a triple holds."""

    IMAGE = "image"
    WEIGHT = "weight"
    MASK = "mask"

    @property
    def code(self) -> str:
        """What the archive's file names call it."""
        return {"image": "ooi", "weight": "oow", "mask": "ood"}[self.value]


_PRODTYPES = {"image": Plane.IMAGE, "wtmap": Plane.WEIGHT, "dqmask": Plane.MASK}
_LETTERS = {plane.code[2]: plane for plane in Plane}


@dataclass(frozen=True)
class Member:
    """One plane of one detector as found in a file.

    Attributes
    ----------
    plane : `Plane`
    place : `HduPlace`
    expnum : `int`
    ccdnum : `int` or `None`
        `None` where the card is missing.
    name : `str`
        DETPOS, or EXTNAME.
    shape : `tuple` [`int`, `int`]
        (ny, nx).
    primary, header : `astropy.io.fits.Header`
        Of the file, and of the HDU.
    problem : `BadInputError` or `None`
        The file is cut short.
    """

    plane: Plane
    place: HduPlace
    expnum: int
    ccdnum: int | None
    name: str
    shape: tuple[int, int]
    primary: fits.Header
    header: fits.Header
    problem: BadInputError | None

    @property
    def plver(self) -> str:
        """Version of the pipeline."""
        return self.text("PLVER")

    @property
    def reduction(self) -> tuple[tuple[int, int, int, int, str], str]:
        """Key of the reduction it belongs to; the newer is the greater."""
        return plver_key(self.plver), self.text("PLPROCID")

    def card(self, keyword: str) -> Any:
        """Value of a card of the HDU, else of the primary header, else `None`."""
        return self.header.get(keyword, self.primary.get(keyword))

    def text(self, keyword: str) -> str:
        """Value of a card as text; empty where it is missing."""
        value = self.card(keyword)
        return "" if value is None else str(value).strip()


@dataclass(frozen=True)
class FileReport:
    """What was found in a file.

    Attributes
    ----------
    members : `tuple` [`Member`, ...]
    ignored : `str`
        Why the file is no part of a triple; empty where it is.
    problem : `BadInputError` or `None`
        Why its place in a triple cannot be told; what is wrong with a member stands there.
    damaged : `int`, `str` or `None`
        The exposure, or the `stem` of the name, of which planes may be in the part that is lost.
    """

    members: tuple[Member, ...] = ()
    ignored: str = ""
    problem: BadInputError | None = None
    damaged: int | str | None = None


def inspect(path: Path) -> FileReport:
    """Look into a file; any file will do.

    Parameters
    ----------
    path : `pathlib.Path`
        An existing regular file.

    Returns
    -------
    report : `FileReport`
    """
    try:
        if reason := _foreign(path):
            return FileReport(ignored=reason)
        layout = scan_layout(path)
    except (BadInputError, OSError) as error:
        problem = (
            error
            if isinstance(error, BadInputError)
            else BadInputError(f"The file cannot be read: {error}", str(path), "give the right to read it")
        )
        return FileReport(problem=problem, damaged=stem(path))
    if reason := _not_instcal(layout):
        return FileReport(ignored=reason)
    primary = layout[0].header
    expnum = _expnum(primary)
    if expnum is None:
        problem = BadInputError("The exposure number is missing", f"{path}, HDU 0, card EXPNUM", ARCHIVE)
        return FileReport(problem=problem, damaged=stem(path))
    cut = truncation(path, layout[-1])
    images = [hdu for hdu in layout if hdu.shape is not None]
    if not images:
        remedy = "fetch the file again, or remove it"
        return FileReport(
            problem=cut or BadInputError("The InstCal file has no image", str(path), remedy), damaged=expnum
        )
    plane = _plane(path, primary, images)
    return FileReport(
        damaged=expnum if cut else None,
        members=tuple(
            Member(
                plane=plane,
                place=HduPlace(path, hdu.index),
                expnum=expnum,
                ccdnum=ccdnum_of(hdu),
                name=str(hdu.header.get("DETPOS", hdu.header.get("EXTNAME", f"HDU {hdu.index}"))).strip(),
                shape=hdu.shape or (0, 0),
                primary=primary,
                header=hdu.header,
                problem=cut,
            )
            for hdu in images
        ),
    )


def stem(path: Path) -> str:
    """Return what the names of the three files of a triple have in common."""
    return _NAME.sub("_oo._", path.name)


def _foreign(path: Path) -> str:
    """Reason why a file cannot be looked into; empty where it can."""
    if path.name.endswith(".gz"):
        return _gzipped(path)
    if is_fits(path):
        return ""
    if _NAME.search(path.name) and ".fits" in path.name:
        remedy = "fetch the file again"
        raise BadInputError("The file is named as an InstCal file but is not FITS", str(path), remedy)
    return "not a FITS file" if os.path.getsize(path) else "an empty file"


def _gzipped(path: Path) -> str:
    try:
        with gzip.open(path) as file:
            start = file.read(_GZIP_PEEK)
    except (OSError, EOFError):
        return "a gzip file that cannot be unpacked"
    if not start.startswith(b"SIMPLE  ="):
        return "not a FITS file"
    if b"= 'InstCal" in start:
        return "a gzipped InstCal file: unpack it with gunzip to use it"
    return "gzipped FITS, not InstCal"


def _not_instcal(layout: list[HduLayout]) -> str:
    """Reason why a FITS file is no InstCal image, weight or mask; empty where it is one."""
    header = layout[0].header
    kind, product, instrument = (
        str(header.get(card, "")).strip() for card in ("PROCTYPE", "PRODTYPE", "INSTRUME")
    )
    if kind.lower() != "instcal":
        holds = ", ".join(dict.fromkeys(hdu.describe() for hdu in layout[1:] or layout))
        told = f"PROCTYPE {kind}" if kind else "no PROCTYPE"
        return f"not an InstCal file ({holds}; {told}{f', INSTRUME {instrument}' if instrument else ''})"
    if product and product.lower() not in _PRODTYPES:
        return f"an InstCal product of another kind (PRODTYPE {product})"
    return ""


def _plane(path: Path, primary: fits.Header, images: list[HduLayout]) -> Plane:
    match = _NAME.search(path.name)
    by_name = _LETTERS[match[1]] if match else Plane.IMAGE
    product = str(primary.get("PRODTYPE") or "image").strip().lower()
    if (plane := _PRODTYPES[product]) is not Plane.IMAGE:
        return plane
    if images[0].is_integer:
        return Plane.MASK
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # that the file is cut short is told elsewhere
        with fits.open(path) as hdus:
            for hdu in (hdu for hdu in images if hdu.complete):
                sample = _sample(hdus[hdu.index])
                if sample.any():
                    is_weight = sample.min() >= 0 and np.median(sample[sample > 0]) < 1
                    return Plane.WEIGHT if is_weight else Plane.IMAGE
    return by_name


def _sample(hdu: Any) -> NDArray[np.float64]:
    """Finite pixels of some rows; of a compressed image only their tiles are decoded."""
    ny = hdu.shape[0]
    rows = [hdu.section[y : y + 1, :].ravel() for y in range(ny // 10, ny, max(1, ny // 5))]
    values: NDArray[np.float64] = np.concatenate(rows).astype(float)
    return values[np.isfinite(values)]


def _expnum(header: fits.Header) -> int | None:
    """EXPNUM; some reductions have it as a string."""
    try:
        return int(header["EXPNUM"])
    except (KeyError, ValueError, TypeError):
        return None

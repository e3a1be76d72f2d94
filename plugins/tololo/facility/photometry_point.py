"""One flux of a light curve: when, how bright, in what filter, and on which image it was measured.

Fluxes are in nJy, magnitudes are AB: m = 31.4 - 2.5 log10(f / nJy) (Oke & Gunn 1983, zero point 3631 Jy).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from tololo.facility.errors import BadInputError
from tololo.facility.mjd import JD_MINUS_MJD, tai_to_utc, utc_to_tai

ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""

TELESCOPE = "CTIO 4.0-m"
INSTRUMENT = "DECam"

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,31}", re.ASCII)
_LABEL_REMEDY = "use up to 32 letters, digits, blanks and _ . + -, and not a number"
_LONGEST_ORIGIN = 200
"""Characters of ``source_location`` in a TOM."""


@dataclass(frozen=True, slots=True)
class PhotometryPoint:
    """One flux of a light curve.

    Parameters
    ----------
    mjd : `float`
        Modified Julian Date of mid-exposure, in ``time_scale``.
    time_scale : ``"TAI"`` or ``"UTC"``
    flux_njy, flux_err_njy : `float`
        Flux, or flux difference, and its standard error, nJy.
    band : `str`
        ``u g r i z y VR`` and the narrow bands, or the name of another camera's filter.
    visit, detector : `int`, optional
        Where the flux was measured, or
    image : `str`, optional
        the name of the image.
    filter_label : `str`, optional
        Name of the filter that the TOM shows; the band where empty.
    dia_object_id : `int`, optional
    telescope, instrument : `str`, optional
    zero_point : `float`, optional
        Magnitude of one unit of the image: of 1 nJy on images in nJy.
    hjd_utc : `float`, optional
        Heliocentric Julian Date of mid-exposure, in UTC.

    Raises
    ------
    BadInputError
        If a number is not finite, the error is not positive, a name cannot be used, or the image is missing.
    """

    mjd: float
    time_scale: Literal["TAI", "UTC"]
    flux_njy: float
    flux_err_njy: float
    band: str
    visit: int | None = None
    detector: int | None = None
    filter_label: str = ""
    dia_object_id: int | None = None
    telescope: str = TELESCOPE
    instrument: str = INSTRUMENT
    image: str = ""
    zero_point: float = ZERO_POINT
    hjd_utc: float | None = None

    def __post_init__(self) -> None:
        where = f"image {self.image}" if self.image else f"visit {self.visit}, detector {self.detector}"
        if self.time_scale not in ("TAI", "UTC"):
            raise BadInputError(f"Unknown time scale {self.time_scale!r}", where, "give TAI or UTC")
        if not (math.isfinite(self.mjd) and 40_000 < self.mjd < 100_000):
            raise BadInputError(
                f"{self.mjd!r} is no MJD of a CCD exposure", where, "give MJD, neither JD nor HJD"
            )
        # The Earth is never farther from the Sun than 8.5 light minutes, 0.0059 d.
        if self.hjd_utc is not None and not abs(self.hjd_utc - JD_MINUS_MJD - self.mjd_utc) < 0.006:
            raise BadInputError(
                f"{self.hjd_utc!r} is no HJD of MJD {self.mjd!r}", where, "give both of mid-exposure"
            )
        if not (math.isfinite(self.flux_njy) and math.isfinite(self.flux_err_njy) and self.flux_err_njy > 0):
            raise BadInputError(
                f"Flux {self.flux_njy} +- {self.flux_err_njy} nJy is not a measurement",
                where,
                "leave out points that could not be measured",
            )
        if not math.isfinite(self.zero_point):
            raise BadInputError(f"{self.zero_point!r} is no zero point", where, "leave the point out")
        names = ("band", self.band), ("filter_label", self.filter_label or self.band)
        for name, text in (*names, ("telescope", self.telescope), ("instrument", self.instrument)):
            if not _LABEL.fullmatch(text) or _is_number(text):
                raise BadInputError(f"{name} {text!r} cannot be used", where, _LABEL_REMEDY)
        if not self.image and (self.visit is None or self.detector is None):
            raise BadInputError("A point has no image", where, "give visit and detector, or image")
        if len(self.provenance) > _LONGEST_ORIGIN:
            remedy = f"use names of images of up to {_LONGEST_ORIGIN - 6} characters"
            raise BadInputError("The name of the image is too long for a TOM", where, remedy)

    @property
    def mjd_tai(self) -> float:
        """Mid-exposure, MJD TAI."""
        return self.mjd if self.time_scale == "TAI" else utc_to_tai(self.mjd)

    @property
    def mjd_utc(self) -> float:
        """Mid-exposure, MJD UTC."""
        return self.mjd if self.time_scale == "UTC" else tai_to_utc(self.mjd)

    @property
    def snr(self) -> float:
        """Flux over its error; negative where the target is fainter than in the template."""
        return self.flux_njy / self.flux_err_njy

    @property
    def magnitude(self) -> float:
        """AB magnitude; defined for positive fluxes only."""
        return ab_magnitude(self.flux_njy)

    @property
    def magnitude_error(self) -> float:
        """Standard error of the magnitude, to first order: 2.5 / ln 10 over the signal-to-noise ratio."""
        return 2.5 / math.log(10) / self.snr

    @property
    def provenance(self) -> str:
        """Where the flux was measured: ``visit=..&detector=..[&diaObjectId=..]`` or ``image=..``."""
        text = f"image={self.image}" if self.image else f"visit={self.visit}&detector={self.detector}"
        return text if self.dia_object_id is None else f"{text}&diaObjectId={self.dia_object_id}"


def ab_magnitude(flux_njy: float) -> float:
    """Return the AB magnitude of a flux in nJy.

    Raises
    ------
    ValueError
        If the flux is not positive.
    """
    return ZERO_POINT - 2.5 * math.log10(flux_njy)


def njy(magnitude: float) -> float:
    """Return the flux in nJy of an AB magnitude."""
    return float(10 ** ((ZERO_POINT - magnitude) / 2.5))


def _is_number(text: str) -> bool:
    """Tell whether a reader of tables would take a text for a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True

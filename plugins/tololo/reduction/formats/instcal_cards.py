"""Cards of InstCal headers that pixels cannot do without: WCS, gain, read noise, saturation."""

from __future__ import annotations

import math

from tololo.facility.errors import BadInputError

type Cards = dict[str, str | int | float | bool]

ARCHIVE = "use files from the NOIRLab archive as they are"

_WCS_CARDS = ("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CD", "CDELT", "PC", "PV", "LONPOLE", "LATPOLE")


def wcs_cards(header: Cards, where: str) -> Cards:
    """Pick the WCS out of a header.

    Parameters
    ----------
    header : `dict`
        Cards of an image's HDU.
    where : `str`
        File and HDU, for the message.

    Returns
    -------
    cards : `dict`
        With RADESYS ICRS: the pipeline fits to Gaia or 2MASS, and RADECSYS says so; the RADESYS of the
        primary header (FK5) is the telescope's.

    Raises
    ------
    BadInputError
        If cards are missing, or a pixel is not between 0.05 and 5 arcsec (a DECam pixel is 0.26).
    """
    needed = [f"{card}{axis}" for card in ("CTYPE", "CRVAL", "CRPIX") for axis in (1, 2)]
    matrix = [f"CD{i}_{j}" for i in (1, 2) for j in (1, 2)]
    missing = [card for card in needed + matrix if card not in header]
    remedy = "use files from the NOIRLab archive as they are; a WCS cannot be made up here"
    if missing:
        raise BadInputError(f"The WCS is missing: no {', '.join(missing)}", where, remedy)
    values = [header[card] for card in needed[2:] + matrix]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise BadInputError("The WCS has cards that are no numbers", where, remedy)
    a, b, c, d = (float(header[card]) for card in matrix)
    celestial = str(header["CTYPE1"]).startswith("RA---") and str(header["CTYPE2"]).startswith("DEC--")
    scale = 3600 * math.sqrt(abs(a * d - b * c))
    if not 0.05 < scale < 5 or not celestial:
        raise BadInputError(
            f"The WCS is unusable: {header['CTYPE1']} {header['CTYPE2']}, {scale:.3g} arcsec per pixel",
            where,
            remedy,
        )
    cards = {key: value for key, value in header.items() if key.rstrip("0123456789_") in _WCS_CARDS}
    return cards | {"WCSAXES": 2, "RADESYS": "ICRS"}


def gain_of(header: Cards, where: str) -> float:
    """Return the gain of the image, e-/ADU: mean of both amplifiers.

    Raises
    ------
    BadInputError
        If the header has neither GAINA and GAINB nor GAIN.
    """
    values = [float(header[card]) for card in ("GAINA", "GAINB") if card in header] or [
        float(header[card]) for card in ("GAIN",) if card in header
    ]
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise BadInputError(
            "The gain is missing: no usable GAINA and GAINB",
            where,
            ARCHIVE,
        )
    return sum(values) / len(values)


def read_noise_of(header: Cards, where: str) -> float:
    """Return the read noise, e-: mean of both amplifiers.

    Raises
    ------
    BadInputError
        If the header has neither RDNOISEA and RDNOISEB nor RDNOISE.
    """
    values = [float(header[card]) for card in ("RDNOISEA", "RDNOISEB", "RDNOISE") if card in header]
    if not values:
        raise BadInputError("The read noise is missing: no RDNOISEA and RDNOISEB", where, ARCHIVE)
    return sum(values) / len(values)


def saturation_of(header: Cards) -> float:
    """Return the saturation level, ADU: the lower of both amplifiers, infinite where there is none."""
    values = [float(header[card]) for card in ("SATURATA", "SATURATB", "SATURATE") if card in header]
    return min(values, default=math.inf)

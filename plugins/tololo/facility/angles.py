"""Angles as people write them: sexagesimal or degrees."""

from __future__ import annotations

import re

_SEXAGESIMAL = re.compile(r"([+-]?)(\d{1,3})[:hd ]\s*(\d{1,2})[:m' ]\s*(\d{1,2}(?:\.\d*)?)[s\"]?")


def degrees(text: str, *, hours: bool) -> float:
    """Return an angle in degrees.

    Parameters
    ----------
    text : `str`
        ``17:30:25.5`` or ``17h30m25.5s`` or ``17 30 25.5``; a plain number is degrees.
    hours : `bool`
        Sexagesimal values are hours (of a right ascension), which go to 24; else degrees, from -90 to 90.

    Raises
    ------
    ValueError
        It is no angle, or beyond these limits.
    """
    text = text.strip()
    low, high = (0.0, 360.0) if hours else (-90.0, 90.0)
    if parts := _SEXAGESIMAL.fullmatch(text):
        sign, whole, minutes, seconds = parts.groups()
        if int(minutes) > 59 or float(seconds) >= 60:
            raise ValueError(f"{text!r} has more than 59 minutes or seconds")
        value = int(whole) + int(minutes) / 60 + float(seconds) / 3600
        value *= (15.0 if hours else 1.0) * (-1.0 if sign == "-" else 1.0)
    else:
        try:
            value = float(text)
        except ValueError:
            form = "17:30:25.5" if hours else "-25:30:30.5"
            raise ValueError(f"{text!r} is no angle: write {form}, or degrees") from None
    if not low <= value <= high or (hours and value == high):
        raise ValueError(f"{text!r} is not between {'0 and 24 hours' if hours else '-90 and 90 degrees'}")
    return value

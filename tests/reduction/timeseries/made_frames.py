"""Small reduced frames in the form of Las Cumbres' pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

CARDS: dict[str, Any] = {
    "OBSTYPE": "EXPOSE",
    "RLEVEL": 91,
    "DATE-OBS": "2024-05-02T03:04:05.500",
    "EXPTIME": 60.0,
    "FILTER": "ip",
    "INSTRUME": "fa06",
    "TELESCOP": "1m0-12",
    "SITEID": "cpt",
    "RA": "17:30:25.5",
    "DEC": "-25:30:30.5",
    "AIRMASS": 1.2,
    "L1FWHM": 1.8,
    "PIXSCALE": 0.389,
    "GAIN": 1.0,
    "RDNOISE": 8.0,
    "SATURATE": 120000.0,
    "MAXLIN": 0.0,
    "WCSERR": 0,
    "LONGITUD": 20.81,
    "LATITUDE": -32.38,
    "HEIGHT": 1760.0,
}


def write_frame(
    path: Path,
    image: NDArray[np.float32] | None = None,
    *,
    cards: dict[str, Any] | None = None,
    error: NDArray[np.float32] | None = None,
    mask: NDArray[np.uint8] | None = None,
    compress: bool = False,
) -> Path:
    """Write a frame; a card that is `None` is left out."""
    if image is None:
        image = np.full((40, 50), 100.0, np.float32)
    kind = fits.CompImageHDU if compress else fits.ImageHDU
    science = kind(image, name="SCI")
    for key, value in {**CARDS, **(cards or {})}.items():
        if value is not None:
            science.header[key] = value
    sources = Table({"X": [11.0, 31.0], "Y": [21.0, 6.0], "FLUX": [1000.0, 500.0]})
    hdus = [fits.PrimaryHDU(), science, fits.BinTableHDU(sources, name="CAT")]
    if mask is not None:
        hdus.append(kind(mask, name="BPM"))
    if error is not None:
        hdus.append(kind(error, name="ERR"))
    fits.HDUList(hdus).writeto(path)
    return path

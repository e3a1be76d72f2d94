"""Spoil InstCal files on purpose, the way real ones arrive spoilt."""

from __future__ import annotations

import os
from pathlib import Path

from astropy.io import fits

from tololo.facility.errors import BadInputError
from tololo.simulation.plan import Fault

_CARDS = {
    "unknown_filter": ("FILTER", "q DECam c0099 1234.0 100.0"),
    "not_decam": ("INSTRUME", "Mosaic3"),
}


def spoil(folder: Path, fault: Fault) -> None:
    """Spoil one exposure.

    Parameters
    ----------
    folder : `pathlib.Path`
        Holds ``*_ooi_*``, ``*_oow_*`` and ``*_ood_*`` files, named as the archive does.
    fault : `Fault`

    Raises
    ------
    BadInputError
        If there is no such exposure.
    """
    images = sorted(folder.glob("*_ooi_*"))
    if fault.exposure >= len(images):
        raise BadInputError(f"There is no exposure {fault.exposure} to spoil", str(folder), "count from 0")
    image = images[fault.exposure]
    triple = [image.with_name(image.name.replace("_ooi_", f"_{code}_")) for code in ("ooi", "oow", "ood")]
    if fault.kind == "truncated":
        os.truncate(image, image.stat().st_size * 2 // 3)
    elif fault.kind == "missing_weight":
        triple[1].unlink()
    elif fault.kind == "missing_mask":
        triple[2].unlink()
    elif fault.kind == "wrong_wcs":
        for path in triple:
            _shift(path, fault.pixels)
    else:
        card, value = _CARDS[fault.kind]
        for path in triple:
            fits.setval(path, card, value=value, ext=0)


def _shift(path: Path, pixels: float) -> None:
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        for hdu in hdus[1:]:
            hdu.header["CRPIX1"] += pixels

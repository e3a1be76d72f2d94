"""Small raw files of DECam: every card that is read, CCDs of a few pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tololo.reduction.instrument.detectors import detectors

ROWS, COLUMNS = 40, 16  # of the light-sensitive pixels of an amplifier
PRESCAN, OVERSCAN, POSTSCAN = 2, 6, 4
SHAPE = (ROWS + POSTSCAN, 2 * (PRESCAN + OVERSCAN + COLUMNS))

EVENING = datetime(2019, 4, 2, 1, 30, tzinfo=UTC)
NIGHT = 20190401
G = "g DECam SDSS c0001 4720.0 1520.0"


def pixels(detector: int) -> NDArray[np.uint16]:
    """Counts that differ in each pixel of each CCD."""
    count = SHAPE[0] * SHAPE[1]
    return (np.arange(count, dtype=np.uint16) + np.uint16(detector * 1000)).reshape(SHAPE)


def primary_cards(expnum: int, obstype: str, when: datetime) -> dict[str, Any]:
    """The primary header."""
    stamp = when.isoformat(timespec="microseconds").replace("+00:00", "")
    calibration = obstype in ("zero", "dome flat")
    return {
        "PROCTYPE": "raw",
        "PRODTYPE": "image",
        "INSTRUME": "DECam",
        "TELESCOP": "CTIO 4.0-m telescope",
        "OBS-LONG": 70.81489,
        "OBS-LAT": -30.16606,
        "OBS-ELEV": 2215.0,
        "EXPREQ": 0.0 if obstype == "zero" else 30.0,
        "EXPTIME": 0.0 if obstype == "zero" else 30.0,
        "DARKTIME": 30.5,
        "OBSID": f"ct4m{when:%Y%m%dt%H%M%S}",
        "DATE-OBS": stamp,
        "RADESYS": "FK5",
        "TIMESYS": "UTC",
        "EXPNUM": expnum,
        "OBJECT": obstype if calibration else "COSMOS-1",
        "OBSTYPE": obstype,
        "PROPID": "2019A-0305",
        "FILTER": G,
        "TELRA": "10:00:28.600",
        "TELDEC": "02:12:21.00",
        "ZD": 32.5,
        "AZ": 10.25,
        "AIRMASS": 1.18,
        "OUTTEMP": 12.0,
        "HUMIDITY": 30.0,
        "PRESSURE": 779.0,
        "TELFOCUS": "369.11,-257.06,2012.46,-65.88,-112.00,-0.00",
        "HIERARCH time_recorded": stamp,
    }


def detector_cards(detector: int) -> dict[str, Any]:
    """The header of a CCD: the southern ones have A on the right and their postscan below."""
    ccd = detectors()[detector]
    south = ccd.side == "S"
    y = (POSTSCAN + 1, POSTSCAN + ROWS) if south else (1, ROWS)
    edge = PRESCAN + OVERSCAN
    left = {
        "DATASEC": (edge + 1, edge + COLUMNS),
        "BIASSEC": (PRESCAN + 1, edge),
        "CCDSEC": (1, COLUMNS),
    }
    right = {
        "DATASEC": (edge + COLUMNS + 1, edge + 2 * COLUMNS),
        "BIASSEC": (edge + 2 * COLUMNS + 1, 2 * (edge + COLUMNS) - PRESCAN),
        "CCDSEC": (COLUMNS + 1, 2 * COLUMNS),
    }
    cards: dict[str, Any] = {
        "EXTNAME": ccd.name,
        "CCDNUM": detector,
        "DETPOS": ccd.name,
        "DETECTOR": f"S3-{detector}",
        "TRIMSEC": f"[{edge + 1}:{edge + 2 * COLUMNS},{y[0]}:{y[1]}]",
    }
    for name in "AB":
        sections = right if south == (name == "A") else left
        for card, (first, last) in sections.items():
            rows = (1, ROWS) if card == "CCDSEC" else y
            cards[card + name] = f"[{first}:{last},{rows[0]}:{rows[1]}]"
        cards[f"GAIN{name}"] = ccd.gain[name]
        cards[f"RDNOISE{name}"] = ccd.read_noise[name]
        cards[f"SATURAT{name}"] = ccd.saturation[name]
    return cards | {
        "CTYPE1": "RA---TPV",
        "CTYPE2": "DEC--TPV",
        "CRVAL1": 150.119167,
        "CRVAL2": 2.205833,
        "CRPIX1": 10.0,
        "CRPIX2": 20.0,
        "CD1_1": 0.0,
        "CD1_2": 7.3e-5,
        "CD2_1": -7.3e-5,
        "CD2_2": 0.0,
        "PV1_1": 1.0,
        "PV2_1": 1.0,
        "INHERIT": True,
    }


def write_raw(
    folder: Path,
    expnum: int,
    obstype: str = "object",
    when: datetime = EVENING,
    ccds: Iterable[int] = (2, 35, 61),
    *,
    name: str = "",
    change: Mapping[str, Any] | None = None,
    change_ccd: Mapping[str, Any] | None = None,
) -> Path:
    """Write an fpacked raw with a focus CCD beside the science ones.

    Parameters
    ----------
    folder, expnum, obstype, when, ccds
        Where, and what. Exposures of one moment have one OBSID.
    name : `str`, optional
        Of the file; as the archive calls it unless given.
    change, change_ccd : `dict`, optional
        Cards of the primary header and of each CCD that are to be different; `None` removes one.
    """
    suffix = {"zero": "zri", "dome flat": "fri"}.get(obstype, "ori")
    path = folder / (name or f"c4d_{when:%y%m%d_%H%M%S}_{suffix}.fits.fz")
    folder.mkdir(parents=True, exist_ok=True)
    primary = fits.PrimaryHDU(header=_header(primary_cards(expnum, obstype, when) | dict(change or {})))
    hdus: list[Any] = [primary]
    for ccd in ccds:
        header = _header(detector_cards(ccd) | dict(change_ccd or {}))
        hdus.append(
            fits.CompImageHDU(pixels(ccd), header, compression_type="RICE_1", tile_shape=(1, SHAPE[1]))
        )
    focus = _header(detector_cards(1) | {"CCDNUM": 72, "DETPOS": "FS2", "EXTNAME": "FS2"})
    hdus.append(fits.CompImageHDU(pixels(1), focus, compression_type="RICE_1", tile_shape=(1, SHAPE[1])))
    fits.HDUList(hdus).writeto(path)
    return path


def _header(cards: Mapping[str, Any]) -> fits.Header:
    return fits.Header([(key, value) for key, value in cards.items() if value is not None])

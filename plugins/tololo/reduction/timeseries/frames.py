"""Frames that another pipeline has reduced: image, error, mask, sources, and whether to trust them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.table import Table
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from tololo.facility.angles import degrees
from tololo.facility.errors import BadInputError, TololoError
from tololo.reduction.timeseries.sources import find_sources
from tololo.reduction.timeseries.times import FrameTimes, frame_times

SCIENCE = ("EXPOSE", "STANDARD")
"""OBSTYPE of frames of the sky."""

TRAILED = 0.35
"""Median ellipticity of the sources of a frame whose guiding failed."""

_NEEDED = ("DATE-OBS", "EXPTIME", "FILTER", "INSTRUME", "RA", "DEC")


@dataclass(frozen=True)
class FrameInfo:
    """What the header of a frame says.

    Attributes
    ----------
    image_id : `str`
        The file's name without its ending.
    filter, instrument, telescope, site : `str`
    times : `FrameTimes`
    exposure_time : `float`
        Seconds.
    airmass, fwhm, pixel_scale : `float`
        NaN where unknown; FWHM and scale in arcsec (a pixel).
    gain, read_noise, saturation : `float`
        Electrons per count, electrons, counts; ``saturation`` is infinite where unknown.
    level : `int`
        How far it is reduced (RLEVEL): of two reductions of one exposure the higher counts.
    """

    image_id: str
    filter: str
    instrument: str
    telescope: str
    site: str
    times: FrameTimes
    exposure_time: float
    airmass: float
    fwhm: float
    pixel_scale: float
    gain: float
    read_noise: float
    saturation: float
    level: int


@dataclass(frozen=True)
class Frame:
    """A reduced frame.

    Attributes
    ----------
    path : `pathlib.Path`
    info : `FrameInfo`
    header : `astropy.io.fits.Header`
        Of the science image.
    image : `numpy.ndarray`, (ny, nx), float32
        Counts, sky in them.
    error : `numpy.ndarray`, (ny, nx), float32
        Standard deviation of each pixel, counts.
    bad : `numpy.ndarray`, (ny, nx), bool
        Pixels not to be used: masked, saturated, or without a value.
    catalogue : `astropy.table.Table`
        Sources, columns in lower case: ``x``, ``y`` (pixels from 0), ``flux`` ...; found anew where the file
        has none.
    """

    path: Path
    info: FrameInfo
    header: fits.Header
    image: NDArray[np.float32]
    error: NDArray[np.float32]
    bad: NDArray[np.bool_]
    catalogue: Table


def image_id_of(path: Path) -> str:
    """Return the name of a frame: that of its file without ``.fits`` and what follows."""
    name = path.name
    for ending in (".fz", ".fits", ".fts"):
        name = name.removesuffix(ending)
    return name


def filter_of(path: Path) -> str:
    """Return the filter of a frame from its header alone; empty where it does not say it or is no frame."""
    try:
        with fits.open(path) as hdus:
            header = hdus["SCI"].header if "SCI" in hdus else hdus[0].header
            return str(header.get("FILTER", ""))
    except (OSError, ValueError, TypeError, KeyError, IndexError, VerifyError):
        return ""


def why_unreduced(hdus: fits.HDUList) -> str:
    """Say why a file is no reduced frame of the sky; empty if it is one."""
    science = [hdu for hdu in hdus if hdu.name == "SCI"]
    headers = [hdu.header for hdu in (science or hdus)]
    obstype = next((str(h["OBSTYPE"]) for h in [hdus[0].header, *headers] if "OBSTYPE" in h), "")
    if obstype and obstype not in SCIENCE:
        return f"OBSTYPE is {obstype}, not {' or '.join(SCIENCE)}"
    if len(science) > 1:
        return f"it is not reduced: {len(science)} amplifiers, not yet one image"
    if not science:
        return "it is not reduced: there is no image SCI"
    if _number(science[0].header, "RLEVEL", 0.0) <= 0:
        return "it is not reduced: its RLEVEL is 0 or missing"
    return ""


def why_untrusted(header: fits.Header) -> str:
    """Say why the WCS of a reduced frame cannot be trusted; empty if it can."""
    if "WCSERR" not in header:
        return "it does not say whether its astrometry succeeded (no WCSERR)"
    if _number(header, "WCSERR") != 0:
        return f"its astrometric fit failed (WCSERR {header['WCSERR']})"
    return ""


def why_trailed(catalogue: Table) -> str:
    """Say why the stars of a frame are no points; empty if they are."""
    if len(catalogue) < 5:
        return ""
    typical = _median_of(catalogue, "ellipticity")
    return f"its stars are trailed (ellipticity {typical:.2f})" if typical > TRAILED else ""


def read_frame(path: Path, target: tuple[float, float] | None = None) -> Frame:
    """Read a reduced frame; the file is never written.

    Parameters
    ----------
    path : `pathlib.Path`
    target : `tuple` [`float`, `float`], optional
        ICRS degrees; what the times as seen from Sun and barycentre are for. The pointing where not given.

    Raises
    ------
    BadInputError
        It cannot be read, is no reduced frame of the sky, lacks a header card, or its WCS failed. The
        message names the file and the reason.
    """
    where, remedy = str(path), "the other frames go on without it"
    try:
        with fits.open(path, memmap=False) as hdus:
            if reason := why_unreduced(hdus) or why_untrusted(hdus["SCI"].header):
                raise BadInputError(f"The frame is set aside: {reason}", where, remedy)
            science = hdus["SCI"]
            header = science.header.copy()
            info = _info(path, header, target)
            if science.data is None or science.data.ndim != 2:
                raise BadInputError("The frame is set aside: SCI holds no image", where, remedy)
            image = np.array(science.data, dtype=np.float32)
            noise, mask = (_plane(hdus, name, image.shape, where) for name in ("ERR", "BPM"))
            catalogue = _catalogue(hdus)
    except (TololoError, MemoryError):
        raise
    except Exception as wrong:  # the codecs of compressed images have error classes of their own
        raise BadInputError(f"The frame cannot be read: {wrong}", where, remedy) from wrong
    bad = ~np.isfinite(image) | (image >= info.saturation)
    if mask is not None:
        bad |= mask != 0
    error = np.asarray(_noise(image, info) if noise is None else noise, np.float32)
    if catalogue is None:
        catalogue = find_sources(image, error, bad)
    if reason := why_trailed(catalogue):
        raise BadInputError(f"The frame is set aside: {reason}", where, remedy)
    if not info.fwhm > 0:
        info = replace(info, fwhm=info.pixel_scale * _median_of(catalogue, "fwhm"))
    return Frame(path, info, header, image, error, bad, catalogue)


def _info(path: Path, header: fits.Header, target: tuple[float, float] | None) -> FrameInfo:
    where, remedy = str(path), "the other frames go on without it"
    if missing := [name for name in _NEEDED if header.get(name) in (None, "", "N/A", "UNKNOWN")]:
        raise BadInputError(f"The frame is set aside: its header lacks {', '.join(missing)}", where, remedy)
    pointing = degrees(str(header["RA"]), hours=True), degrees(str(header["DEC"]), hours=False)
    ra, dec = target or pointing
    site = tuple(_number(header, name, 0.0) for name in ("LONGITUD", "LATITUDE", "HEIGHT"))
    exposure_time = float(header["EXPTIME"])
    if not 0 < exposure_time < math.inf:
        raise BadInputError(
            f"The frame is set aside: its exposure time is {exposure_time:g} s", where, remedy
        )
    begin = str(header["DATE-OBS"])
    times = frame_times(begin, exposure_time, ra, dec, (site[0], site[1], site[2]))
    if "T" not in begin:  # a day alone is a time for astropy, which is midnight
        raise BadInputError(f"The frame is set aside: its DATE-OBS {begin} has no time of day", where, remedy)
    limits = [value for name in ("SATURATE", "MAXLIN") if (value := _number(header, name)) > 0]
    return FrameInfo(
        image_id=image_id_of(path),
        filter=str(header["FILTER"]),
        instrument=str(header["INSTRUME"]),
        telescope=str(header.get("TELESCOP", "")),
        site=str(header.get("SITEID", "")),
        times=times,
        exposure_time=exposure_time,
        airmass=_number(header, "AIRMASS"),
        fwhm=_number(header, "L1FWHM"),
        pixel_scale=_pixel_scale(header),
        gain=gain if (gain := _number(header, "GAIN")) > 0 else 1.0,
        read_noise=max(0.0, _number(header, "RDNOISE", 0.0)),
        saturation=min(limits, default=math.inf),
        level=int(_number(header, "RLEVEL", 0.0)),
    )


def _pixel_scale(header: fits.Header) -> float:
    """Return arcsec a pixel: as the header says it, else as the WCS has it."""
    said = _number(header, "PIXSCALE")
    if said > 0:
        return said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return 3600 * float(np.mean(proj_plane_pixel_scales(WCS(header).celestial)))


def _number(header: fits.Header, name: str, default: float = math.nan) -> float:
    """Return a card as a number; the default where it is missing, text, or not finite."""
    try:
        value = float(header.get(name, default))
    except (TypeError, ValueError):
        return default
    return value if math.isfinite(value) else default


def _plane(hdus: fits.HDUList, name: str, shape: tuple[int, ...], where: str) -> NDArray[Any] | None:
    """Return a plane beside the image, `None` where there is none."""
    if name not in hdus:
        return None
    data = np.asarray(hdus[name].data)
    if data.shape != shape:
        raise BadInputError(f"Its plane {name} has shape {data.shape}, the image {shape}", where)
    return data


def _catalogue(hdus: fits.HDUList) -> Table | None:
    """Return the sources of the frame, `None` where it has none. Pixels are counted from 0."""
    if "CAT" not in hdus or hdus["CAT"].data is None or not len(hdus["CAT"].data):
        return None
    table = Table(hdus["CAT"].data)
    for name in table.colnames:
        table.rename_column(name, name.lower())
    if missing := [name for name in ("x", "y", "flux") if name not in table.colnames]:
        raise KeyError(f"its table CAT has no column {', '.join(missing)}")
    for name in ("x", "y"):
        table[name] = np.asarray(table[name], float) - 1.0  # FITS counts pixels from 1
    return table[np.isfinite(table["x"]) & np.isfinite(table["y"])]


def _median_of(catalogue: Table, name: str) -> float:
    """Return the median of a column of the sources; NaN where there is none."""
    values = np.asarray(catalogue[name], float) if name in catalogue.colnames else np.empty(0)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def _noise(image: NDArray[np.float32], info: FrameInfo) -> NDArray[np.float64]:
    """Return what photons and read-out make of each pixel, where no plane says it."""
    electrons = np.clip(image, 0, None) * info.gain + info.read_noise**2
    return np.asarray(np.sqrt(electrons) / info.gain)

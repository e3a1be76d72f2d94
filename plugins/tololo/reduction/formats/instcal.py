"""InstCal exposures of the NOIRLab Community Pipeline: what a triple of files says, and its pixels.

An exposure comes as three multi-extension files (image ``ooi``, weight ``oow``, data quality ``ood``), one
HDU per CCD. What was measured on fourteen real exposures (PLVER V3.6.2 and V4.8.2, bands g r z):

* the image is in ADU per exposure with the sky in it; GAINA and GAINB (e-/ADU, after flat-fielding) and
  SATURATE hold for it;
* the weight is the inverse variance *including* the Poisson noise of sources, pixel by pixel:
  1/w = image/gain + (read noise/gain)^2, with a slope of 0.88 to 1.04 in units of 1/gain. It agrees with the
  scatter of blank sky within 4 %;
* so the weight is taken from each pixel's own noisy value: in blank sky it correlates with the image at 0.7
  to 0.97, and an average weighted by it comes out low by 1/gain ADU. `read_instcal` takes that noise out
  again;
* the weight is zero exactly where the data-quality map is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.dqmask import DQ, dq_planes
from tololo.reduction.formats.fits_layout import HduLayout, iterate_layout, read_hdu, truncation
from tololo.reduction.formats.instcal_cards import (
    ARCHIVE,
    Cards,
    gain_of,
    read_noise_of,
    saturation_of,
    wcs_cards,
)

SMOOTHING = 5
"""Side of the box over which the variance of blank sky is averaged, pixels."""

_STRUCTURE = (
    "SIMPLE",
    "XTENSION",
    "BITPIX",
    "NAXIS",
    "PCOUNT",
    "GCOUNT",
    "EXTEND",
    "TFIELDS",
    "TTYPE",
    "TFORM",
)


class PlaneLike(Protocol):
    """Pixels (ny, nx) with the cards of their file: image (ADU), weight (ADU^-2) or data-quality map."""

    @property
    def array(self) -> NDArray[Any]: ...  # noqa: D102

    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class PixelPlane:
    """A plane as `read_plane` gives it."""

    array: NDArray[Any]
    metadata: Cards


@dataclass(frozen=True)
class HduPlace:
    """Where a plane of a detector is: file, and position of the HDU in it."""

    path: Path
    hdu: int

    def __str__(self) -> str:
        return f"{self.path}, HDU {self.hdu}"


@dataclass(frozen=True)
class InstcalDetector:
    """One CCD of an exposure.

    Attributes
    ----------
    ccdnum : `int`
        CCDNUM, the Butler's detector id.
    name : `str`
        DETPOS, such as ``N4``.
    plver : `str`
        Version of the pipeline that made these files.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of each of the three planes.
    wcs_header : `dict`
        WCS cards of the image, ICRS.
    image, weight, mask : `HduPlace`
    """

    ccdnum: int
    name: str
    plver: str
    shape: tuple[int, int]
    wcs_header: Cards
    image: HduPlace
    weight: HduPlace
    mask: HduPlace


@dataclass(frozen=True)
class InstcalExposure:
    """One exposure with its detectors, in order of CCDNUM.

    Attributes
    ----------
    expnum : `int`
        EXPNUM: exposure id and visit id.
    filter_header : `str`
        The FILTER card as it stands.
    physical_filter, band : `str`
        Their names in the Butler.
    mjd_utc : `float`
        Start of the exposure, MJD UTC (MJD-OBS).
    exptime : `float`
        Seconds.
    day_obs : `int`
        Night, YYYYMMDD.
    object : `str`
        OBJECT; may be empty.
    ra, dec : `float`
        Where the telescope pointed, degrees.
    airmass : `float`
        NaN where the header has none.
    plver : `str`
        Newest pipeline version among the detectors.
    detectors : `tuple` [`InstcalDetector`, ...]
    """

    expnum: int
    filter_header: str
    physical_filter: str
    band: str
    mjd_utc: float
    exptime: float
    day_obs: int
    object: str
    ra: float
    dec: float
    airmass: float
    plver: str
    detectors: tuple[InstcalDetector, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the exposure is read from, each once."""
        planes = (plane for ccd in self.detectors for plane in (ccd.image, ccd.weight, ccd.mask))
        return tuple(dict.fromkeys(plane.path for plane in planes))


@dataclass(frozen=True)
class InstcalPixels:
    """The pixels of one detector.

    Attributes
    ----------
    image : `numpy.ndarray`, (ny, nx), float32
        ADU per exposure, sky included. Where the file has no number: the sky level, and ``NO_DATA`` in the
        mask.
    variance : `numpy.ndarray`, (ny, nx), float32
        ADU^2, with the Poisson noise of sky and sources; finite and positive everywhere.
    mask : `numpy.ndarray`, (ny, nx), uint8
        Bits of `tololo.reduction.formats.dqmask.DQ`.
    header : `dict`
        Cards of the primary header and of the image's HDU (which go before).
    wcs : `astropy.wcs.WCS`
        Pixel (zero-based) to ICRS.
    gain : `float`
        e-/ADU, mean of both amplifiers.
    read_noise, saturation, sky : `float`
        ADU. Saturation is infinite where the header does not give it; sky is AVSKY, or the median where
        absent.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.uint8]
    header: Cards
    wcs: WCS
    gain: float
    read_noise: float
    saturation: float
    sky: float


def read_instcal(image_path: Path, weight_path: Path, mask_path: Path, detector: int) -> InstcalPixels:
    """Read one detector of an InstCal triple.

    Parameters
    ----------
    image_path, weight_path, mask_path : `pathlib.Path`
        The ``ooi``, ``oow`` and ``ood`` file, plain or tile-compressed.
    detector : `int`
        CCDNUM.

    Returns
    -------
    pixels : `InstcalPixels`

    Raises
    ------
    BadInputError
        If a file is cut short or lacks the detector, the shapes differ, or gain, read noise or WCS are
        missing.

    Notes
    -----
    Variance: 1/w, less the noise of the pixel itself where that is blank sky (within 3 sigma of the mean of a
    5 x 5 box), so that it does not correlate with the image; (image/gain) + (read noise/gain)^2 where the
    weight is zero.
    """
    image, weight, mask = (read_plane(path, detector) for path in (image_path, weight_path, mask_path))
    for path, plane in ((weight_path, weight), (mask_path, mask)):
        if plane.array.shape != image.array.shape:
            raise shape_error(path, plane.array.shape, image_path, image.array.shape)
    return instcal_pixels(image, weight, mask, f"{image_path}, CCDNUM {detector}")


def instcal_pixels(image: PlaneLike, weight: PlaneLike, mask: PlaneLike, where: str) -> InstcalPixels:
    """Make the pixels of a detector from its three planes, as `read_instcal` does once it has read them.

    Parameters
    ----------
    image, weight, mask : `PlaneLike`
        For example `lsst.images.Image` as the Butler gives them.
    where : `str`
        Where these come from, for messages.

    Returns
    -------
    pixels : `InstcalPixels`

    Raises
    ------
    BadInputError
        If the shapes differ, the mask does not hold integers, or gain, read noise or WCS are missing.
    """
    header = dict(image.metadata)
    gain = gain_of(header, where)
    read_noise = read_noise_of(header, where) / gain
    shapes = {plane.array.shape for plane in (image, weight, mask)}
    if len(shapes) > 1 or not np.issubdtype(mask.array.dtype, np.integer):
        raise BadInputError(
            f"The planes do not fit: shapes {sorted(shapes)}, mask of {mask.array.dtype}", where, ARCHIVE
        )
    planes = dq_planes(mask.array, str(mask.metadata.get("PLVER", "")))
    known = np.isfinite(image.array)
    sky = float(header.get("AVSKY", math.nan))
    if not math.isfinite(sky):
        clean = known & (planes == 0)
        sky = float(np.median(image.array[clean])) if clean.any() else 0.0
    weighed = np.isfinite(weight.array) & (weight.array > 0)
    planes[~known | (~weighed & (planes == 0))] |= np.uint8(DQ.NO_DATA)
    pixels = np.where(known, image.array, sky).astype(np.float32)
    return InstcalPixels(
        image=pixels,
        variance=_variance(pixels, weight.array.astype(np.float32, copy=False), weighed, gain, read_noise),
        mask=planes,
        header=header,
        wcs=WCS(fits.Header(wcs_cards(header, where))),
        gain=gain,
        read_noise=read_noise,
        saturation=saturation_of(header),
        sky=sky,
    )


def shape_error(
    path: Path, shape: tuple[int, ...], image_path: Path, image_shape: tuple[int, ...]
) -> BadInputError:
    """Return the error of planes that do not fit on one another; shapes are (ny, nx)."""
    return BadInputError(
        f"The planes of a triple differ in size: {shape[1]} x {shape[0]} pixels here, "
        f"{image_shape[1]} x {image_shape[0]} in the image",
        f"{path}, beside {image_path}",
        "take the three files from one reduction",
    )


def cards_of(*headers: fits.Header) -> Cards:
    """Merge headers into a dict, the later ones going before; without comments, history, file structure."""
    cards: Cards = {}
    for header in headers:
        for card in header.cards:
            if card.keyword and not card.keyword.startswith(("COMMENT", "HISTORY", "Z", *_STRUCTURE)):
                value: Any = card.value
                cards[card.keyword] = value if isinstance(value, str | int | float | bool) else str(value)
    return cards


def read_plane(path: Path, detector: int) -> PixelPlane:
    """Read one plane of a detector; the HDUs before it in the file are skipped, not opened.

    Parameters
    ----------
    path : `pathlib.Path`
        FITS file, tile-compressed or not.
    detector : `int`
        CCDNUM.

    Returns
    -------
    plane : `PixelPlane`
        In native byte order.

    Raises
    ------
    BadInputError
        If the file is cut short or damaged, or lacks the detector.
    """
    primary: HduLayout | None = None
    for hdu in iterate_layout(path):
        primary = primary or hdu
        if hdu.is_image and ccdnum_of(hdu) == detector:
            break
        if error := truncation(path, hdu):
            raise error
    else:
        raise BadInputError(
            f"The file has no detector {detector}", f"{path}, card CCDNUM", "give a CCDNUM that it has"
        )
    if error := truncation(path, hdu):
        raise error
    try:
        with read_hdu(path, primary, hdu) as hdus:
            data, header = hdus[-1].data, hdus[-1].header
    except MemoryError:
        raise
    except Exception as error:  # the decoder's own kind derives from nothing else
        where = f"{path}, HDU {hdu.index}"
        raise BadInputError(f"The pixels cannot be read: {error}", where, "fetch the file again") from error
    native = data.astype(data.dtype.newbyteorder("="), copy=False)
    return PixelPlane(native, cards_of(primary.header, header))


def ccdnum_of(hdu: HduLayout) -> int | None:
    """Return CCDNUM of an HDU, or `None` where it has none."""
    value = hdu.header.get("CCDNUM")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _variance(
    image: NDArray[np.float32],
    weight: NDArray[np.float32],
    weighed: NDArray[np.bool_],
    gain: float,
    read_noise: float,
) -> NDArray[np.float32]:
    floor = np.float32(read_noise**2)
    model = np.maximum(image, 0) / np.float32(gain) + floor
    variance: NDArray[np.float32] = np.where(weighed, 1 / np.where(weighed, weight, 1), model).astype(
        np.float32
    )
    share = uniform_filter(weighed.astype(np.float32), SMOOTHING)
    mean = uniform_filter(np.where(weighed, image, 0), SMOOTHING) / np.maximum(share, 1e-3)
    excess = image - mean
    blank = weighed & (excess**2 < 9 * variance)
    variance[blank] -= excess[blank] / np.float32(gain)
    return np.maximum(variance, floor)

"""The astrometric solution of a detector whose WCS is only good to some arcseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.formats.projection import sip_wcs
from tololo.reduction.kernels.astrometry import AstrometricFit, PixelMap, align, fit_distortion
from tololo.reduction.references import References

LARGEST_OFFSET = 75.0
"""Pixels (20 arcsec); how far the pointing may be off."""

MIN_MATCHED = 8
"""With fewer stars nothing tells a solution from a coincidence."""

LARGEST_RMS = 0.5
"""Pixels per axis; a fit that leaves more is none."""

LEAST_LISTED = 100
"""So many of the brightest of each list are looked at, be the other one ever so short."""

BRIGHT_SNR = 100.0


@dataclass(frozen=True)
class Solution:
    """A WCS on the reference stars, and the stars that agree with it.

    Attributes
    ----------
    wcs : `astropy.wcs.WCS`
        Zero-based pixels to ICRS, TAN-SIP.
    references : `References`
        With x and y by this WCS.
    own, reference : `numpy.ndarray`, (n,), int64
        Rows of the pairs of detection and reference star.
    report : `dict`
        Columns of the summary: ``shift_x``, ``shift_y`` (pixels, at the middle of the image), ``rotation``
        (degrees), ``magnification`` (less 1), ``astrometric_rms`` and ``astrometric_rms_bright`` (pixels per
        axis; NaN without bright stars), ``n_astrometric`` (stars used), ``n_matched``, ``astrometric_order``.
    """

    wcs: WCS
    references: References
    own: NDArray[np.int64]
    reference: NDArray[np.int64]
    report: dict[str, float]


def recognise(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    references: References,
    shape: tuple[int, int],
    where: str,
) -> PixelMap:
    """Find shift, rotation and scale that bring the reference stars onto detections.

    Parameters
    ----------
    x, y, flux : `numpy.ndarray`, (n,)
        Detections: pixels, any unit.
    references : `References`
        With x and y by the header's WCS.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the image.
    where : `str`
        Exposure and detector, for messages.

    Raises
    ------
    BadInputError
        They are not recognised.
    """
    bright, known = np.argsort(-flux, kind="stable"), np.argsort(references.brightness, kind="stable")
    # Of the deeper list only the bright part has counterparts in the other.
    number = max(LEAST_LISTED, 2 * min(len(bright), len(known)))
    bright, known = bright[:number], known[:number]
    try:
        return align(x[bright], y[bright], references.x[known], references.y[known], shape, LARGEST_OFFSET)
    except NothingToDoError as error:
        raise BadInputError(
            error.what, f"{where}: {error.where}", "check pointing, WCS and the reference catalogue"
        ) from error


def solve(
    wcs: WCS,
    shape: tuple[int, int],
    stars: NDArray[np.void],
    references: References,
    start: PixelMap,
    where: str,
) -> Solution:
    """Fit shift, linear terms and distortion to the reference stars.

    Parameters
    ----------
    wcs : `astropy.wcs.WCS`
        The header's, TPV and all: the distortion is fitted on top of it.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the image.
    stars : structured `numpy.ndarray`, (n,)
        Detections as `psf_photometry` returns them.
    references : `References`
        With x and y by the header's WCS.
    start : `PixelMap`
        As `recognise` returns.
    where : `str`
        Exposure and detector, for messages.

    Raises
    ------
    BadInputError
        Fewer than `MIN_MATCHED` stars match, or they leave more than `LARGEST_RMS`.
    """
    good = np.flatnonzero(np.isfinite(stars["x_err"]) & np.isfinite(stars["y_err"]))
    error = np.hypot(stars["x_err"][good], stars["y_err"][good]) / math.sqrt(2)
    scale = 3600 * float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    try:
        fit = fit_distortion(
            stars["x"][good],
            stars["y"][good],
            error,
            references.x,
            references.y,
            references.place_error / scale,
            start,
            shape,
        )
    except NothingToDoError as fault:
        raise BadInputError(
            f"The astrometry cannot be fitted: {fault.what}", f"{where}: {fault.where}", fault.remedy
        ) from fault
    _refuse_coincidence(fit, len(references), where)
    own = good[fit.own]
    solved = sip_wcs(_Mapped(wcs, fit.map), shape)
    x, y = fit.map(references.x, references.y)
    bright = fit.used & (stars["flux"][own] > BRIGHT_SNR * stars["flux_err"][own])
    middle = np.array([(shape[1] - 1) / 2]), np.array([(shape[0] - 1) / 2])
    shift = [float(after[0] - before[0]) for after, before in zip(fit.map(*middle), middle, strict=True)]
    report = {
        "shift_x": shift[0],
        "shift_y": shift[1],
        "rotation": fit.map.rotation,
        "magnification": fit.map.magnification,
        "astrometric_rms": fit.rms,
        "astrometric_rms_bright": math.sqrt(float((fit.residual[bright] ** 2).mean()))
        if bright.any()
        else math.nan,
        "n_astrometric": float(np.count_nonzero(fit.used)),
        "n_matched": float(len(own)),
        "astrometric_order": float(fit.map.order),
    }
    return Solution(solved, replace(references, x=x, y=y), own, fit.reference, report)


def _refuse_coincidence(fit: AstrometricFit, known: int, where: str) -> None:
    number = int(np.count_nonzero(fit.used))
    if number < MIN_MATCHED:
        raise BadInputError(
            f"Only {number} stars agree with the reference catalogue, fewer than {MIN_MATCHED}",
            f"{where}: {known} reference stars on or near the detector",
            "use a longer exposure, or a reference catalogue that covers this field",
        )
    if not fit.rms < LARGEST_RMS:
        raise BadInputError(
            f"The astrometric fit leaves {fit.rms:.2f} pixels, more than {LARGEST_RMS:g}",
            f"{where}: {number} of {known} reference stars",
            "look at the image: stars may be trailed or out of focus",
        )


class _Mapped:
    """A WCS seen through a map of pixels; what `sip_wcs` asks of a WCS."""

    def __init__(self, wcs: WCS, pixels: PixelMap) -> None:
        self.wcs, self.pixels = wcs, pixels

    def all_pix2world(self, *position: Any) -> Any:
        """Return ICRS degrees as `astropy.wcs.WCS.all_pix2world` does."""
        *points, origin = position
        if len(points) == 1:
            x, y = np.asarray(points[0], dtype=float).T
            return np.column_stack(self.wcs.all_pix2world(*self.pixels.inverse(x, y), origin))
        return self.wcs.all_pix2world(*self.pixels.inverse(*points), origin)

"""Subtraction of a template from a visit image, and the table of what changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.images import VisitImage

from tololo.reduction.formats.images import Planes, VisitContext, planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.obs_info import visit_of
from tololo.reduction.formats.projection import pixel_to_sky
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.ids import source_ids
from tololo.reduction.kernels.diasource import measure_difference
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.subtraction import Subtraction, subtract
from tololo.reduction.template import DetectorTemplate

KERNEL_STAR_SNR = 20.0
"""Signal to noise of the stars that the PSF matching is fitted on."""

_FLAG_PLANES = {
    "bad": "BAD",
    "saturated": "SATURATED",
    "cr": "COSMIC_RAY",
    "edge": "NO_DATA",
    "interpolated": "INTERPOLATED",
}


@dataclass
class Difference:
    """A difference image with its sources."""

    planes: Planes
    psf: PixelPsf
    sources: Table
    metadata: dict[str, Any]

    @property
    def description(self) -> str:
        """The result in one line."""
        good = int(np.count_nonzero(self.sources["rejection"] == ""))
        m = self.metadata
        return (
            f"{m['CONVOLVED']} convolved (kernel on {m['KERNEL STARS']} stars, {m['FITTED ON']}), flux ratio "
            f"{m['FLUX RATIO']:.3f}, noise {m['NOISE RATIO']:.3f} of expected, "
            f"{len(self.sources)} detections, {good} without objection"
        )


def difference(science: VisitImage, stars: Table, template: DetectorTemplate, threshold: float) -> Difference:
    """Match the PSFs, subtract, detect and measure.

    Parameters
    ----------
    science : `lsst.images.VisitImage`
        Calibrated image, nJy.
    stars : `astropy.table.Table`
        Its sources (`single_visit_star`).
    template : `DetectorTemplate`
        On the same pixels.
    threshold : `float`
        Detection limit, sigma.

    Raises
    ------
    NothingToDoError
        Too few pixels or stars are left to fit a kernel on.
    """
    planes = planes_of(science)
    psf = from_piff(science.psf)
    ny, nx = planes.image.shape
    chosen = stars[(np.asarray(stars["snr"]) > KERNEL_STAR_SNR) & ~np.asarray(stars["flags"], dtype=bool)]
    result = subtract(
        planes.image,
        planes.variance,
        planes.bad,
        template.planes.image,
        template.planes.variance,
        template.planes.bad,
        np.asarray(chosen["x"], dtype=float),
        np.asarray(chosen["y"], dtype=float),
        science_fwhm=psf.fwhm((nx - 1) / 2, (ny - 1) / 2),
        template_fwhm=template.fwhm,
        science_psf=psf,
    )
    bits = _bits(planes, template.planes, result)
    context = VisitContext.from_visit_image(science)
    columns = measure_difference(
        result,
        planes.image,
        planes.variance,
        planes.bad,
        psf,
        planes={name: (bits & BIT[plane]) != 0 for name, plane in _FLAG_PLANES.items()},
        inexact=(bits & BIT["INEXACT_PSF"]) != 0,
        threshold=threshold,
        pixel_scale=science.summary_stats.pixelScale,
    )
    return Difference(
        Planes(result.difference, result.variance, bits),
        result.psf,
        _table(columns, context),
        {
            "CONVOLVED": result.convolved,
            "FITTED ON": result.fitted_on,
            "KERNEL STARS": result.n_stars,
            "FLUX RATIO": result.flux_ratio,
            "NOISE RATIO": result.noise_ratio,
            "DECORRELATED": result.decorrelated,
        },
    )


def _bits(science: Planes, template: Planes, result: Subtraction) -> Any:
    """Join the masks: the science image's planes, the template's saturation, what the kernel spoils."""
    bits = science.bits.copy()
    bits[(template.bits & BIT["SATURATED"]) != 0] |= BIT["SATURATED_TEMPLATE"]
    bits[~np.isfinite(result.difference)] |= BIT["NO_DATA"]
    bits[result.bad & (bits == 0)] |= BIT["SUSPECT"]
    bits |= template.bits & BIT["INEXACT_PSF"]
    return bits


def _table(columns: dict[str, Any], context: VisitContext) -> Table:
    """Add ids, time and sky position to what the pixels give."""
    visit, n = visit_of(context.obs_info), len(columns["x"])
    x, y = np.asarray(columns["x"]), np.asarray(columns["y"])
    ra, dec = pixel_to_sky(context.sky_projection, x, y)
    ra_next, dec_next = pixel_to_sky(context.sky_projection, x + 1, y)
    scale = np.hypot((ra_next - ra) * np.cos(np.radians(dec)), dec_next - dec)
    return Table(
        {
            "diaSourceId": source_ids(visit, context.detector, n),
            "visit": np.full(n, visit, np.int64),
            "detector": np.full(n, context.detector, np.int16),
            "band": np.full(n, context.band),
            "midpointMjdTai": np.full(n, context.midpoint_mjd_tai),
            "ra": ra,
            "dec": dec,
            "raErr": np.asarray(columns["xErr"]) * scale,
            "decErr": np.asarray(columns["yErr"]) * scale,
            **{name: np.asarray(values) for name, values in columns.items()},
        }
    )

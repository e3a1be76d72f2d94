"""Subtraction of a template from a visit image, and the table of what changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.images import VisitImage
from lsst.images.psfs import PiffWrapper
from numpy.typing import NDArray

from tololo.facility.difference_limits import DifferenceLimits
from tololo.facility.errors import NothingToDoError
from tololo.reduction.formats.images import Planes, VisitContext, planes_of
from tololo.reduction.formats.masks import BIT, UNUSABLE
from tololo.reduction.formats.obs_info import visit_of
from tololo.reduction.formats.projection import pixel_to_sky
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.ids import source_ids
from tololo.reduction.kernels.diaflags import joined_bits
from tololo.reduction.kernels.diasource import measure_difference
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.subtraction import Method, Subtraction, subtract
from tololo.reduction.reliability import BY_HAND, ReliabilityModel, reliability_by_hand
from tololo.reduction.template import DetectorTemplate

KERNEL_STAR_SNR = 20.0
"""Signal to noise of the stars that the PSF matching is fitted on."""

METHODS: tuple[Method, ...] = ("alard_lupton", "zogy")

_FLAG_PLANES = {
    "bad": BIT["BAD"],
    "saturated": BIT["SATURATED"],
    "cr": BIT["COSMIC_RAY"],
    "edge": BIT["NO_DATA"] | BIT["DETECTION_EDGE"],
    "nodata": BIT["NO_DATA"],
    "interpolated": BIT["INTERPOLATED"],
    "suspect": BIT["SUSPECT"],
    "streak": BIT["STREAK"],
    "saturatedTemplate": BIT["SATURATED_TEMPLATE"],
    "inexactPsf": BIT["INEXACT_PSF"],
    "injected": 1 << 20,
}
"""Bits of the columns pixelFlags_*."""

_INJECTED_PLANE = "INJECTED"
"""Mask plane of images with injected sources, which no other image has."""


@dataclass(frozen=True)
class DifferenceSettings:
    """How detectors are differenced.

    Attributes
    ----------
    threshold : `float`
        Detection limit on the score, sigma.
    method : `str`
        ``alard_lupton`` or ``zogy``.
    limits : `DifferenceLimits`
    model : `ReliabilityModel`, optional
        Without one the reliability is a ranking set by hand.
    """

    threshold: float = 5.0
    method: Method = "alard_lupton"
    limits: DifferenceLimits = field(default_factory=DifferenceLimits)
    model: ReliabilityModel | None = None


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


def difference(
    science: VisitImage, stars: Table, template: DetectorTemplate, settings: DifferenceSettings
) -> Difference:
    """Match the PSFs, subtract, detect and measure.

    Parameters
    ----------
    science : `lsst.images.VisitImage`
        Calibrated image, nJy.
    stars : `astropy.table.Table`
        Its sources (`single_visit_star`).
    template : `DetectorTemplate`
        On the same pixels.
    settings : `DifferenceSettings`

    Raises
    ------
    NothingToDoError
        There is no PSF model, or too few pixels or stars are left to fit a kernel on.
    """
    planes, psf = planes_of(science), _psf_of(science)
    bad = (planes.bits & UNUSABLE) != 0
    ny, nx = planes.image.shape
    chosen = stars[(np.asarray(stars["snr"]) > KERNEL_STAR_SNR) & ~np.asarray(stars["flags"], dtype=bool)]
    result = subtract(
        planes.image,
        planes.variance,
        bad,
        template.planes.image,
        template.planes.variance,
        (template.planes.bits & UNUSABLE) != 0,
        np.asarray(chosen["x"], dtype=float),
        np.asarray(chosen["y"], dtype=float),
        science_fwhm=psf.fwhm((nx - 1) / 2, (ny - 1) / 2),
        template_fwhm=template.fwhm,
        science_psf=psf,
        template_psf=template.psf,
        template_covariance=template.covariance,
        method=settings.method,
    )
    bits = _bits(planes, template.planes, result)
    context = VisitContext.from_visit_image(science)
    columns = measure_difference(
        result,
        planes.image,
        planes.variance,
        bad,
        psf,
        bits=_with_injected(bits, science),
        planes=_FLAG_PLANES,
        threshold=settings.threshold,
        limits=settings.limits,
        pixel_scale=science.summary_stats.pixelScale,
    )
    model = settings.model
    columns["reliability"] = reliability_by_hand(columns) if model is None else model.apply(columns)
    # What is forced on the difference later knows of these pixels by the mask alone; they hold no light.
    bits[result.bad] |= BIT["SPOILED"]
    version = BY_HAND if model is None else model.version
    columns["reliabilityVersion"] = np.full(len(columns["x"]), version)
    return Difference(
        Planes(result.difference, result.variance, bits),
        result.psf,
        _table(columns, context),
        {
            "METHOD": result.method,
            "CONVOLVED": result.convolved,
            "FITTED ON": result.fitted_on,
            "KERNEL STARS": result.n_stars,
            "FLUX RATIO": result.flux_ratio,
            "NOISE RATIO": result.noise_ratio,
            "DECORRELATED": result.decorrelated,
            "SCORE SCATTER": result.score_scatter,
            "RELIABILITY": version,
        },
    )


def _bits(science: Planes, template: Planes, result: Subtraction) -> NDArray[np.int32]:
    """Join the masks: the science image's planes, the template's saturation, what the kernel spoils."""
    return joined_bits(
        science.bits,
        template.bits,
        result.difference,
        result.bad,
        (BIT["SATURATED"], BIT["SATURATED_TEMPLATE"], BIT["NO_DATA"], BIT["SUSPECT"], BIT["INEXACT_PSF"]),
    )


def _table(columns: dict[str, Any], context: VisitContext) -> Table:
    """Add ids, time and sky position to what the pixels give; angles become bearings (east of north)."""
    visit, n = visit_of(context.obs_info), len(columns["x"])
    x, y = np.asarray(columns["x"]), np.asarray(columns["y"])
    projection = context.sky_projection
    ra, dec = pixel_to_sky(projection, x, y)
    covariance = sky_covariance(projection, x, y, *(columns[name] for name in ("xErr", "yErr", "x_y_Cov")))
    columns = dict(columns)
    trail_x, trail_y = columns.pop("trailX"), columns.pop("trailY")
    columns["trailRa"], columns["trailDec"] = pixel_to_sky(projection, trail_x, trail_y)
    for name in ("dipoleAngle", "trailAngle"):
        columns[name] = bearing(projection, x, y, np.asarray(columns[name]))
    # A line has no direction.
    columns["trailAngle"] = np.mod(columns["trailAngle"], 180.0)
    return Table(
        {
            "diaSourceId": source_ids(visit, context.detector, n),
            "visit": np.full(n, visit, np.int64),
            "detector": np.full(n, context.detector, np.int16),
            "band": np.full(n, context.band),
            "midpointMjdTai": np.full(n, context.midpoint_mjd_tai),
            "ra": ra,
            "dec": dec,
            "raErr": np.sqrt(covariance[:, 0, 0]),
            "decErr": np.sqrt(covariance[:, 1, 1]),
            "ra_dec_Cov": covariance[:, 0, 1],
            **{name: np.asarray(values) for name, values in columns.items()},
        }
    )


def bearing(
    projection: Any, x: NDArray[np.float64], y: NDArray[np.float64], angle: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return directions on the pixels (degrees from x towards y) as bearings, degrees from north to east.

    From -180 to 180; NaN where the direction or the position is.
    """
    radians = np.radians(angle)
    ra, dec = pixel_to_sky(projection, x, y)
    ra_next, dec_next = pixel_to_sky(projection, x + np.cos(radians), y + np.sin(radians))
    east = ((ra_next - ra + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec))
    return np.asarray(np.degrees(np.arctan2(east, dec_next - dec)))


def sky_covariance(
    projection: Any,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    x_error: NDArray[np.float64],
    y_error: NDArray[np.float64],
    x_y: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the covariance of right ascension (times cos dec) and declination, degrees^2, (n, 2, 2).

    Parameters
    ----------
    projection : `lsst.images.SkyProjection`
    x, y, x_error, y_error, x_y : `numpy.ndarray`, (n,)
        Positions, their errors and covariance: pixels, and pixels^2. NaN gives NaN.
    """
    ra, dec = pixel_to_sky(projection, x, y)
    steps = np.empty((x.size, 2, 2))
    for axis, (dx, dy) in enumerate(((1.0, 0.0), (0.0, 1.0))):
        ra_next, dec_next = pixel_to_sky(projection, x + dx, y + dy)
        steps[:, 0, axis] = ((ra_next - ra + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec))
        steps[:, 1, axis] = dec_next - dec
    own = np.empty((x.size, 2, 2))
    own[:, 0, 0], own[:, 1, 1] = np.asarray(x_error) ** 2, np.asarray(y_error) ** 2
    own[:, 0, 1] = own[:, 1, 0] = x_y
    return steps @ own @ steps.transpose(0, 2, 1)


def _psf_of(science: VisitImage) -> PixelPsf:
    if not isinstance(science.psf, PiffWrapper):
        raise NothingToDoError(
            "The visit image has no PSF model that can be used", "difference imaging", "calibrate it again"
        )
    return from_piff(science.psf)


def _with_injected(bits: NDArray[np.int32], science: VisitImage) -> NDArray[np.int32]:
    """Add the plane of injected sources, of which the joined mask knows nothing."""
    if _INJECTED_PLANE not in science.mask.schema.names:
        return bits
    marked = bits.copy()
    marked[science.mask.get(_INJECTED_PLANE)] |= _FLAG_PLANES["injected"]
    return marked

"""The stars of an image as they stand in a fit, and the image less all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from tololo.reduction.kernels.blends import blend_errors, close_groups
from tololo.reduction.kernels.planes import Float32Image
from tololo.reduction.kernels.psf import PixelPsf, sizes_at
from tololo.reduction.kernels.stamps import add_model_error
from tololo.reduction.kernels.starfit import BLENDED, FAILED, fit_sweeps, prepare
from tololo.reduction.kernels.starmeasure import measure_points, measure_stars

SWEEPS, FLUX_SWEEPS = 10, 5
"""Most sweeps over the stars: fitting fluxes and positions, then the fluxes where the positions are."""

PHOTOMETRY_DTYPE = np.dtype(
    [
        *((name, "f8") for name in ("x", "y", "x_err", "y_err", "flux", "flux_err")),
        *((name, "f8") for name in ("chi2", "good_fraction", "extendedness", "extendedness_err", "fwhm")),
        ("xy_cov", "f8"),
        ("flags", "i4"),
    ]
)


class StarField:
    """Stars that are added and fitted.

    Parameters
    ----------
    data, noise, masked : `numpy.ndarray`, (height, width)
        As `check_planes` returns them; ``data`` is not changed.
    psf : `PixelPsf`
        Fluxes are those within its stamp.

    Attributes
    ----------
    residual : `numpy.ndarray`, (height, width), float32
        The image less all stars.
    places : `numpy.ndarray`, (n, 3)
        x, y (pixels), flux.
    flags : `numpy.ndarray`, (n,), int32
    """

    def __init__(
        self, data: Float32Image, noise: Float32Image, masked: NDArray[np.bool_], psf: PixelPsf
    ) -> None:
        self.noise, self.masked, self.psf = noise, masked, psf
        self.residual = data.copy()
        self.places, self.start = np.empty((0, 3)), np.empty((0, 2))
        self.corner = np.empty((0, 2), np.int64)
        self.flags, self.due = np.empty(0, np.int32), np.empty(0, np.bool_)
        self.strayed = np.empty(0, np.int8)
        self.stamps, self.weights = np.empty((2, 0, psf.size, psf.size), np.float32)
        self.coefficients = psf.coefficients.astype(np.float32)

    def add(self, x: NDArray[np.floating], y: NDArray[np.floating], flux: NDArray[np.floating]) -> None:
        """Take stars in with a rough flux, and subtract them."""
        number, size = len(x), self.psf.size
        start, rough = np.column_stack([x, y]).astype(np.float64), np.array(flux, dtype=np.float64)
        corner, flags = np.empty((number, 2), np.int64), np.zeros(number, np.int32)
        stamps, weights = np.empty((2, number, size, size), np.float32)
        prepare(
            self.residual, self.noise, self.masked, self.coefficients, self.psf.frame, start, corner, rough,
            stamps, weights, flags,
        )  # fmt: skip
        self.places = np.concatenate([self.places, np.column_stack([start, rough])])
        self.start, self.corner = np.concatenate([self.start, start]), np.concatenate([self.corner, corner])
        self.flags, self.due = np.append(self.flags, flags), np.append(self.due, np.ones(number, bool))
        self.strayed = np.append(self.strayed, np.zeros(number, np.int8))
        if len(self.stamps):
            stamps = np.concatenate([self.stamps, stamps])
            weights = np.concatenate([self.weights, weights])
        self.stamps, self.weights = stamps, weights

    def settle(self, order: NDArray[np.int64] | None = None, *, centre: bool = True) -> None:
        """Fit the stars that are due, and whom they disturb.

        Parameters
        ----------
        order : `numpy.ndarray`, (n,), int64, optional
            In which they take their turns; by default the brightest first.
        centre : `bool`
            Fit the positions too.
        """
        if order is None:
            order = np.argsort(-self.places[:, 2], kind="stable").astype(np.int64)
        neighbours = self._neighbours()
        for sweeps, free in ((SWEEPS, True), (FLUX_SWEEPS, False))[0 if centre else 1 :]:
            fit_sweeps(
                self.residual, self.noise, self.masked, self.coefficients, self.psf.frame, self.start,
                self.corner, self.stamps, self.weights, self.places, self.flags, self.strayed,
                order, self.due, *neighbours, sweeps, free,
            )  # fmt: skip
        self.due[:] = False

    def measured(self, *, centred: bool = True, shapes: bool = True) -> NDArray[np.void]:
        """Return the table of the stars, as `tololo.reduction.kernels.photometry.psf_photometry` does."""
        number, shape = len(self.places), self.noise.shape
        x, y, flux = self.places.T.copy()
        table = np.full((number, 9), np.nan)
        if shapes:
            fwhm, point = sizes_at(self.psf, (shape[0], shape[1]), x, y)
            measure_stars(
                self.residual, self.noise, self.masked, self.coefficients, self.psf.frame, self.places, point,
                self.flags, table,
            )  # fmt: skip
            table[:, 7] *= fwhm
        else:
            measure_points(
                self.residual, self.noise, self.stamps, self.weights, self.corner, flux, self.flags, table
            )
        stars = np.zeros(number, dtype=PHOTOMETRY_DTYPE)
        stars["x"], stars["y"], stars["flux"] = x, y, flux
        names = ("x_err", "y_err", "flux_err", "chi2", "good_fraction", "extendedness", "extendedness_err")
        for column, name in enumerate(names):
            stars[name] = table[:, column]
        stars["fwhm"] = table[:, 7]
        usable = np.flatnonzero((self.flags & FAILED) == 0)
        middle = self.psf.fwhm(shape[1] / 2, shape[0] / 2)
        blended, groups = close_groups(x[usable], y[usable], middle, self.psf.size / 2)
        self.flags[usable[blended]] |= BLENDED
        groups = np.where(groups >= 0, usable[groups], -1)
        errors = np.zeros((len(groups), 3))
        blend_errors(
            self.noise, self.masked, self.stamps, self.corner, flux, groups, 3 if centred else 1, errors
        )
        for column, name in enumerate(("flux_err", "x_err", "y_err") if centred else ("flux_err",)):
            stars[name][groups[:, 0]] = np.fmax(stars[name][groups[:, 0]], errors[:, column])
        stars["xy_cov"] = table[:, 8] * stars["x_err"] * stars["y_err"]
        failed = (self.flags & FAILED) > 0
        for name in ("flux", "flux_err", "x_err", "y_err", "xy_cov", "chi2"):
            stars[name][failed] = np.nan
        if not centred:
            stars["x_err"] = stars["y_err"] = stars["xy_cov"] = np.nan
        stars["flags"] = self.flags
        return stars

    def inflated_noise(self, model_error: float) -> Float32Image:
        """Return the variance with the square of a part of each star's light added to it."""
        noise = self.noise.copy()
        add_model_error(noise, self.stamps, self.corner, self.places[:, 2].copy(), model_error)
        return noise

    def _neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return whose stamps overlap: first[n] to first[n + 1] of a list, and how much of each."""
        number, size = len(self.places), self.psf.size
        first = np.zeros(number + 1, np.int64)
        if number < 2:
            return first, np.empty(0, np.int64), np.empty(0)
        pairs = cKDTree(self.places[:, :2]).query_pairs(size, output_type="ndarray").astype(np.int64)
        both = np.concatenate([pairs, pairs[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        np.cumsum(np.bincount(both[:, 0], minlength=number), out=first[1:])
        dx, dy = (self.places[both[:, 0], :2] - self.places[both[:, 1], :2]).T
        felt = np.interp(np.hypot(dx, dy), *self._overlap())
        return first, np.ascontiguousarray(both[:, 1]), np.asarray(felt, np.float64)

    def _overlap(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how far a change of a star, in its standard errors, is felt at which distance.

        It is the correlation of the two stamps; three times that, as a bright star's error may be so much
        larger than its faint neighbour's.
        """
        height, width = self.noise.shape
        kernel = self.psf.kernel(width / 2, height / 2)
        padded = np.pad(kernel, self.psf.size)
        power = np.abs(np.fft.rfft2(padded)) ** 2
        correlation = np.fft.fftshift(np.fft.irfft2(power, padded.shape))
        middle = np.unravel_index(np.argmax(correlation), correlation.shape)
        distance = np.arange(self.psf.size + 1.0)
        rings = [
            ndimage.map_coordinates(
                correlation,
                [middle[0] + distance * np.sin(angle), middle[1] + distance * np.cos(angle)],
                order=1,
            )
            for angle in np.arange(8) * np.pi / 8
        ]
        return distance, np.asarray(3 * np.max(rings, axis=0) / correlation.max())

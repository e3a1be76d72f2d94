"""Forced photometry at given sky positions on a difference image and its visit image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.images import DifferenceImage, VisitImage
from numpy.typing import ArrayLike, NDArray

from tololo.reduction.formats.images import Planes, planes_of
from tololo.reduction.formats.projection import sky_to_pixel
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.kernels.photometry import forced_psf_photometry
from tololo.reduction.kernels.psf import PixelPsf

LEAST_GOOD, LEAST_GOOD_DIFFERENCE = 0.5, 0.7
"""Part of a star's light that has to lie on good pixels of the visit image, and of the difference.

Beside bad pixels the noise of a difference is whitened without what they hide, and light is 10 to 50 % off
where more of it is missing; a detection's own limit is the same.
"""


@dataclass
class ForcedImages:
    """The two images of a detector on which fluxes are forced, with their PSFs."""

    difference: Planes
    difference_psf: PixelPsf
    science: Planes
    science_psf: PixelPsf
    projection: Any

    @classmethod
    def of(cls, difference: DifferenceImage, science: VisitImage) -> ForcedImages:
        """Take planes and PSFs of images that are read back."""
        return cls(
            planes_of(difference),
            from_piff(difference.psf),
            planes_of(science),
            from_piff(science.psf),
            science.sky_projection,
        )

    def measure(self, ra: ArrayLike, dec: ArrayLike) -> Table:
        """Fit the PSF at sky positions, without centring.

        Parameters
        ----------
        ra, dec : array_like, (n,)
            ICRS degrees.

        Returns
        -------
        table : `astropy.table.Table`
            ``x y`` (pixels), ``psfFlux psfFluxErr`` on the difference and ``scienceFlux scienceFluxErr`` on
            the visit image (nJy, NaN where it cannot be measured), ``flags`` and ``on_image``.
        """
        x, y = sky_to_pixel(
            self.projection, np.atleast_1d(ra).astype(float), np.atleast_1d(dec).astype(float)
        )
        ny, nx = self.difference.image.shape
        inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
        flux, error, bad = self._fluxes(
            self.difference, self.difference_psf, x, y, inside, LEAST_GOOD_DIFFERENCE
        )
        science, science_error, _ = self._fluxes(self.science, self.science_psf, x, y, inside, LEAST_GOOD)
        return Table(
            {
                "x": x,
                "y": y,
                "psfFlux": flux,
                "psfFluxErr": error,
                "scienceFlux": science,
                "scienceFluxErr": science_error,
                "flags": bad,
                "on_image": inside,
            }
        )

    @staticmethod
    def _fluxes(
        planes: Planes,
        psf: PixelPsf,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        inside: NDArray[np.bool_],
        least_good: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        flux, error = np.full(x.size, np.nan), np.full(x.size, np.nan)
        bad = np.ones(x.size, bool)
        if inside.any():
            fit = forced_psf_photometry(planes.image, planes.variance, planes.bad, psf, x[inside], y[inside])
            usable = np.isfinite(fit["flux_err"]) & (fit["good_fraction"] > least_good)
            flux[inside] = np.where(usable, fit["flux"], np.nan)
            error[inside] = np.where(usable, fit["flux_err"], np.nan)
            bad[inside] = ~usable
        return flux, error, bad

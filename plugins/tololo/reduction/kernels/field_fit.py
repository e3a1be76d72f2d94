"""All stars of a field at once: fitted, their hidden neighbours found, fitted again with these, and measured.

It does what `detect_sources` with deblending and `psf_photometry` do after one another, in one fit: each star
keeps its PSF, its stamp and its weights from round to round, and what is known of it to begin with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.detection import hidden_sources
from tololo.reduction.kernels.planes import Float32Image, check_planes
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.star_field import StarField

THRESHOLD = 5.0


def fit_field(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    bad: NDArray[np.bool_],
    psf: PixelPsf,
    found: NDArray[np.void],
) -> tuple[NDArray[np.void], Float32Image]:
    """Fit the PSF to sources and to those that hide beside them.

    Parameters
    ----------
    image, variance, bad
        As for `psf_photometry`.
    psf : `PixelPsf`
        Fluxes are those within its stamp.
    found : structured `numpy.ndarray`, (n,)
        x, y (pixels), flux of the sources that stand out by themselves, as `detect_sources` finds them.

    Returns
    -------
    stars : structured `numpy.ndarray`, (m,)
        As `psf_photometry` returns them, those of ``found`` first.
    residual : `numpy.ndarray`, (height, width), float32
        The image less all of them; 0 on bad pixels that have no number.
    """
    field = StarField(*check_planes(image, variance, bad), psf)
    field.add(found["x"], found["y"], found["flux"])
    field.settle()
    hidden = hidden_sources(field, THRESHOLD)
    if hidden.size:
        field.add(hidden["x"], hidden["y"], hidden["flux"])
        field.settle()
    return field.measured(), field.residual

"""PSF-matched warps: each warp convolved so that its stars have one profile, that of a common seeing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.psf import half_maximum_width
from tololo.reduction.kernels.warp import noise_power
from tololo.reduction.patch_warp import PSF_SIZE, PatchWarp

BETA = 3.5
"""Exponent of the Moffat profile of the target: its wings are no fainter than those of the sky's seeing."""

GRID = 128
"""Side of the grid on which spectra are divided, pixels."""

REGULAR = 1e-3
"""Of a PSF's power at zero frequency: what it has less than that is not restored."""

LEAST_LIGHT = 0.5
"""Part of the kernel that must fall on good pixels."""

WHOLE_LIGHT = 0.99
"""Part of the kernel below which a pixel is said to be interpolated."""

TOO_WIDE = 1.02
"""A warp of which the seeing is so many times the target's cannot be brought to it."""


def target_psf(fwhm: float, size: int = PSF_SIZE) -> NDArray[np.float64]:
    """Return the common PSF: a round Moffat profile.

    Parameters
    ----------
    fwhm : `float`
        Pixels.
    size : `int`
        Width of the stamp.

    Returns
    -------
    psf : `numpy.ndarray`, (size, size)
        Unit sum, centred.
    """
    offset = np.arange(size) - size // 2
    core = fwhm / 2 / np.sqrt(2 ** (1 / BETA) - 1)
    psf = (1 + (offset**2 + offset[:, None] ** 2) / core**2) ** -BETA
    return np.asarray(psf / psf.sum())


def matching_kernel(psf: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the kernel that makes one PSF the other.

    The spectra's ratio T P* / (|P|^2 + e^2), with `REGULAR` for e: where the PSF leaves nothing the target,
    which is wider, asks for nothing (as in Wiener's filter).

    Parameters
    ----------
    psf, target : `numpy.ndarray`, (size, size)
        Centred, of unit sum; the target is the wider one.

    Returns
    -------
    kernel : `numpy.ndarray`, (size, size)
        Unit sum: stars keep their flux.
    """
    size = psf.shape[0]

    def spectrum(stamp: NDArray[np.float64]) -> NDArray[np.complex128]:
        padded = np.zeros((GRID, GRID))
        padded[:size, :size] = stamp
        return np.asarray(fft.rfft2(np.roll(padded, (-(size // 2),) * 2, axis=(0, 1))))

    of_psf, of_target = spectrum(psf), spectrum(target)
    ratio = of_target * of_psf.conj() / (np.abs(of_psf) ** 2 + REGULAR**2)
    kernel = np.roll(fft.irfft2(ratio, s=(GRID, GRID)), (size // 2,) * 2, axis=(0, 1))[:size, :size]
    return np.asarray(kernel / kernel.sum())


def match_warp(warped: PatchWarp, fwhm: float, where: str) -> PatchWarp:
    """Convolve a warp to a common seeing, cell by cell.

    Parameters
    ----------
    warped : `PatchWarp`
        As `tololo.reduction.patch_warp.warp_visit` makes it with ``white=True``: its variance is that which
        the pixels had before resampling correlated them.
    fwhm : `float`
        Seeing of the result, pixels.
    where : `str`
        What is said in errors: visit and patch.

    Returns
    -------
    matched : `PatchWarp`
        Its variance is that of single pixels, the resampling's share in the smoothing included; its PSFs are
        those that the kernels have made. INTERPOLATED is set where bad pixels lie under the kernel.

    Raises
    ------
    BadInputError
        If the seeing of the warp is worse than the target's, or no cell has a PSF.
    """
    known = np.isfinite(warped.psfs).all(axis=(2, 3))
    if not known.any():
        raise BadInputError("The warp has no PSF", where, "look at the PSF of its visit images")
    own = float(np.median([half_maximum_width(psf) for psf in warped.psfs[known]]))
    if own > TOO_WIDE * fwhm:
        raise BadInputError(
            f"The seeing of {own:.2f} pixels is worse than the target of {fwhm:.2f}",
            where,
            "leave the visit out, or choose a larger fwhm",
        )
    source, bad = warped.planes, warped.planes.bad
    good = np.where(bad, 0.0, 1.0)
    image, variance = np.where(bad, 0.0, source.image), np.where(bad, 0.0, source.variance)
    matched = Planes(
        np.full_like(source.image, np.nan),
        np.full_like(source.variance, np.nan),
        source.bits.copy(),
        source.x0,
        source.y0,
    )
    psfs = np.full_like(warped.psfs, np.nan)
    target = target_psf(fwhm)
    rows, columns = (n // cells for n, cells in zip(image.shape, known.shape, strict=True))
    for i, j in np.argwhere(known):
        cell = np.s_[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        kernel = matching_kernel(warped.psfs[i, j], target)
        light = _convolve(image, kernel, cell)
        share = _convolve(good, kernel, cell)
        noise = _convolve(variance, kernel**2, cell) * correlation(kernel)
        usable = ~bad[cell] & (share > LEAST_LIGHT)
        with np.errstate(divide="ignore", invalid="ignore"):
            matched.image[cell] = np.where(usable, light / share, np.nan)
            matched.variance[cell] = np.where(usable, noise / share**2, np.nan)
        matched.bits[cell][share < WHOLE_LIGHT] |= BIT["INTERPOLATED"]
        made = signal.fftconvolve(warped.psfs[i, j], kernel, mode="same")
        psfs[i, j] = made / made.sum()
    matched.bits[~np.isfinite(matched.image)] |= BIT["NO_DATA"]
    return PatchWarp(matched, psfs)


def correlation(kernel: NDArray[np.float64]) -> float:
    """Return what a kernel leaves of the noise of resampled pixels, over what it leaves of white noise.

    Resampling takes power from the finest detail of the noise and leaves the rest alone; it is averaged over
    the positions of pixels between pixels.
    """
    power = np.abs(np.fft.fft2(kernel, s=(GRID, GRID))) ** 2
    along = noise_power(np.fft.fftfreq(GRID))
    return float((power * along * along[:, None]).sum() / power.sum())


def _convolve(
    plane: NDArray[np.floating], kernel: NDArray[np.float64], cell: tuple[slice, slice]
) -> NDArray[np.float64]:
    """Convolve a piece of a plane, which is zero beyond its edge."""
    half = kernel.shape[0] // 2
    (top, left), (bottom, right) = (s.start for s in cell), (s.stop for s in cell)
    rows = slice(max(0, top - half), min(plane.shape[0], bottom + half))
    columns = slice(max(0, left - half), min(plane.shape[1], right + half))
    smooth = signal.fftconvolve(plane[rows, columns], kernel, mode="same")
    y, x = top - rows.start, left - columns.start
    return np.asarray(smooth[y : y + bottom - top, x : x + right - left])

"""Artefacts that move: what is in one warp of a patch and not in the others.

The model is LSST's CompareWarp (DMTN-080): warps that are brought to a common PSF are compared with the
static sky, and connected regions that deviate in one or two epochs only are left out of the coadd. Here each
warp is convolved with the PSF of the static sky and the static sky with the PSF of the warp: their difference
is free of stars whatever the seeing, and is smoothed just as the search for faint things wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.coadd_input import Cube
from tololo.reduction.kernels.clipping import disagreeing
from tololo.reduction.kernels.cross_convolution import CrossConvolution, Spectrum
from tololo.reduction.kernels.stack import Method, stack

SEEING_REACH = 3
"""Pixels; how far the light lies from which seeing moves some to a pixel, or takes it."""

FAINTEST_WING = 1e-3
"""Of the peak: PSFs are compared where they are brighter."""

SEED, FAINT = 5.0, 2.5
"""Standard deviations: a region has a pixel above the first and reaches as far as the second."""

RAY = 6.0
"""Standard deviations of a single pixel that is an artefact by itself: cosmic rays are sharper than a PSF."""

MODEL_ERROR = 0.05
"""Part of the static light by which a warp may differ for errors of its PSF and its positions."""

CORE = 4.0
"""Standard deviations: where a region is brighter it is counted how many epochs deviate like it, by half."""

DRAWN = 8.0
"""Standard deviations by which warps may differ from a median that an artefact in another has drawn along:
half a sigma of each pixel, and that the same way all over the artefact."""

SAME_SKY = 0.8
"""Part of the warps without which the median of the others may have another PSF."""

GROWTH = 2
"""Pixels of the half-size image by which regions are enlarged."""

MOST_EPOCHS = 2
"""In how many epochs at most a region of an artefact deviates; 1 where there are fewer than five."""


def find_artefacts(
    cube: Cube, psfs: Sequence[NDArray[np.float64] | None], method: Method
) -> NDArray[np.bool_]:
    """Find what is in one warp and not in the others.

    Parameters
    ----------
    cube : `Cube`
        Two or more warps.
    psfs : sequence of `numpy.ndarray`, (size, size), or `None`
        The PSF of each warp; where one is not known, no regions are looked for.
    method : `str`
        How the warps will be combined: ``meanclip`` looks for deviating pixels itself.

    Returns
    -------
    artefacts : `numpy.ndarray`, (n, ny, nx), `bool`
        Good pixels that are to be left out of each warp.

    Notes
    -----
    A source that deviates in more than `MOST_EPOCHS` epochs is a variable or a badly matched star and is left
    alone. Of two warps the brighter one is at fault: nothing tells a variable star from an artefact there.
    """
    n = len(cube.images)
    found = np.zeros(cube.images.shape, bool)
    if len(known := [psf for psf in psfs if psf is not None]) == n:
        _mark_regions(cube, known, found)
    if method != "meanclip":
        rays = disagreeing(cube.images, cube.variances, n_sigma=RAY, tolerance=seeing_tolerance(cube, psfs))
        for number in range(n):
            found[number] |= (rays & (np.uint64(1) << np.uint64(number))) != 0
    good = np.isfinite(cube.images)
    found &= good
    # Where all are at fault none is.
    found &= found.sum(axis=0, dtype=np.int16) < good.sum(axis=0, dtype=np.int16)
    return found


def seeing_tolerance(cube: Cube, psfs: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float32] | None:
    """Return by how much stars differ from input to input because of the seeing, as a variance.

    Around a star of flux F the inputs differ by F |P_i - P_j|. From the PSFs follows the largest part c that
    this makes of the star's light within `SEEING_REACH` pixels; so (c M / 2)^2, with M the brightest pixel of
    the inputs' median that is so near, lets no star be clipped for the seeing, however wide its range.

    Parameters
    ----------
    cube : `Cube`
        The warps.
    psfs : sequence of `numpy.ndarray`, (size, size), or `None`
        Their PSFs, `None` where one is not known.

    Returns
    -------
    tolerance : `numpy.ndarray`, (ny, nx), or `None`
        `None` where fewer than two PSFs are known.
    """
    stamps = np.array([psf for psf in psfs if psf is not None])
    if len(stamps) < 2:
        return None
    size = 2 * SEEING_REACH + 1
    others = [np.median(np.delete(stamps, n, axis=0), axis=0) for n in range(len(stamps))]
    change = max(_change(psf, other) for psf, other in zip(stamps, others, strict=True))
    # Of two inputs the median would hold what either of them has too much.
    method: Method = "min" if len(cube.images) == 2 else "median"
    common = stack(cube.images, cube.variances, cube.masks, None, method)
    light = np.nan_to_num(common.image - 3 * np.sqrt(common.variance), nan=0.0)
    tolerance: NDArray[np.float32] = (change / 2 * ndimage.maximum_filter(np.maximum(light, 0), size)) ** 2
    return tolerance.astype(np.float32, copy=False)


def _change(psf: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the largest difference of two PSFs, as a part of the light near by."""
    near = ndimage.maximum_filter(other, 2 * SEEING_REACH + 1)
    seen = near > FAINTEST_WING * other.max()
    return float((np.abs(psf - other)[seen] / near[seen]).max())


@dataclass
class _StaticSky:
    """What does not change from warp to warp, as far as a warp can be compared with it.

    Attributes
    ----------
    image, variance : `numpy.ndarray`, (ny, nx)
        The sky; zero and NaN where there is none.
    psf : `numpy.ndarray`, (size, size)
        Its PSF.
    share : `float`
        Part of its noise that it has in common with a warp.
    spectrum : `numpy.ndarray`
        Of the image.
    light : `numpy.ndarray`, half the size
        The brightest light near by, smoothed.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    psf: NDArray[np.float64]
    share: float
    spectrum: Spectrum
    light: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        image: NDArray[np.float32],
        variance: NDArray[np.float32],
        psf: NDArray[np.float64],
        share: float,
        cross: CrossConvolution,
    ) -> _StaticSky:
        image = np.nan_to_num(image, nan=0.0)
        spectrum = cross.spectrum(image)
        smooth = cross.image(spectrum * cross.of_stamp(psf))
        light = ndimage.maximum_filter(np.maximum(smooth, 0), 2 * SEEING_REACH - 1)
        return cls(image, variance, psf, share, spectrum, light)


def _static_skies(
    cube: Cube, psfs: Sequence[NDArray[np.float64]], cross: CrossConvolution
) -> list[_StaticSky]:
    """Return what each warp is compared with: the median of all, or of two warps the other one."""
    n = len(psfs)
    if n == 2:
        return [_StaticSky.of(cube.images[q], cube.variances[q], psfs[q], 0.0, cross) for q in (1, 0)]
    common = stack(cube.images, cube.variances, cube.masks, None, "median")
    # Where stars outshine the noise the median of the images has the median of the PSFs.
    middle = np.median(psfs, axis=0)
    return [_StaticSky.of(common.image, common.variance, middle, 1 / n, cross)] * n


def _mark_regions(cube: Cube, psfs: Sequence[NDArray[np.float64]], found: NDArray[np.bool_]) -> None:
    """Mark the connected regions that deviate in few epochs."""
    cross = CrossConvolution(cube.images.shape[1:], psfs[0].shape[0])
    number = np.isfinite(cube.images).sum(axis=0, dtype=np.int16)
    # At the edges of warps the smallest number of inputs counts.
    depth = ndimage.minimum_filter(cross.least(number), 3)
    skies = _static_skies(cube, psfs, cross)
    deviations = [
        _deviation(cube, p, psf, sky, depth, cross)
        for p, (psf, sky) in enumerate(zip(psfs, skies, strict=True))
    ]
    # An artefact draws the median along, and the other warps then deviate a little the other way.
    highest, lowest = np.max(deviations, axis=0), np.min(deviations, axis=0)
    for deviation in deviations:
        deviation[(deviation < 0) & (highest > SEED) & (-deviation < np.maximum(DRAWN, highest / 2))] = 0.0
        deviation[(deviation > 0) & (lowest < -SEED) & (deviation < np.maximum(DRAWN, -lowest / 2))] = 0.0
    most = np.where(depth < 5, 1, MOST_EPOCHS)
    for region, deviation in zip(found, deviations, strict=True):
        region[:] = cross.whole(_of_few_epochs(deviation, deviations, most))


def _deviation(
    cube: Cube,
    p: int,
    psf: NDArray[np.float64],
    sky: _StaticSky,
    depth: NDArray[np.int16],
    cross: CrossConvolution,
) -> NDArray[np.float32]:
    """Compare a warp with the static sky: by how many standard deviations it differs, at half the size."""
    n, own = len(cube.images), cube.images[p]
    missing = ~np.isfinite(own)
    # What is missing is taken from the static sky, which differs there by the seeing only.
    spectrum = cross.spectrum(np.where(missing, sky.image, own))
    difference = cross.image(spectrum * cross.of_stamp(sky.psf) - sky.spectrum * cross.of_stamp(psf))
    noise = cross.smooth(cube.variances[p]) * float((sky.psf**2).sum()) * (1 - 2 * sky.share)
    noise += cross.smooth(sky.variance) * float((psf**2).sum())
    near = ndimage.maximum_filter(cross.any(missing), 2 * SEEING_REACH - 1)
    other_sky = near | (depth < SAME_SKY * n)
    error = np.where(other_sky, max(_change(psf, sky.psf), MODEL_ERROR), MODEL_ERROR)
    deviation = difference / np.sqrt(noise)
    # Warped pixels are correlated, which makes what is smoothed noisier than their variances say.
    sample = deviation[1::3, 1::3]
    scatter = 1.4826 * float(np.nanmedian(np.abs(sample - np.nanmedian(sample))))
    deviation = difference / np.sqrt(noise * max(scatter, 1.0) ** 2 + (error * sky.light) ** 2)
    # Of two that disagree the brighter is at fault, and one alone has nothing to be compared with.
    deviation[(depth < 2) | ((depth == 2) & (deviation < 0)) | ~np.isfinite(deviation)] = 0.0
    return deviation.astype(np.float32, copy=False)


def _of_few_epochs(
    deviation: NDArray[np.float32], deviations: Sequence[NDArray[np.float32]], most: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Return the connected regions of which the better part deviates in few epochs, enlarged."""
    size = np.abs(deviation)
    labels, number = ndimage.label(size > FAINT, np.ones((3, 3)))
    seeded = np.zeros(number + 1, bool)
    seeded[labels[size > SEED]] = True
    inside = np.nonzero(seeded[labels] & (size > CORE))
    label, least = labels[inside], np.maximum(size[inside] / 2, FAINT)
    epochs = sum(np.abs(other[inside]) > least for other in deviations)
    few = np.bincount(label, epochs <= most[inside], number + 1)
    moving = few >= 0.5 * np.maximum(np.bincount(label, minlength=number + 1), 1)
    return np.asarray(ndimage.binary_dilation(moving[labels], np.ones((3, 3)), GROWTH))

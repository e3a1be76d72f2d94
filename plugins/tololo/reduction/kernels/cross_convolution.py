"""Cross-convolution: two images of one sky, each smoothed with the PSF of the other, hold the same stars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Plane = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

SMOOTHING = 5
"""Pixels of the half-size image over which variances are averaged, about as wide as two PSFs."""


class CrossConvolution:
    """Convolutions of images of one shape by way of their spectra, of which the results have half the size.

    What two PSFs have smoothed has no finer detail: every second pixel tells all, and the spectra are cut
    accordingly (a shift theorem, no approximation but for the power that a PSF has beyond half the Nyquist
    frequency).

    Parameters
    ----------
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the images.
    margin : `int`
        Pixels of zeros beyond the edge: no less than half the width of a PSF.
    """

    def __init__(self, shape: tuple[int, int], margin: int) -> None:
        self.shape = shape
        self.half = (-(-shape[0] // 2), -(-shape[1] // 2))
        self._size = [4 * int(fft.next_fast_len(-(-(length + margin) // 4), real=True)) for length in shape]
        rows, columns = self._size[0] // 2, self._size[1] // 2
        self._fy = fft.fftfreq(rows) / 2
        self._fx = fft.rfftfreq(columns) / 2

    def spectrum(self, image: Plane) -> Spectrum:
        """Return the lower half of the spectrum of an image (ny, nx) without missing pixels."""
        rows, columns = self._size[0] // 4, self._size[1] // 4
        whole = fft.rfft2(image, s=self._size)
        return np.concatenate([whole[:rows, : columns + 1], whole[-rows:, : columns + 1]])

    def of_stamp(self, stamp: NDArray[np.floating]) -> Spectrum:
        """Return the spectrum of a small centred image (size, size), by its few pixels."""
        offset = np.arange(stamp.shape[0]) - stamp.shape[0] // 2
        down = np.exp(-2j * np.pi * self._fy[:, None] * offset)
        across = np.exp(-2j * np.pi * offset[:, None] * self._fx)
        return np.asarray(down @ stamp @ across, dtype=np.complex64)

    def image(self, spectrum: Spectrum) -> Plane:
        """Return every second pixel of the image of a spectrum; pixel (j, i) is (2 j, 2 i) of the whole."""
        rows, columns = self._size[0] // 2, self._size[1] // 2
        whole = fft.irfft2(spectrum, s=(rows, columns))[: self.half[0], : self.half[1]]
        return np.asarray(whole / 4, dtype=np.float32)

    def smooth(self, variance: Plane) -> Plane:
        """Return the mean variance around every second pixel; missing pixels (NaN) do not count."""
        known = np.isfinite(variance)
        mean = ndimage.uniform_filter(self.mean(np.where(known, variance, 0)), SMOOTHING)
        share = ndimage.uniform_filter(self.mean(known.astype(np.float32)), SMOOTHING)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(share > 1e-3, mean / share, np.nan), dtype=np.float32)

    def mean(self, plane: Plane) -> Plane:
        """Return the means of blocks of 2 x 2 pixels."""
        ny, nx = self.shape
        even = np.pad(plane, ((0, ny % 2), (0, nx % 2)), mode="edge") if ny % 2 or nx % 2 else plane
        total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
        return np.asarray(total / 4, dtype=np.float32)

    def least(self, plane: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return the smallest value of blocks of 2 x 2 pixels."""
        ny, nx = self.shape
        even = np.pad(plane, ((0, ny % 2), (0, nx % 2)), mode="edge")
        return np.asarray(even.reshape(self.half[0], 2, self.half[1], 2).min(axis=(1, 3)))

    def any(self, plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which blocks of 2 x 2 pixels hold one that is set."""
        return self.mean(plane.astype(np.float32)) > 0

    def whole(self, half: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask of half the size in full size."""
        return half.repeat(2, axis=0).repeat(2, axis=1)[: self.shape[0], : self.shape[1]]

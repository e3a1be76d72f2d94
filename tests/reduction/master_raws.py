"""Biases and flats of small CCDs with a truth: what the tests of master calibrations combine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tololo.reduction.formats.raw import RawAmplifier, RawDetector
from tololo.reduction.master_frames import Load

HEIGHT, WIDTH, OVERSCAN = 512, 192, 48  # of the light-sensitive pixels of an amplifier, and its overscan
SHAPE = (HEIGHT, 2 * WIDTH)


@dataclass
class Ccd:
    """A CCD whose bias, response, gain and read noise are known; header gains may be wrong."""

    detector: int = 25
    response: float = 1.0
    gain: dict[str, float] = field(default_factory=lambda: {"A": 4.0, "B": 4.6})
    header_gain: dict[str, float] = field(default_factory=lambda: {"A": 4.1, "B": 4.4})
    read_noise: dict[str, float] = field(default_factory=lambda: {"A": 7.0, "B": 8.5})
    hot_column: slice | None = None
    hot_pixels: tuple[tuple[int, int], ...] = ()
    dark_pixels: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.detector)
        y, x = np.mgrid[:HEIGHT, : 2 * WIDTH]
        self.bias = 4.0 * np.exp(-(x % WIDTH) / 20) + 1.5 * np.sin(x / 3) + rng.normal(0, 0.4, SHAPE)
        if self.hot_column is not None:
            self.bias[self.hot_column, 100] += 60
        for pixel in self.hot_pixels:
            self.bias[pixel] += 120
        self.flat = 1 + 0.06 * (y / HEIGHT - 0.5) - 0.03 * (x / (2 * WIDTH)) + rng.normal(0, 0.01, SHAPE)
        self.flat /= self.flat.mean()
        for pixel in self.dark_pixels:
            self.flat[pixel] = 0.02
        edge = OVERSCAN
        self.parts: dict[str, tuple[slice, slice, slice]] = {
            "A": (slice(edge, edge + WIDTH), slice(0, edge), slice(0, WIDTH)),
            "B": (
                slice(edge + WIDTH, edge + 2 * WIDTH),
                slice(edge + 2 * WIDTH, 2 * edge + 2 * WIDTH),
                slice(WIDTH, 2 * WIDTH),
            ),
        }

    @property
    def truth(self) -> NDArray[np.float64]:
        """The master flat but for a factor of the focal plane; the error of the headers' gains is in it."""
        truth = self.response * self.flat
        for name, (_, _, target) in self.parts.items():
            truth[:, target] *= self.header_gain[name] / self.gain[name]
        return truth

    def expose(
        self,
        exposure: int,
        light: float | NDArray[np.float64] = 0.0,
        *,
        seed: int = 0,
        kind: str = "",
        noise: float = 1.0,
        offset: float = 0.0,
        rays: int = 4,
        dead: str = "",
    ) -> RawDetector:
        """Read the CCD out after so many electrons per pixel of mean response."""
        rng = np.random.default_rng([seed, exposure, self.detector])
        electrons = rng.poisson(np.maximum(light * self.response * self.flat, 0)).astype(float)
        for _ in range(rays):
            y, x = rng.integers(0, HEIGHT - 4), rng.integers(0, 2 * WIDTH - 4)
            electrons[y : y + 3, x] += 3000
        pixels = np.zeros((HEIGHT, 2 * (WIDTH + OVERSCAN)))
        rows = 1500 + rng.normal(0, 20) + 3 * np.sin(np.arange(HEIGHT) / 90)[:, None]
        amplifiers = []
        for name, (data, overscan, target) in self.parts.items():
            sigma = noise * self.read_noise[name] / self.gain[name]
            adu = electrons[:, target] / self.gain[name] + self.bias[:, target] + offset + rows
            pixels[:, data] = adu + rng.normal(0, sigma, (HEIGHT, WIDTH))
            pixels[:, overscan] = rows + rng.normal(0, sigma, (HEIGHT, OVERSCAN))
            if name == dead:
                pixels[:, overscan] = 65535
            both = slice(0, HEIGHT)
            amplifiers.append(
                RawAmplifier(
                    name, (both, data), (both, overscan), (both, target), self.header_gain[name],
                    self.read_noise[name], 45000.0,
                )
            )  # fmt: skip
        kind = kind or ("dome flat" if np.any(np.asarray(light) > 0) else "zero")
        header = fits.Header([("OBSTYPE", kind), ("EXPTIME", 10.0 if kind == "dome flat" else 0.0)])
        digits = np.clip(np.rint(pixels), 0, 65535).astype(np.uint16)
        return RawDetector(exposure, self.detector, "S1", digits, (amplifiers[0], amplifiers[1]), header)

    def loads(self, first: int, n: int, light: float = 0.0, **options: object) -> list[tuple[int, Load]]:
        """Exposures one after the other, the light a little different in each."""
        expose: Callable[..., RawDetector] = self.expose
        return [
            (first + k, partial(expose, first + k, light * (1 + 0.05 * (k % 4)), **options)) for k in range(n)
        ]

"""The pair of images of `make bench NAME=subtract`: a science image, a template, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tololo.reduction.kernels.psf import PixelPsf

SHAPE = (4096, 2048)
SKY, DEPTH, RATIO, SATURATION = 1000.0, 10, 0.9, 60_000.0
"""Electrons a pixel; exposures in the template; flux ratio of science image and template; electrons."""

SCIENCE_FWHM, TEMPLATE_FWHM = 4.6, 3.7
OFFSET, TURN = 0.07, 2e-5
"""Misregistration of the template: pixels, and radians about the middle."""

BETA = 3.0

POINTS = 12
"""Of a galaxy."""


@dataclass(frozen=True)
class Pair:
    """Planes of both images, (ny, nx), and what was put into them."""

    science: NDArray[np.float32]
    science_variance: NDArray[np.float32]
    science_bad: NDArray[np.bool_]
    template: NDArray[np.float32]
    template_variance: NDArray[np.float32]
    template_bad: NDArray[np.bool_]
    stars: NDArray[np.float64]
    """x, y, electrons; (n, 3)."""

    transients: NDArray[np.float64]
    """x, y, electrons, expected signal to noise; (n, 4)."""

    def save(self, path: Path) -> None:
        """Write everything into one file."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Pair:
        """Read what `save` has written."""
        with np.load(path) as stored:
            return cls(**dict(stored))


def moffat(fwhm: float, ellipticity: float, dx: float, dy: float, half: int) -> NDArray[np.float64]:
    """Return a Moffat profile of unit flux, with its centre (dx, dy) from the middle pixel."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    core = fwhm / 2 / np.sqrt(2 ** (1 / BETA) - 1)
    square = ((x - dx) / (1 + ellipticity)) ** 2 + ((y - dy) * (1 + ellipticity)) ** 2
    return np.asarray((1 + square / core**2) ** -BETA * (BETA - 1) / (np.pi * core**2))


def shape_at(fwhm: float, x: Any, y: Any) -> tuple[Any, Any]:
    """Return FWHM and ellipticity at a position: 5 % wider at one corner, 5 % narrower at the other."""
    u, v = 2 * x / SHAPE[1] - 1, 2 * y / SHAPE[0] - 1
    return fwhm * (1 + 0.025 * (u + v)), 0.02 + 0.015 * u - 0.01 * v


def model(fwhm: float, size: int = 37) -> PixelPsf:
    """Return the PSF as a model that is quadratic in x and y."""
    u, v = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.9, 0.9, 3), np.linspace(-0.9, 0.9, 3)))
    center, scale = ((SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2), (SHAPE[1] / 2, SHAPE[0] / 2)
    places = zip(center[0] + u * scale[0], center[1] + v * scale[1], strict=True)
    stamps = [moffat(*shape_at(fwhm, x, y), 0, 0, size // 2) for x, y in places]
    terms = np.column_stack([np.ones_like(u), u, v, u * u, u * v, v * v])
    return PixelPsf(np.tensordot(np.linalg.pinv(terms), np.array(stamps), 1), 2, center, scale)


def simulate(seed: int, stars: int = 3000, galaxies: int = 600, transients: int = 400) -> Pair:
    """Simulate: stars N(>f) ~ f^-0.75, galaxies, transients of S/N 3.5 to 60, half of them on galaxies.

    A galaxy is a swarm of points, so that one kernel takes it from the one seeing to the other as it takes
    stars. The sky of the science image has a gradient; both have bad pixels.
    """
    rng = np.random.default_rng(seed)
    ny, nx = SHAPE
    area = rng.uniform(0, 1, (stars, 2)) * [nx, ny]
    light = np.minimum(600 * (1 - rng.random(stars)) ** (-1 / 0.75), 6e6)
    sources = np.column_stack([area, light])
    hosts = np.column_stack(
        [rng.uniform(0.02, 0.98, (galaxies, 2)) * [nx, ny], 10 ** rng.uniform(3.5, 5, galaxies)]
    )
    swarm = np.repeat(hosts / [1, 1, POINTS], POINTS, axis=0)
    swarm[:, :2] += rng.normal(size=(len(swarm), 2)) * np.repeat(rng.uniform(1, 3, galaxies), POINTS)[:, None]
    sources = np.concatenate([sources, swarm])
    found = np.column_stack([rng.uniform(0.02, 0.98, (transients, 2)) * [nx, ny], np.zeros((transients, 2))])
    on_host = rng.choice(galaxies, transients // 2, replace=False)
    found[: transients // 2, :2] = hosts[on_host, :2] + rng.normal(0, 1.5, (transients // 2, 2))
    found[:, 3] = np.exp(rng.uniform(np.log(3.5), np.log(60), transients))
    fwhm, ellipticity = shape_at(SCIENCE_FWHM, found[:, 0], found[:, 1])
    for k in range(transients):
        profile = moffat(fwhm[k], ellipticity[k], 0, 0, 18)
        found[k, 2] = found[k, 3] * np.sqrt(SKY * (1 + RATIO**2 / DEPTH) / (profile**2).sum())
    science, template = np.zeros((2, ny, nx))
    turned = (sources[:, 1::-1] - [ny / 2, nx / 2]) * [-TURN, TURN]
    _add(science, SCIENCE_FWHM, sources[:, :2], sources[:, 2])
    _add(template, TEMPLATE_FWHM, sources[:, :2] + OFFSET + turned, sources[:, 2] / RATIO)
    _add(science, SCIENCE_FWHM, found[:, :2], found[:, 2])
    bad = [science + SKY > SATURATION, template + SKY > SATURATION]
    bad[0][:, nx // 3] = True
    bad[1][ny // 2 : ny // 2 + 2] = True
    bad = [mask | (rng.random((ny, nx)) < 1e-4) for mask in bad]
    variances = science + SKY, (template + SKY) / DEPTH
    gradient = 20 * np.linspace(-1, 1, nx) * np.linspace(-1, 1, ny)[:, None]
    noisy = [
        image + rng.normal(size=SHAPE) * np.sqrt(v)
        for image, v in zip((science, template), variances, strict=True)
    ]
    noisy[0] += gradient
    for image, mask in zip(noisy, bad, strict=True):
        image[mask] = SATURATION
    planes = [p.astype(np.float32) for p in (noisy[0], variances[0], noisy[1], variances[1])]
    return Pair(planes[0], planes[1], bad[0], planes[2], planes[3], bad[1], sources[:stars], found)


def _add(
    image: NDArray[np.float64],
    fwhm: float,
    places: NDArray[np.float64],
    light: NDArray[np.float64],
) -> None:
    """Add point sources."""
    ny, nx = image.shape
    widths, ellipticities = shape_at(fwhm, places[:, 0], places[:, 1])
    for k, ((x, y), flux) in enumerate(zip(places, light, strict=True)):
        half = 100 if flux > 2e5 else 32
        ix, iy = round(x), round(y)
        stamp = flux * moffat(widths[k], ellipticities[k], x - ix, y - iy, half)
        y0, y1, x0, x1 = max(0, iy - half), min(ny, iy + half + 1), max(0, ix - half), min(nx, ix + half + 1)
        if y0 < y1 and x0 < x1:
            image[y0:y1, x0:x1] += stamp[y0 - iy + half : y1 - iy + half, x0 - ix + half : x1 - ix + half]

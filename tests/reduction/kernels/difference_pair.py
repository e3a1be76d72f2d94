"""A simulated science image and its template, with the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tololo.reduction.kernels.covariance import resampled_covariance
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.warp import STEP, grid_of, warp

BETA = 3.0
SATURATION = 60_000.0
STAMP = 65


def moffat(fwhm, dx=0.0, dy=0.0, side=STAMP, ellipticity=0.0):
    """Moffat profile of unit flux on a stamp of which the middle pixel is (0, 0)."""
    half = side // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    core = fwhm / 2 / np.sqrt(2 ** (1 / BETA) - 1)
    r2 = ((x - dx) / (1 + ellipticity)) ** 2 + ((y - dy) * (1 + ellipticity)) ** 2
    return (1 + r2 / core**2) ** -BETA * (BETA - 1) / (np.pi * core**2)


def model_psf(fwhm, side, variation=0.03, size=35):
    """The PSF that `make_pair` simulates with, as a model that is linear in x and y."""
    middle, scale = (side - 1) / 2, side / 2
    u, v = (grid.ravel() for grid in np.meshgrid([-0.9, 0.0, 0.9], [-0.9, 0.0, 0.9]))
    stamps = [
        moffat(fwhm * (1 + variation * scale * (a - b) / side), side=size) for a, b in zip(u, v, strict=True)
    ]
    terms = np.stack([np.ones_like(u), u, v], axis=1)
    found = np.tensordot(np.linalg.pinv(terms), np.array(stamps), 1)
    return PixelPsf(found, 1, (middle, middle), (scale, scale))


def exponential(fwhm, dx, dy, scale, ellipticity=0.0):
    """Exponential disk of unit flux and scale length ``scale`` seen through a Moffat PSF."""
    psf = np.fft.fft2(np.fft.ifftshift(moffat(fwhm, ellipticity=ellipticity)))
    k = 2 * np.pi * np.fft.fftfreq(STAMP)
    kx, ky = np.meshgrid(k, k)
    disk = (1 + (kx**2 + ky**2) * scale**2) ** -1.5 * np.exp(-1j * (kx * dx + ky * dy))
    return np.fft.fftshift(np.fft.ifft2(psf * disk).real)


@dataclass
class Pair:
    science: np.ndarray
    science_variance: np.ndarray
    science_bad: np.ndarray
    template: np.ndarray
    template_variance: np.ndarray
    template_bad: np.ndarray
    saturated: np.ndarray
    stars: np.ndarray  # x, y, flux
    galaxies: np.ndarray
    transients: np.ndarray  # x, y, flux in the science image, host index or -1
    science_fwhm: float
    template_fwhm: float
    flux_ratio: float
    clean_template: np.ndarray
    template_sky_variance: float

    def planes(self):
        return (
            *(self.science, self.science_variance, self.science_bad),
            *(self.template, self.template_variance, self.template_bad),
        )


def place(image, stamp, x, y):
    half = stamp.shape[0] // 2
    ny, nx = image.shape
    x0, y0 = x - half, y - half
    a, b = max(0, -x0), max(0, -y0)
    c, d = min(stamp.shape[1], nx - x0), min(stamp.shape[0], ny - y0)
    if a < c and b < d:
        image[y0 + b : y0 + d, x0 + a : x0 + c] += stamp[b:d, a:c]


def resampled_noise(side, variance, visits=3, seed=5):
    """Noise of the mean of dithered and turned visits on a tract, brought to a detector, and its variance.

    The variance is the one that `warp` propagates, which takes pixels for independent.
    """
    rng = np.random.default_rng(seed)

    def turned(planes, size):
        turn, shift, middle = rng.uniform(-0.01, 0.01), rng.uniform(0, 5, 2), (planes[0].shape[0] - 1) / 2

        def there(x, y):
            x, y = x - (size - 1) / 2, y - (size - 1) / 2
            c, s = np.cos(turn), np.sin(turn)
            return x * c - y * s + middle + shift[0], x * s + y * c + middle + shift[1]

        none = np.zeros(planes[0].shape, bool)
        moved = warp(*planes, none.astype(np.int32), none, *grid_of(there, (size, size)), STEP, (size, size))
        return moved.image, moved.variance

    each = (variance * visits, (side + 80, side + 80))
    inputs = [
        turned(
            (
                rng.normal(0, np.sqrt(each[0]), each[1]).astype(np.float32),
                np.full(each[1], each[0], np.float32),
            ),
            side + 40,
        )
        for _ in range(visits)
    ]
    tract = np.mean([i for i, _ in inputs], axis=0), np.sum([v for _, v in inputs], axis=0) / visits**2
    return turned(tuple(plane.astype(np.float32) for plane in tract), side)


def resampled_twice(pair):
    """The pair with a template of which the noise was resampled twice, and that noise's covariance.

    The noise of the sky is scaled with that of the light, which varies more slowly than pixels share it.
    """
    noise, variance = resampled_noise(pair.template.shape[0], pair.template_sky_variance)
    share = pair.template_variance / pair.template_sky_variance
    template = np.where(pair.saturated, pair.template, pair.clean_template + noise * np.sqrt(share))
    changed = replace(
        pair, template=template.astype(np.float32), template_variance=(variance * share).astype(np.float32)
    )
    return changed, resampled_covariance([1.0, 1.0])


def make_pair(
    seed=1,
    side=1024,
    science_fwhm=4.6,
    template_fwhm=3.7,
    shift=(0.2, -0.1),
    flux_ratio=0.9,
    sky=1000.0,
    template_depth=10,
    density=350e-6,
    n_transients=40,
    snr=(6.0, 80.0),
    variation=0.03,
    faults=True,
    gradient=20.0,
):
    """Simulate; fluxes and the science image are in electrons, gain 1."""
    rng = np.random.default_rng(seed)
    n_stars, n_galaxies = int(density * side**2), int(density * side**2 / 4)
    flux = 600 * (1 - rng.random(n_stars)) ** (-1 / 0.75)
    stars = np.column_stack([rng.uniform(0, side, (n_stars, 2)), np.minimum(flux, 6e6)])
    galaxies = np.column_stack(
        [rng.uniform(20, side - 20, (n_galaxies, 2)), 10 ** rng.uniform(3.5, 5, n_galaxies)]
    )
    scales = rng.uniform(1.0, 3.0, n_galaxies)
    core = science_fwhm / 2.3548
    one_sigma = np.sqrt(sky * (1 + 1 / template_depth) * 4 * np.pi * core**2 * 1.2)
    hosts = np.where(np.arange(n_transients) % 2 == 0, -1, rng.integers(0, max(1, n_galaxies), n_transients))
    hosts[hosts >= n_galaxies] = -1
    transients = np.column_stack(
        [
            rng.uniform(30, side - 30, (n_transients, 2)),
            one_sigma
            * np.exp(rng.uniform(np.log(snr[0]), np.log(snr[1]), n_transients))
            * rng.choice([1, 1, 1, -1], n_transients),
            hosts,
        ]
    )
    for t in transients:
        if t[3] >= 0:
            t[:2] = galaxies[int(t[3]), :2] + rng.normal(0, 1.5, 2)
    # Blends of two transients are another matter.
    apart = [
        k for k, t in enumerate(transients) if k == 0 or np.hypot(*(transients[:k, :2] - t[:2]).T).min() > 25
    ]
    transients = transients[apart]

    def expose(fwhm, offset, scale):
        image = np.zeros((side, side))

        def seeing(x, y):
            return fwhm * (1 + variation * ((x - y) / side))

        for x, y, f in stars + np.array([*offset, 0]):
            ix, iy = round(x), round(y)
            place(
                image,
                scale * f * moffat(seeing(x, y), x - ix, y - iy, side=STAMP if f < 2e5 else 161),
                ix,
                iy,
            )
        for (x, y, f), h in zip(galaxies + np.array([*offset, 0]), scales, strict=True):
            ix, iy = round(x), round(y)
            place(image, scale * f * exponential(seeing(x, y), x - ix, y - iy, h), ix, iy)
        return image

    # Negative "transients" are light that the template has and the science image lacks.
    faded = transients[transients[:, 2] < 0]
    science = expose(science_fwhm, (0, 0), 1.0)
    template = expose(template_fwhm, shift, 1 / flux_ratio)
    for x, y, f, _ in transients[transients[:, 2] > 0]:
        ix, iy = round(x), round(y)
        place(science, f * moffat(science_fwhm * (1 + variation * (x - y) / side), x - ix, y - iy), ix, iy)
    for x, y, f, _ in faded + np.array([*shift, 0, 0]):
        ix, iy = round(x), round(y)
        place(
            template,
            -f / flux_ratio * moffat(template_fwhm * (1 + variation * (x - y) / side), x - ix, y - iy),
            ix,
            iy,
        )
    saturated = science + sky > SATURATION
    template_saturated = template + sky > SATURATION
    science_bad, template_bad = saturated.copy(), template_saturated.copy()
    if faults:
        for mask, image in ((saturated, science), (template_saturated, template)):
            for column in np.flatnonzero(mask.sum(axis=0) > 4):  # bleed trails
                rows = np.flatnonzero(mask[:, column])
                a, b = max(0, rows.min() - 15), min(side, rows.max() + 15)
                mask[a:b, column] = True
                image[a:b, column] = SATURATION
        science_bad, template_bad = saturated.copy(), template_saturated.copy()
        science_bad[:, side // 3] = True
        science[:, side // 3] += 3000
        template_bad[side // 2, :] = True
        template[side // 2, :] = 5000
        hot = rng.random((side, side)) < 2e-4
        science_bad |= hot
        science[hot] += 2000
        hot = rng.random((side, side)) < 2e-4
        template_bad |= hot
        template[hot] += 2000
    science_variance = np.maximum(science, 0) + sky
    template_variance = (np.maximum(template, 0) + sky) / template_depth
    ramp = gradient * np.linspace(-1, 1, side)[None, :] * np.linspace(-1, 1, side)[:, None]
    clean_template = template.copy()
    science = science + rng.normal(size=science.shape) * np.sqrt(science_variance) + ramp
    template = template + rng.normal(size=science.shape) * np.sqrt(template_variance)
    science[saturated] = SATURATION - sky
    template[template_saturated] = SATURATION - sky
    f4 = np.float32
    return Pair(
        *(science.astype(f4), science_variance.astype(f4), science_bad),
        *(template.astype(f4), template_variance.astype(f4), template_bad),
        saturated | template_saturated,
        *(stars, galaxies, transients, science_fwhm, template_fwhm, flux_ratio),
        *(clean_template, sky / template_depth),
    )

from __future__ import annotations

import math
import multiprocessing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.cosmic_rays import find_cosmic_rays

from .starfield import moffat

SKY, READ_NOISE = 1000.0, 7.0
BOTH = BIT["COSMIC_RAY"] | BIT["INTERPOLATED"]


@dataclass
class Exposure:
    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    light: NDArray[np.float64]
    """Of the stars, without the sky."""
    charge: NDArray[np.float64]
    """Of the cosmic rays."""

    def found(self, fwhm: float, bits: NDArray[np.int32] | None = None) -> NDArray[np.bool_]:
        bits = np.zeros(self.image.shape, np.int32) if bits is None else bits
        number = find_cosmic_rays(self.image, self.variance, bits, fwhm)
        mask = (bits & BIT["COSMIC_RAY"]) != 0
        assert number == mask.sum()
        np.testing.assert_array_equal((bits & BIT["INTERPOLATED"]) != 0, mask)
        return np.asarray(mask)


def expose(light: NDArray[np.float64], charge: NDArray[np.float64], seed: int) -> Exposure:
    rng = np.random.default_rng(seed)
    expected = light + SKY + charge
    image = (rng.poisson(expected) + rng.normal(0, READ_NOISE, light.shape)).astype(np.float32)
    return Exposure(image, np.maximum(image, 0) + np.float32(READ_NOISE**2), light, charge)


def stars(shape: tuple[int, int], number: int, fwhm: float, seed: int, **keys: Any) -> NDArray[np.float64]:
    """Draw stars whose numbers fall as flux^-0.75, up to what a pixel holds."""
    rng = np.random.default_rng(seed)
    flux = np.minimum(300 * rng.uniform(size=number) ** (-1 / 0.75), 8e4 * fwhm**2)
    place = rng.uniform(0, 1, (number, 2)) * shape[::-1]
    return moffat(shape, np.column_stack([place, flux]), fwhm, **keys)


def tracks(shape: tuple[int, int], number: int, seed: int, diffusion: float = 0.3) -> NDArray[np.float64]:
    """Draw charge: straight tracks of muons, wandering ones of electrons, and single hits, all diffused.

    Muons leave 80 electrons per micrometre in a CCD of 250 micrometres, and diffuse by their depth.
    """
    rng = np.random.default_rng(seed)
    charge = np.zeros(shape)
    for kind, x, y in zip(
        rng.uniform(size=number),
        rng.uniform(2, shape[1] - 3, number),
        rng.uniform(2, shape[0] - 3, number),
        strict=True,
    ):
        if kind < 0.45:
            length = min(120.0, 16.7 * math.tan(math.acos(math.sqrt(rng.uniform(0.02, 1)))))
            n = max(1, int(length / 0.2))
            angle = np.full(n, rng.uniform(0, 2 * np.pi))
            step, width = 0.2, diffusion * np.linspace(0.3, 1.3, n)
            deposit = rng.lognormal(0, 0.4, n)
            total = 20_000 * math.hypot(1, length / 16.7) * rng.lognormal(-0.3, 0.3)
            deposit *= total / deposit.sum()
        elif kind < 0.75:
            n, step, angle = 1, 0.0, np.zeros(1)
            deposit = 10 ** rng.uniform(np.log10(200), 4.3, 1)
            width = diffusion * rng.uniform(0.3, 1.2, 1)
        else:
            n, step = int(rng.uniform(3, 30) / 0.3), 0.3
            angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, n))
            deposit = rng.lognormal(0, 0.4, n) * 0.3 * 10 ** rng.uniform(2.3, 3.6)
            width = np.full(n, diffusion * rng.uniform(0.5, 1.3))
        parts = max(8, 40 // n)
        at_x = np.repeat(x + step * np.cumsum(np.cos(angle)), parts)
        at_y = np.repeat(y + step * np.cumsum(np.sin(angle)), parts)
        spread = np.repeat(width, parts)
        column = np.rint(at_x + spread * rng.normal(size=at_x.size)).astype(int)
        row = np.rint(at_y + spread * rng.normal(size=at_y.size)).astype(int)
        inside = (row >= 0) & (column >= 0) & (row < shape[0]) & (column < shape[1])
        np.add.at(charge, (row[inside], column[inside]), np.repeat(deposit / parts, parts)[inside])
    return charge


def recall(exposure: Exposure, mask: NDArray[np.bool_], least: float) -> float:
    """Return which part of the pixels with at least so much charge, and five sigma, is found."""
    noise = np.sqrt(exposure.light + SKY + READ_NOISE**2)
    return float(mask[exposure.charge > np.maximum(least, 5 * noise)].mean())


@pytest.mark.parametrize("fwhm", [2.5, 4.6])
@pytest.mark.parametrize(
    ("shape", "number"),
    [((1024, 1024), 312), pytest.param((4096, 2048), 2500, marks=pytest.mark.long)],
)
def test_tracks_are_found_and_little_else(shape: tuple[int, int], number: int, fwhm: float) -> None:
    exposure = expose(stars(shape, 1200 * number // 2500, fwhm, 1), tracks(shape, number, 2), 3)
    mask = exposure.found(fwhm)
    assert recall(exposure, mask, 0) >= 0.985
    assert recall(exposure, mask, 300) >= 0.998
    assert (mask & (exposure.charge < 1)).sum() < 165e-6 * mask.size


@pytest.mark.parametrize(("fwhm", "told"), [(2.5, 2.5), (2.5, 2.8), (3.5, 3.5), (5.0, 5.0)])
def test_stars_stay(fwhm: float, told: float) -> None:
    shape = (1024, 1024)
    light = stars(shape, 1500, fwhm, 5, ellipticity=0.15, slope=0.1)
    mask = expose(light, np.zeros(shape), 6).found(told)
    assert (light > 1000).sum() > 1000
    assert not mask[light > 1000].any()
    # What is left are outliers of the noise: about 40 of a million.
    assert mask.sum() < 90


def test_a_star_that_is_struck_loses_little_else() -> None:
    shape = (200, 200)
    places = np.array([[x, y, 8e4] for x in range(30, 200, 35) for y in range(30, 200, 35)], dtype=float)
    light = moffat(shape, places, 3.5)
    charge = np.zeros(shape)
    for x, y, _ in places.astype(int):
        charge[y - 8 : y + 9, x + 2] = 3000
    mask = expose(light, charge, 7).found(3.5)
    assert mask[charge > 0].mean() > 0.98
    assert (mask & (charge == 0)).sum() <= 2 * len(places)


def test_a_trail_and_a_galaxy_on_edge_stay() -> None:
    y, x = np.mgrid[:500, :500]
    sigma = 2.7 / 2.355
    light = 800 * np.exp(-0.5 * ((0.8 * x - 0.6 * y - 50) / sigma) ** 2)
    along, across = 0.3 * (x - 300) + 0.954 * (y - 250), 0.954 * (x - 300) - 0.3 * (y - 250)
    light += 5000 * np.exp(-np.abs(along) / 12) * np.exp(-0.5 * (across / sigma) ** 2)
    mask = expose(light, np.zeros(light.shape), 8).found(2.7)
    assert mask[light > 100].sum() <= 2


def test_what_was_masked_is_left_alone() -> None:
    shape = (300, 300)
    exposure = expose(np.zeros(shape), np.zeros(shape), 9)
    bits = np.zeros(shape, np.int32)
    exposure.image[:, 50] = 60_000
    bits[:, 50] = BIT["SATURATED"]
    exposure.image[:, 100] = -5000
    exposure.variance[:, 100] = 0
    bits[:, 100] = BIT["BAD"]
    exposure.image[150:160, 200:210] = np.nan
    exposure.variance[150:160, 200:210] = np.nan
    exposure.image[200, 150] += 5000
    before = exposure.image.copy()
    find_cosmic_rays(exposure.image, exposure.variance, bits, 4.0)
    assert (bits[:, 50] == BIT["SATURATED"]).all()
    assert (bits[:, 100] == BIT["BAD"]).all()
    assert bits[200, 150] == BOTH
    # The neighbours of cold columns are not warm, but for a pixel of noise.
    assert ((bits[:, 97:104] & BIT["COSMIC_RAY"]) != 0).sum() <= 3
    untouched = bits & BIT["COSMIC_RAY"] == 0
    np.testing.assert_array_equal(exposure.image[untouched], before[untouched])


def test_what_is_found_is_filled_with_its_surroundings() -> None:
    shape = (600, 600)
    exposure = expose(np.zeros(shape), tracks(shape, 150, 11), 12)
    mask = exposure.found(4.0)
    assert mask.sum() > 1000
    filled = exposure.image[mask] - SKY
    noise = np.sqrt(SKY + READ_NOISE**2)
    assert abs(filled.mean()) < 0.2 * noise
    assert np.abs(filled).max() < 5 * noise


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (40, 5)])
def test_small_images(shape: tuple[int, int]) -> None:
    exposure = expose(np.zeros(shape), np.zeros(shape), 13)
    assert exposure.found(4.0).sum() == 0


def test_planes_of_other_kinds_are_refused() -> None:
    image, bits = np.ones((20, 20), np.float32), np.zeros((20, 20), np.int32)
    with pytest.raises(BadInputError, match="variance is float64"):
        find_cosmic_rays(image, np.ones((20, 20)), bits, 4.0)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="mask is int32 of shape"):
        find_cosmic_rays(image, image, bits[1:], 4.0)
    with pytest.raises(BadInputError, match="image is float32"):
        find_cosmic_rays(image.T[::2], image, bits, 4.0)
    for fwhm in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(BadInputError, match="PSF"):
            find_cosmic_rays(image, image, bits, fwhm)


def count(seed: int) -> int:
    shape = (200, 200)
    return int(expose(np.zeros(shape), tracks(shape, 20, seed), seed).found(4.0).sum())


def test_a_forked_child_can_do_it_too() -> None:
    here = count(1)
    assert here > 50
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(count, (1,)).get(timeout=120) == here

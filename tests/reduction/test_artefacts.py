"""What moves is left out of a coadd, stars and variables stay: against skies of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tololo.reduction.artefacts import find_artefacts
from tololo.reduction.coadd import Template, combine
from tololo.reduction.coadd_input import Cube
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.photometry import aperture_photometry
from tololo.reduction.kernels.stack import Method

from .moving_sky import NOISE, PATCH, MovingSky

NUMBERS = (3, 12)


def seeing(n: int) -> tuple[float, ...]:
    """FWHM from 3.2 to 6 pixels: the sharpest star is three times as bright in its middle as the bluntest."""
    return tuple(np.random.default_rng(n).permutation(np.linspace(3.2, 6.0, n)))


def clipped(template: Template) -> NDArray[np.bool_]:
    return (template.planes.bits & BIT["CLIPPED"]) != 0


def fluxes(template: Template, sky: MovingSky, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    x, y, _ = sky.stars[chosen].T.copy()
    planes = template.planes
    return aperture_photometry(planes.image, planes.variance, planes.bad, x, y, [9.0])["flux"][:, 0]


def apart(places: NDArray[np.int64], distance: float) -> NDArray[np.int64]:
    """Choose places of which none is near another."""
    chosen: list[NDArray[np.int64]] = []
    for place in np.random.default_rng(8).permutation(places)[:3000]:
        if all(np.hypot(*(place - other)) > distance for other in chosen):
            chosen.append(place)
    return np.array(chosen)


def dark(sky: MovingSky, reach: float = 15.0) -> NDArray[np.bool_]:
    """Pixels that no star of note reaches."""
    y, x = np.mgrid[: sky.side, : sky.side]
    far = np.ones(x.shape, bool)
    for star in sky.stars[sky.stars[:, 2] > 100 * NOISE]:
        far &= np.hypot(x - star[0], y - star[1]) > reach
    return far


@pytest.mark.parametrize(
    ("n", "peak", "method"),
    [
        *((n, peak, "mean") for n in NUMBERS for peak in (1.5, 4.0, 30.0)),
        *((4, 4.0, method) for method in ("median", "meanclip")),
    ],
)
def test_a_trail_leaves_no_more_than_a_fifth_of_the_noise(n: int, peak: float, method: Method) -> None:
    sky = MovingSky(seeing(n))
    distance = sky.trail(1, peak * NOISE)
    clean = combine(MovingSky(seeing(n)).inputs(), PATCH, "mean", compare_warps=False)
    template = combine(sky.inputs(), PATCH, method)
    pull = (template.planes.image - clean.planes.image) / np.sqrt(clean.planes.variance)
    there = dark(sky)
    profile = [np.median(pull[there & (np.abs(np.abs(distance) - d) < 1)]) for d in range(11)]
    # Its faint wings are what clipping pixel by pixel leaves: up to the noise of the coadd.
    assert np.max(np.abs(profile)) < 0.2
    core = there & (np.abs(distance) < 1)
    if peak > 3:
        assert clipped(template)[core].mean() > 0.98
        assert (template.depth[core] == n - 1).mean() > 0.97
    away = there & (np.abs(distance) > 25)
    assert (template.depth[away] == n).mean() > 0.995


def test_clipping_by_pixel_alone_would_leave_the_wings() -> None:
    sky = MovingSky(seeing(3))
    distance = sky.trail(1, 4 * NOISE)
    clean = combine(MovingSky(seeing(3)).inputs(), PATCH, "mean", compare_warps=False)
    template = combine(sky.inputs(), PATCH, "meanclip", compare_warps=False)
    pull = (template.planes.image - clean.planes.image) / np.sqrt(clean.planes.variance)
    assert np.median(pull[dark(sky) & (np.abs(np.abs(distance) - 2.5) < 1)]) > 0.6


@pytest.mark.parametrize(("n", "method"), [(3, "mean"), (5, "meanclip"), (12, "mean"), (12, "median")])
def test_asteroids_and_cosmic_rays_are_gone(n: int, method: Method) -> None:
    sky, clean = MovingSky(seeing(n)), MovingSky(seeing(n))
    places = apart(np.argwhere(dark(sky, 20.0)[30:-30, 30:-30]) + 30, 24.0)
    rocks, rays = places[:8], places[8:]
    assert len(rays) > 25
    for number, (y, x) in enumerate(rocks):
        sky.asteroid(number % n, float(x), float(y), NOISE * 10 ** (2.2 + 0.2 * number))
    for number, (y, x) in enumerate(rays):
        sky.ray(number % n, int(x), int(y), NOISE * (15 + 5 * number), 1 + number % 5)
    template = combine(sky.inputs(), PATCH, method)
    truth = combine(clean.inputs(), PATCH, method)
    pull = (template.planes.image - truth.planes.image) / np.sqrt(truth.planes.variance)
    # Where inputs are missing the noise is another: single pixels differ by about half of it.
    near_rocks = [pull[y - 5 : y + 6, x - 8 : x + 9] for y, x in rocks]
    near_rays = [pull[y - 2 : y + 3, x - 2 : x + 7] for y, x in rays]
    assert np.abs(np.mean(near_rocks, axis=(1, 2))).max() < 0.3
    assert abs(np.mean(near_rocks)) < 0.1
    assert abs(np.mean(near_rays)) < 0.1
    assert max(np.max(near_rocks), np.max(near_rays)) < 4.0
    assert clipped(template)[tuple(places.T)].all()
    assert template.inputs["clipped"].min() > 0
    used = np.array(template.inputs["used"]) + np.array(template.inputs["clipped"])
    assert (used == sky.side**2).all()
    assert int(template.depth.sum(dtype=int)) == int(np.sum(template.inputs["used"]))


@pytest.mark.parametrize(("n", "method"), [(2, "mean"), (3, "median"), (5, "meanclip"), (12, "mean")])
def test_stars_are_not_touched(n: int, method: Method) -> None:
    sky = MovingSky(seeing(n), seed=4)
    template = combine(sky.inputs(), PATCH, method)
    plain = combine(sky.inputs(), PATCH, "mean" if method == "meanclip" else method, compare_warps=False)
    bright = sky.stars[:, 2] > 200 * NOISE
    ratio = fluxes(template, sky, bright) / fluxes(plain, sky, bright)
    assert bright.sum() > 20
    assert np.abs(ratio - 1).max() < 0.01
    assert abs(np.median(ratio) - 1) < 0.001
    assert clipped(template)[~dark(sky, 4.0)].mean() < 5e-3
    assert clipped(template).mean() < 3e-3


@pytest.mark.parametrize("method", ["mean", "median"])
def test_stars_that_a_trail_crosses_keep_their_flux(method: Method) -> None:
    sky, clean = MovingSky(seeing(8), n_stars=60, seed=2), MovingSky(seeing(8), n_stars=60, seed=2)
    distance = sky.trail(3, 15 * NOISE)
    bright = sky.stars[:, 2] > 1000 * NOISE
    x, y, _ = sky.stars.astype(int).T
    crossed = bright & (np.abs(distance[y, x]) < 15)
    assert crossed.sum() >= 2
    ratio = fluxes(combine(sky.inputs(), PATCH, method), sky, bright) / fluxes(
        combine(clean.inputs(), PATCH, method, compare_warps=False), clean, bright
    )
    assert abs(np.median(ratio) - 1) < 0.005
    assert np.abs(ratio[~crossed[bright]] - 1).max() < 0.01
    assert np.abs(ratio[crossed[bright]] - 1).max() < 0.05


def test_a_variable_star_is_left_alone_and_one_flash_is_not() -> None:
    n = 10
    sky = MovingSky(seeing(n), n_stars=20, seed=6)
    sky.stars[:2, 2] = 3000 * NOISE
    phases = np.random.default_rng(1).uniform(0, 2 * np.pi, n)
    for visit, phase in enumerate(phases):
        sky.factors[visit][0] = 1 + 0.6 * np.sin(phase)
    sky.factors[4][1] = 3.0
    found = find_artefacts(Cube.of(inputs := sky.inputs()), [item.psf for item in inputs], "mean")
    (x, y), (u, v) = sky.stars[:2, :2].round().astype(int)
    assert found[:, y, x].sum() == 0
    assert found[:, v, u].nonzero()[0].tolist() == [4]


def test_of_two_warps_the_brighter_goes() -> None:
    sky = MovingSky((4.0, 5.0))
    distance = sky.trail(1, 6 * NOISE)
    found = find_artefacts(Cube.of(inputs := sky.inputs()), [item.psf for item in inputs], "mean")
    core = dark(sky) & (np.abs(distance) < 2)
    assert found[1][core].mean() > 0.98
    assert found[0][core].mean() < 0.01


def test_where_trails_cross_each_is_taken_from_its_own_warp() -> None:
    sky = MovingSky(seeing(6), n_stars=10, seed=3)
    one, other = sky.trail(0, 30 * NOISE, slope=0.4), sky.trail(1, 3 * NOISE, slope=-0.5, start=300.0)
    found = find_artefacts(Cube.of(inputs := sky.inputs()), [item.psf for item in inputs], "median")
    crossing = (np.abs(one) < 3) & (np.abs(other) < 3)
    assert crossing.sum() > 20
    assert found[0][crossing].all()
    assert not found[2:, crossing].any()
    assert found[1][dark(sky) & (np.abs(other) < 1)].mean() > 0.9


def test_no_pixel_loses_all_its_warps() -> None:
    sky = MovingSky(seeing(3))
    inputs = sky.inputs()
    for item in inputs[1:]:
        item.planes.image[:, 200:] = np.nan
    sky.trail(0, 30 * NOISE)
    before = Cube.of(inputs)
    found = find_artefacts(before, [item.psf for item in inputs], "mean")
    left = (np.isfinite(before.images) & ~found).sum(axis=0)
    assert (left > 0).all()


def test_without_a_psf_only_sharp_artefacts_are_looked_for() -> None:
    sky = MovingSky(seeing(5))
    sky.ray(2, 200, 200, 100 * NOISE)
    inputs = sky.inputs()
    found = find_artefacts(Cube.of(inputs), [None, *[item.psf for item in inputs[1:]]], "mean")
    assert found[2, 200, 200]
    assert found.mean() < 1e-3

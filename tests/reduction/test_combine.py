"""Coadds of simulated warps against what is known of them: PSF, noise, weights, depth, and odd inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tololo.facility.errors import BadInputError
from tololo.reduction.coadd import combine
from tololo.reduction.coadd_input import CoaddInput
from tololo.reduction.formats.images import Planes
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.psf import half_maximum_width

from .moving_sky import NOISE, PATCH, MovingSky

METHODS = ("mean", "median", "meanclip", "min")


def louder(item: CoaddInput, factor: float) -> CoaddInput:
    """Return a warp with so many times the noise, and none of its light."""
    noise = np.random.default_rng(item.visit + 50).normal(size=item.planes.image.shape) * NOISE * factor
    variance = np.full(noise.shape, (NOISE * factor) ** 2, np.float32)
    planes = replace(item.planes, image=noise.astype(np.float32), variance=variance)
    return replace(item, planes=planes)


def part(item: CoaddInput, x0: int, x1: int) -> CoaddInput:
    """Return the columns of a warp in whole cells."""
    first, last = x0 // 220, x1 // 220
    planes = item.planes
    cut = Planes(
        *(np.ascontiguousarray(plane[:, x0:x1]) for plane in (planes.image, planes.variance, planes.bits)),
        planes.x0 + x0,
        planes.y0,
    )
    return replace(item, planes=cut, psfs=item.psfs[:, first:last])


@pytest.mark.parametrize("method", ["mean", "meanclip"])
def test_the_psf_of_a_coadd_is_that_of_its_stars(method) -> None:
    sky = MovingSky((3.4, 4.0, 4.6, 5.2), n_stars=12, seed=9)
    sky.stars[:, 2] = 3e4 * NOISE
    sky.stars[:, 0], sky.stars[:, 1] = (40 + 95 * np.arange(12) % 380.0), 40 + 100.0 * (np.arange(12) // 4)
    template = combine(sky.inputs(), PATCH, method)
    image = template.planes.image.astype(float)
    seen = [
        half_maximum_width(image[int(y) - 15 : int(y) + 16, int(x) - 15 : int(x) + 16])
        for x, y, _ in sky.stars
    ]
    said = [half_maximum_width(psf) for psf in template.psfs.reshape(-1, 43, 43)]
    assert np.median(said) == pytest.approx(np.median(seen), rel=0.02)


def test_the_noise_is_that_of_inverse_variance_weights() -> None:
    inputs = [
        louder(item, factor)
        for item, factor in zip(MovingSky((4.0,) * 3, n_stars=0).inputs(), (1.0, 2.0, 4.0), strict=True)
    ]
    template = combine(inputs, PATCH, "mean")
    best = NOISE / np.sqrt(1 + 1 / 4 + 1 / 16)
    assert template.planes.image.std() == pytest.approx(best, rel=0.01)
    # Here and there chance looks like an artefact.
    assert np.isclose(template.planes.variance, best**2, rtol=1e-4).mean() > 0.995
    table = template.inputs
    np.testing.assert_allclose(table["weight"], [1 / (f * NOISE) ** 2 for f in (1, 2, 4)], rtol=1e-5)
    np.testing.assert_allclose(table["noise"], [NOISE, 2 * NOISE, 4 * NOISE], rtol=1e-5)


def test_each_visit_has_a_row() -> None:
    sky = MovingSky((3.5, 5.0, 4.2))
    sky.trail(2, 20 * NOISE)
    template = combine(sky.inputs()[::-1], PATCH, "meanclip")
    table = template.inputs
    assert template.visits == [0, 1, 2]
    assert list(table["day_obs"]) == [20190301, 20190302, 20190303]
    np.testing.assert_allclose(table["seeing"], np.array([3.5, 5.0, 4.2]) * 0.263, rtol=0.03)
    assert int(template.depth.sum(dtype=int)) == int(table["used"].sum())
    assert (table["used"] + table["clipped"] == sky.side**2).all()
    assert table["clipped"][2] > 10 * table["clipped"][:2].max()
    assert template.depth.dtype == np.int16


@pytest.mark.parametrize("method", METHODS)
def test_one_warp_is_its_own_coadd(method) -> None:
    (item,) = MovingSky((4.0,)).inputs()
    template = combine([item], PATCH, method)
    np.testing.assert_allclose(template.planes.image, item.planes.image, rtol=1e-6)
    np.testing.assert_allclose(template.planes.variance, item.planes.variance, rtol=1e-6)
    assert (template.depth == 1).all()
    assert not (template.planes.bits & (BIT["CLIPPED"] | BIT["INEXACT_PSF"])).any()
    assert list(template.inputs["clipped"]) == [0]


@pytest.mark.parametrize("method", METHODS)
def test_warps_that_do_not_overlap_lie_side_by_side(method) -> None:
    one, other = MovingSky((4.0, 5.0)).inputs()
    template = combine([part(one, 0, 220), part(other, 220, 440)], PATCH, method)
    assert (template.depth == 1).all()
    np.testing.assert_allclose(template.planes.image[:, :220], one.planes.image[:, :220], rtol=1e-6)
    np.testing.assert_allclose(template.planes.image[:, 220:], other.planes.image[:, 220:], rtol=1e-6)
    widths = [half_maximum_width(psf) for psf in template.psfs[0]]
    assert widths == pytest.approx([4.0, 5.0], rel=0.03)
    x0, y0, x1, y1 = PATCH.outer
    assert template.coverage(PATCH) == pytest.approx(440**2 / ((x1 - x0) * (y1 - y0)))


def test_a_hole_is_not_counted_as_covered() -> None:
    (item,) = MovingSky((4.0,)).inputs()
    item.planes.image[:44] = np.nan
    template = combine([item], PATCH, "mean")
    x0, y0, x1, y1 = PATCH.outer
    assert template.coverage(PATCH) == pytest.approx(0.9 * 440**2 / ((x1 - x0) * (y1 - y0)))
    assert ((template.planes.bits[:44] & BIT["NO_DATA"]) != 0).all()
    assert (template.depth[:44] == 0).all()


def test_warps_that_disagree_in_shape_are_refused() -> None:
    one, other = MovingSky((4.0, 5.0)).inputs()
    other.planes.variance = other.planes.variance[:-1]
    with pytest.raises(BadInputError, match=r"differ in shape: .*\(440, 440\), \(439, 440\).* visit 1\b"):
        combine([one, other], PATCH, "mean")
    with pytest.raises(BadInputError, match="No warps to combine"):
        combine([], PATCH, "mean")

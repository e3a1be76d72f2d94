"""Warps and templates against what is known of their noise, flux and PSF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lsst.images import VisitImage

from tololo.facility.errors import BadInputError
from tololo.reduction.coadd import combine
from tololo.reduction.coadd_input import CoaddInput, strongest
from tololo.reduction.formats.images import Planes, patch_cells, planes_of
from tololo.reduction.formats.masks import BIT
from tololo.reduction.kernels.photometry import aperture_photometry
from tololo.reduction.kernels.psf import half_maximum_width
from tololo.reduction.patch_warp import PSF_SIZE, to_cell_coadd, warp_visit
from tololo.reduction.template import bring_template

from .chain import NAME, Simulation, robust_scatter

METHODS = ("meanclip", "mean", "median", "min")
DETECTOR = 28


def with_pixels(image: VisitImage, pixels: np.ndarray) -> VisitImage:
    """Return a visit image with other pixels and no bad ones."""
    copy = image.copy()
    copy.image.array[:] = pixels
    copy.mask.array[:] = 0
    return copy


@pytest.fixture(scope="module")
def patch(simulation: Simulation):
    """The patch that holds most of the detector."""
    image = simulation.chain.detector(simulation.template_visits[0], DETECTOR).image

    def covered(candidate) -> int:
        warped = simulation.chain.warp(simulation.template_visits[0], candidate)
        return 0 if warped is None else int(np.isfinite(warped.image.array).sum())

    return max(simulation.chain.patches(image), key=covered)


@pytest.fixture(scope="module")
def pure_noise(simulation: Simulation, patch) -> list[CoaddInput]:
    """Warps of the template visits with Gaussian noise of the stated variance instead of the sky."""
    inputs = []
    for visit in simulation.template_visits:
        image = simulation.chain.detector(visit, DETECTOR).image
        rng = np.random.default_rng(visit)
        noise = rng.normal(size=image.image.array.shape) * np.sqrt(image.variance.array)
        warped = warp_visit([with_pixels(image, noise)], patch)
        inputs.append(CoaddInput(visit, warped.planes, warped.psfs))
    return inputs


@pytest.mark.parametrize("method", METHODS)
def test_the_noise_of_a_template_is_the_propagated_one(pure_noise, patch, method) -> None:
    template = combine(pure_noise, patch, method)
    planes = template.planes
    whole = ~planes.bad & (template.depth == len(pure_noise))
    assert whole.sum() > 100_000
    pull = planes.image[whole] / np.sqrt(planes.variance[whole])
    if method == "min":
        # The lowest of three: 0.75 of the scatter, 0.85 sigma low; its variance is an upper bound.
        assert 0.6 < robust_scatter(pull) < 0.9
        assert -1.1 < np.median(pull) < -0.6
    else:
        assert robust_scatter(pull) == pytest.approx(1.0, abs=0.05)
        assert abs(np.median(pull)) < 0.02


@pytest.mark.parametrize("method", ["meanclip", "mean", "median"])
def test_stars_keep_their_flux_and_the_stated_psf(simulation: Simulation, method) -> None:
    science = simulation.chain.detector(*simulation.science_keys[0])
    coadds = simulation.chain.coadds(simulation.template_visits, science.image, method)
    template = bring_template(science.image, coadds)
    stars = science.stars
    chosen = stars[(stars["refId"] > 0) & (stars["snr"] > 100) & ~stars["flags"]]
    x, y = np.asarray(chosen["x"]), np.asarray(chosen["y"])
    inside = (np.minimum(x, y) > 50) & (np.maximum(x, y) < 970)

    def fluxes(planes: Planes) -> np.ndarray:
        sums = aperture_photometry(planes.image, planes.variance, planes.bad, x[inside], y[inside], [10.0])
        return sums["flux"][:, 0]

    ratio = fluxes(template.planes) / fluxes(planes_of(science.image))
    assert np.isfinite(ratio).sum() > 30
    assert np.nanmedian(ratio) == pytest.approx(1.0, abs=0.02)
    widths = [simulation.exposure(visit)["fwhm"] / 0.2623 for visit in simulation.template_visits]
    assert min(widths) < template.fwhm < max(widths)
    assert template.nights == sorted({simulation.chain.exposures[v].day_obs for v in template.visits})


def test_stars_are_not_clipped_for_the_seeing_but_cosmic_rays_are(simulation: Simulation, patch) -> None:
    visits = simulation.template_visits
    items = [replace(item) for item in simulation.chain.inputs(visits, patch)]
    planes = items[0].planes
    spoiled = Planes(planes.image.copy(), planes.variance, planes.bits, planes.x0, planes.y0)
    rng = np.random.default_rng(3)
    sky = ~planes.bad & (np.abs(planes.image) < 3 * np.sqrt(planes.variance))
    rows, columns = np.nonzero(sky)
    picked = rng.choice(len(rows), 200, replace=False)
    hit = rows[picked], columns[picked]
    spoiled.image[hit] += 30 * np.sqrt(planes.variance[hit])
    items[0] = CoaddInput(items[0].visit, spoiled, items[0].psfs)
    clipped, clean = combine(items, patch, "meanclip"), simulation.chain.template(visits, patch, "mean")
    dy, dx = planes.y0 - clean.planes.y0, planes.x0 - clean.planes.x0
    there = hit[0] + dy, hit[1] + dx
    deep = clean.depth[there] == len(visits)
    assert (clipped.planes.bits[there][deep] & BIT["CLIPPED"] > 0).mean() > 0.97
    light = clean.planes.image > 50 * np.sqrt(clean.planes.variance)
    assert light.sum() > 1000
    away = np.ones(light.shape, bool)
    away[there] = False
    assert (clipped.planes.bits[light & away] & BIT["CLIPPED"] > 0).mean() < 0.01


def test_pixels_that_fewer_visits_see_are_said_to_have_another_psf(simulation: Simulation, patch) -> None:
    template = simulation.chain.template(simulation.template_visits, patch)
    inexact = (template.planes.bits & BIT["INEXACT_PSF"]) != 0
    assert inexact.any()
    assert (template.depth[inexact] < len(simulation.template_visits)).all()
    assert not inexact[template.depth == len(simulation.template_visits)].any()
    one = simulation.chain.template(simulation.template_visits[:1], patch)
    assert not (one.planes.bits & BIT["INEXACT_PSF"]).any()


def test_a_coadd_comes_back_from_its_image(simulation: Simulation, patch) -> None:
    visit = simulation.template_visits[1]
    warped = warp_visit(
        [simulation.chain.detector(*key).image for key in simulation.chain.keys(visit)], patch
    )
    item = CoaddInput.from_cell_coadd(visit, to_cell_coadd(warped, NAME, patch, "r", {"VISIT": visit}))
    np.testing.assert_array_equal(item.planes.image, warped.planes.image)
    np.testing.assert_array_equal(item.planes.bits, warped.planes.bits)
    np.testing.assert_array_equal(item.psfs, warped.psfs)
    assert (item.planes.x0, item.planes.y0) == (warped.planes.x0, warped.planes.y0)


def test_a_warps_psf_is_that_of_the_image_on_the_tracts_pixels(simulation: Simulation, patch) -> None:
    detector = simulation.chain.detector(simulation.template_visits[0], DETECTOR)
    warped = warp_visit([detector.image], patch)
    known = warped.psfs[np.isfinite(warped.psfs).all(axis=(2, 3))]
    widths = [half_maximum_width(psf) for psf in known]
    expected = detector.calibrated.psf.fwhm(512, 512) * detector.summary["pixel_scale"] / 0.263
    assert np.median(widths) == pytest.approx(expected, rel=0.03)
    np.testing.assert_allclose(known.sum(axis=(1, 2)), 1.0)


def test_an_image_elsewhere_makes_no_warp(simulation: Simulation, patch) -> None:
    image = simulation.chain.detector(simulation.template_visits[0], DETECTOR).image
    far = next(p for p in patch.tract.patches if abs(p.x - patch.x) + abs(p.y - patch.y) > 4)
    assert warp_visit([image], far) is None


def test_an_unknown_method_is_refused(pure_noise, patch) -> None:
    with pytest.raises(BadInputError, match="Unknown stacking method 'average'"):
        combine(pure_noise, patch, "average")  # type: ignore[arg-type]


def test_of_too_many_visits_those_that_add_most_are_combined(patch) -> None:
    cells, (x0, y0, _, _) = patch_cells(patch).cell_shape, patch.outer
    offset = np.arange(PSF_SIZE) - PSF_SIZE // 2

    def warp_of(visit: int, noise: float, fwhm: float, covered: int) -> CoaddInput:
        image = np.full((cells.y, cells.x), np.nan, np.float32)
        image[:covered] = visit
        psf = np.exp(-0.5 * (offset**2 + offset[:, None] ** 2) / (fwhm / 2.3548) ** 2)
        planes = Planes(image, np.full_like(image, noise**2), np.zeros(image.shape, np.int32), x0, y0)
        return CoaddInput(visit, planes, (psf / psf.sum())[None, None])

    usual = [warp_of(visit, 10.0, 4.0, 200) for visit in range(100, 163)]
    others = [warp_of(1, 20.0, 4.0, 200), warp_of(2, 10.0, 9.0, 200), warp_of(3, 10.0, 4.0, 2)]
    empty, best = warp_of(4, 10.0, 4.0, 0), warp_of(5, 5.0, 4.0, 200)
    unknown = warp_of(6, 10.0, 4.0, 200)
    unknown.psfs[:] = np.nan
    given = [*others, empty, unknown, *usual, best]
    with pytest.raises(BadInputError, match="68 images"):
        combine([item for item in given if item is not empty], patch, "mean")
    chosen, left_out = strongest(iter(given))
    assert [item.visit for item in chosen] == [*range(100, 163), 5]
    assert left_out == [1, 2, 3, 6]
    assert combine(chosen, patch, "mean", compare_warps=False).depth.max() == 64
    assert strongest(given[:4]) == (others, [])

"""A template on the pixels of a detector: its PSF, and what two resamplings have made of its noise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS
from lsst.images import Box, DetectorFrame, SkyProjection

from tololo.facility.errors import NothingToDoError
from tololo.reduction.coadd_input import cell_psfs
from tololo.reduction.difference import DifferenceSettings, difference
from tololo.reduction.formats.images import Planes, cell_coadd, patch_cells, planes_of, snap_to_cells
from tololo.reduction.formats.projection import pixel_to_sky
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.kernels.covariance import measured_covariance
from tololo.reduction.kernels.subtraction import subtract
from tololo.reduction.patch_warp import PSF_SIZE
from tololo.reduction.template import DetectorTemplate, bring_template

from .chain import NAME, SKYMAP, Detector, Simulation


@pytest.fixture(scope="module")
def science(simulation: Simulation) -> Detector:
    return simulation.chain.detector(*simulation.science_keys[0])


@pytest.fixture(scope="module")
def template(simulation: Simulation, science: Detector) -> DetectorTemplate:
    coadds = simulation.chain.coadds(simulation.template_visits, science.image)
    found = bring_template(science.image, coadds)
    assert found is not None
    return found


def test_the_psf_is_that_of_its_stars(science: Detector, template: DetectorTemplate) -> None:
    planes, psf = template.planes, template.psf
    stars = science.stars
    chosen = stars[(stars["refId"] > 0) & (stars["snr"] > 150) & ~stars["flags"]]
    widths = []
    for x, y in zip(chosen["x"], chosen["y"], strict=True):
        stamp, x0, y0 = psf.stamp(x, y)
        half, middle = 6, psf.size // 2
        cut = slice(middle - half, middle + half + 1)
        box = np.s_[y0 + middle - half : y0 + middle + half + 1, x0 + middle - half : x0 + middle + half + 1]
        pixels = planes.image[box]
        if pixels.shape != (13, 13) or planes.bad[box].any():
            continue
        shape = stamp[cut, cut]
        flux = (pixels * shape).sum() / (shape**2).sum()
        widths.append(np.abs(pixels - flux * shape).max() / (flux * shape.max()))
    assert len(widths) > 20
    assert np.median(widths) < 0.06
    assert psf.fwhm(500, 500) == pytest.approx(template.fwhm, rel=0.05)


def test_its_noise_is_correlated_as_said(template: DetectorTemplate) -> None:
    planes = template.planes
    measured = measured_covariance(planes.image, planes.variance, planes.bad)
    assert measured is not None
    assert template.covariance is not None
    middle = np.s_[10:15, 10:15]
    # Faint sources below the noise are in what is measured.
    np.testing.assert_allclose(template.covariance[middle], measured[middle], atol=0.06)
    assert template.covariance[12, 13] > 0.15


@pytest.mark.parametrize(
    ("method", "side"), [("alard_lupton", "template"), ("alard_lupton", "science"), ("zogy", None)]
)
def test_the_difference_has_the_noise_that_it_says(
    science: Detector, template: DetectorTemplate, method, side
) -> None:
    planes, psf = planes_of(science.image), from_piff(science.image.psf)
    stars = science.stars[(science.stars["snr"] > 20) & ~science.stars["flags"]]
    result = subtract(
        planes.image,
        planes.variance,
        planes.bad,
        template.planes.image,
        template.planes.variance,
        template.planes.bad,
        np.asarray(stars["x"]),
        np.asarray(stars["y"]),
        science_fwhm=psf.fwhm(512, 512),
        template_fwhm=template.fwhm,
        science_psf=psf,
        template_psf=template.psf,
        template_covariance=template.covariance,
        convolve=side,
        method=method,
    )
    assert result.noise_ratio == pytest.approx(1.0, abs=0.03)
    assert result.score_scatter == pytest.approx(1.0, abs=0.05)


def test_without_a_psf_in_any_cell_the_detector_has_a_reason(
    simulation: Simulation, science: Detector
) -> None:
    coadds = []
    for coadd, patch in simulation.chain.coadds(simulation.template_visits, science.image):
        planes = planes_of(coadd)
        none = np.full_like(cell_psfs(coadd, coadd.grid, planes), np.nan)
        bare = cell_coadd(planes, none, NAME, patch.tract, patch, coadd.band, coadd.metadata)
        coadds.append((bare, patch))
    template = bring_template(science.image, coadds)
    assert template is not None
    assert template.psf is None
    with pytest.raises(NothingToDoError, match="no PSF model"):
        difference(science.image, science.stars, template, DifferenceSettings())


def test_patches_elsewhere_bring_nothing(simulation: Simulation, science: Detector) -> None:
    coadds = simulation.chain.coadds(simulation.template_visits, science.image)
    other = next(key for key in simulation.science_keys if key[1] != science.key[1])
    assert bring_template(simulation.chain.detector(*other).image, []) is None
    parts = [bring_template(science.image, [one]) for one in coadds]
    whole = bring_template(science.image, coadds)
    assert whole is not None
    covered = [part.coverage for part in parts if part is not None]
    assert max(covered) <= whole.coverage <= sum(covered) + 1e-9


def test_where_two_patches_meet_the_template_is_as_elsewhere() -> None:
    tract = SKYMAP[9000]
    first = tract.patch(60)
    second = tract.patch(61)
    seam, middle = first.outer[2], (first.outer[1] + first.outer[3]) // 2
    random = np.random.default_rng(5)
    stars = np.column_stack([seam + random.uniform(-4, 4, 12), middle + np.arange(-66, 66, 11.0)])

    def sky(x, y):
        squares = [(x - a) ** 2 + (y - b) ** 2 for a, b in stars]
        return np.exp(-0.5 * np.array(squares) / 1.7**2).sum(axis=0)

    coadds = []
    for patch, wide in ((first, (seam - 400, seam)), (second, (second.outer[0], second.outer[0] + 400))):
        x0, y0, x1, y1 = snap_to_cells(patch_cells(patch), (wide[0], middle - 150, wide[1], middle + 150))
        y, x = np.mgrid[y0:y1, x0:x1]
        image = sky(x, y).astype(np.float32)
        planes = Planes(image, np.ones_like(image), np.zeros(image.shape, np.int32), x0, y0)
        cells = patch_cells(patch).cell_shape
        psfs = np.zeros(((y1 - y0) // cells.y, (x1 - x0) // cells.x, PSF_SIZE, PSF_SIZE))
        psfs[..., PSF_SIZE // 2, PSF_SIZE // 2] = 1.0
        metadata = {"VISITS": str(patch.id), "NIGHTS": "20190309"}
        coadds.append((cell_coadd(planes, psfs, NAME, tract, patch, "r", metadata), patch))
    # Most of the detector lies on the first patch.
    shape = (160, 200)
    wcs, turn, scale = WCS(naxis=2), np.radians(0.4), tract.pixel_scale / 3600
    wcs.wcs.ctype, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [131.3, 80.6]
    wcs.wcs.crval = [float(v[0]) for v in tract.pixel_to_sky(np.array([seam]), np.array([middle]))]
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    wcs.wcs.cd = np.array([[-c, s], [s, c]])
    frame = DetectorFrame(instrument="DECam", visit=1, detector=1, bbox=Box.from_shape(shape))
    projection = SkyProjection.from_fits_wcs(wcs, frame)
    science: Any = SimpleNamespace(image=SimpleNamespace(array=np.zeros(shape)), sky_projection=projection)
    template = bring_template(science, coadds)
    assert template is not None
    assert template.coverage == 1.0
    assert template.visits == [first.id, second.id]
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    tx, ty = tract.sky_to_pixel(*(v.reshape(shape) for v in pixel_to_sky(projection, x.ravel(), y.ravel())))
    assert (tx < seam - 60).any()
    assert (tx > seam + 40).any()
    np.testing.assert_allclose(template.planes.image, sky(tx, ty), atol=0.01)

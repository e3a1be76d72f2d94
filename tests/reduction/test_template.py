"""A template on the pixels of a detector: its PSF, and what two resamplings have made of its noise."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.facility.errors import NothingToDoError
from tololo.reduction.coadd_input import cell_psfs
from tololo.reduction.difference import DifferenceSettings, difference
from tololo.reduction.formats.images import cell_coadd, planes_of
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.kernels.covariance import measured_covariance
from tololo.reduction.kernels.subtraction import subtract
from tololo.reduction.template import DetectorTemplate, bring_template

from .chain import NAME, Detector, Simulation


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

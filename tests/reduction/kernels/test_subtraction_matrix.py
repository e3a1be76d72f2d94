"""The noise of a difference against truth: seeing, registration, crowding, resampling, both methods."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tololo.reduction.kernels.subtraction import subtract

from .difference_pair import make_pair, model_psf, resampled_twice

SPARSE, CROWDED = 350e-6, 6e-3
"""Stars per pixel: 2900 and 50,000 on a CCD of 2048 x 4096."""

SEEING, SHIFTS = (0.8, 0.9, 1.0, 1.1, 1.25, 1.6), (0.0, 0.1, 0.2, 0.3)
CORNERS = [
    (0.8, 0.3, SPARSE, True, "alard_lupton"),
    (1.0, 0.1, CROWDED, True, "alard_lupton"),
    (1.6, 0.3, CROWDED, False, "alard_lupton"),
    (1.25, 0.2, SPARSE, True, "alard_lupton"),
    (0.8, 0.0, CROWDED, True, "zogy"),
    (1.25, 0.2, SPARSE, True, "zogy"),
    (1.6, 0.1, SPARSE, False, "zogy"),
]


def check(ratio, shift, density, resampled, method, side):
    pair = make_pair(
        seed=21,
        side=side,
        science_fwhm=3.7 * ratio,
        shift=(0.8 * shift, -0.6 * shift),
        n_transients=0,
        density=density,
        template_depth=3,
    )
    covariance = None
    if resampled:
        pair, covariance = resampled_twice(pair)
    bright = pair.stars[pair.stars[:, 2] > 8000]
    result = subtract(
        *pair.planes(),
        *bright[:, :2].T,
        science_fwhm=pair.science_fwhm,
        template_fwhm=pair.template_fwhm,
        science_psf=model_psf(pair.science_fwhm, side),
        template_psf=model_psf(pair.template_fwhm, side),
        method=method,
        template_covariance=covariance,
    )
    assert result.method == method
    # At 3 pixels FWHM the stars' light has power beyond what the pixels sample. Moved by a part of a pixel it
    # is not the same any more, and proper subtraction raises the highest frequencies most.
    undersampled = method == "zogy" and ratio < 0.9 and shift > 0
    assert result.noise_ratio == pytest.approx(1.0, abs=0.06 if undersampled else 0.03)
    # Wings beyond the kernel, or beyond the PSF models, of thousands of stars are left in crowded fields.
    assert result.score_scatter == pytest.approx(1.0, abs=0.08 if density == SPARSE else 0.16)
    assert result.flux_ratio == pytest.approx(pair.flux_ratio, rel=0.025)
    if method == "alard_lupton":
        assert result.convolved == ("science" if ratio < 1 else "template")
        z = np.abs(result.difference / np.sqrt(result.variance))
        assert np.mean(z[~result.bad] > 5) < 1.5e-4
    own = np.mean(pair.science_bad | pair.template_bad)
    # The edges are a good part of so small an image.
    assert result.bad.mean() < 0.07 + own


@pytest.mark.parametrize(("ratio", "shift", "density", "resampled", "method"), CORNERS)
def test_the_noise_is_as_expected_at_the_corners(ratio, shift, density, resampled, method):
    check(ratio, shift, density, resampled, method, 640 if density == SPARSE else 520)


@pytest.mark.long
@pytest.mark.parametrize("method", ["alard_lupton", "zogy"])
@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("density", [SPARSE, CROWDED])
@pytest.mark.parametrize(("ratio", "shift"), itertools.product(SEEING, SHIFTS))
def test_the_noise_is_as_expected_everywhere(ratio, shift, density, resampled, method):
    check(ratio, shift, density, resampled, method, 768)


def test_a_template_taken_for_white_gives_a_wrong_score():
    # What the covariance is for: without it the score is not in units of its noise.
    pair, covariance = resampled_twice(
        make_pair(seed=31, side=640, science_fwhm=3.6, n_transients=0, density=150e-6, template_depth=1)
    )
    bright = pair.stars[pair.stars[:, 2] > 8000, :2].T
    widths = {"science_fwhm": 3.6, "template_fwhm": 3.7}
    known = subtract(*pair.planes(), *bright, **widths, template_covariance=covariance)
    white = subtract(*pair.planes(), *bright, **widths)
    assert known.noise_ratio == pytest.approx(1.0, abs=0.02)
    assert known.score_scatter == pytest.approx(1.0, abs=0.05)
    assert white.score_scatter > 1.1

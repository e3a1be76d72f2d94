"""Every pair of epochs of a band of the real DECam cutouts, both ways round."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tololo.reduction.kernels.covariance import resampled_covariance
from tololo.reduction.kernels.subtraction import subtract

from .kernels.real_epochs import load, onto

EPOCHS = {
    "z": ("150411", "170316", "170419", "180212"),
    "r": ("170522", "180128", "180314"),
    "g": ("170329", "180225"),
}
PAIRS = [(band, *pair) for band, dates in EPOCHS.items() for pair in itertools.permutations(dates, 2)]

NOISE = 0.04
"""How far the robust scatter of a difference may be from its noise; the weight maps are no better."""

FALSE = 124
"""Most pixels beyond 5 sigma on 250 x 250: the worst that hotpants leaves on these cutouts."""


def difference_of(science_date, template_date):
    science, other = load(science_date), load(template_date)
    image, variance, bits, _ = onto(other, science)
    bad = ~np.isfinite(image) | (bits != 0)
    own = np.mean(science.bad | bad)
    result = subtract(
        science.image,
        science.variance,
        science.bad,
        image.astype(np.float32),
        variance.astype(np.float32),
        bad,
        science.x,
        science.y,
        science_fwhm=science.fwhm,
        template_fwhm=other.fwhm,
        template_covariance=resampled_covariance([1.0]),
    )
    return result, own


@pytest.mark.parametrize(("band", "science", "template"), PAIRS)
def test_a_pair_leaves_its_noise_and_few_outliers(band, science, template):
    result, own = difference_of(science, template)
    assert result.noise_ratio == pytest.approx(1.0, abs=NOISE)
    assert result.flux_ratio == pytest.approx(1.0, abs=0.1)
    assert result.bad.mean() < own + 0.05
    z = np.abs(result.difference / np.sqrt(result.variance))[~result.bad]
    assert np.count_nonzero(z > 5) < FALSE

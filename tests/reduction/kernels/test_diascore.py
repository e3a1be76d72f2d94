"""The score of a difference image."""

from __future__ import annotations

import numpy as np
import pytest

from tololo.reduction.kernels.diascore import TILE, _scatter, score_of
from tololo.reduction.kernels.subtraction import subtract

from .difference_pair import make_pair, model_psf


def test_the_scatter_is_that_of_the_bulk() -> None:
    random = np.random.default_rng(4)
    score = random.normal(0.02, 1.3, (600, 500)).astype(np.float32)
    score[random.random(score.shape) < 0.01] = 40.0
    score[:, :50] = 0.0
    assert _scatter(score, (0, 600, 0, 500)) == pytest.approx(1.3, rel=0.03)
    assert np.isnan(_scatter(score, (0, 600, 0, 50)))


def test_tiles_join_without_a_seam() -> None:
    side = 2 * TILE - 100
    pair = make_pair(seed=3, side=side, n_transients=0, density=50e-6)
    bright = pair.stars[pair.stars[:, 2] > 8000]
    result = subtract(
        *(*pair.planes(), *bright[:, :2].T),
        science_fwhm=pair.science_fwhm,
        template_fwhm=pair.template_fwhm,
        science_psf=model_psf(pair.science_fwhm, side),
    )
    assert np.isfinite(result.difference).all()
    scored = score_of(result)
    steps = np.abs(np.diff(scored.score, axis=1))
    usual = np.median(steps, axis=0)
    # The PSF changes a little from tile to tile, the score with it.
    assert usual[TILE - 1] < 1.15 * np.median(usual)
    assert scored.scatter.shape == (2, 2)
    known = np.isfinite(scored.flux_variance) & ~result.bad
    assert 1.4826 * np.median(np.abs(scored.score[known])) == pytest.approx(1.0, abs=0.03)

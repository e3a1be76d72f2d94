"""The warp bench resamples what it says, and tells good pixels from bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from .modules import bench_module


def test_our_side_resamples_and_the_figures_see_what_is_wrong(tmp_path: Path) -> None:
    with bench_module("warp") as bench, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SHAPE", (300, 280))
        source = bench.simulate(tmp_path, 1)
        ra, dec = (float(value) for value in source.all_pix2world(140, 150, 0))
        patch.setattr(bench, "OUTPUT", (320, 340))
        part, whole = bench.ours(tmp_path, source, bench.output_of(ra, dec), (320, 340))
        assert 0 < part <= whole
        image, variance = (fits.getdata(tmp_path / name) for name in ("ours.fits", "ours.variance.fits"))
        assert 0.5 < np.isfinite(image).mean() < 0.9
        # The other side, as it should be and with a pixel's noise more.
        weight = np.where(np.isfinite(image), 1 / variance, 0).astype(np.float32)
        fits.writeto(tmp_path / bench.RESAMPLED[1], weight)
        for noise in (0.0, 1.0):
            more = np.random.default_rng(2).normal(0, noise * bench.SKY_NOISE, image.shape)
            fits.writeto(tmp_path / bench.RESAMPLED[0], (image + more).astype(np.float32), overwrite=True)
            found = bench.agreement(tmp_path)
            assert found["difference_rms_over_noise"] == pytest.approx(noise, abs=0.02)

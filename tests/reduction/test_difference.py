"""What a table of difference sources gets beside what the pixels give."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS
from lsst.images import Box, DetectorFrame, SkyProjection

from tololo.reduction.difference import sky_covariance

SCALE = 0.263 / 3600


@pytest.mark.parametrize("turn", [0.0, 30.0, 90.0])
def test_position_errors_turn_with_the_sky(turn: float) -> None:
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [359.9999, -40.0], [101.0, 101.0]
    wcs.wcs.cd = SCALE * np.array([[-c, s], [s, c]])
    frame = DetectorFrame(instrument="DECam", visit=1, detector=1, bbox=Box.from_shape((200, 200)))
    projection = SkyProjection.from_fits_wcs(wcs, frame)
    x, y = np.array([100.0, 100.0]), np.array([100.0, 100.0])
    found = sky_covariance(
        projection, x, y, np.array([0.3, np.nan]), np.array([0.1, 0.1]), np.array([0.02, np.nan])
    )
    turned = wcs.wcs.cd @ np.array([[0.09, 0.02], [0.02, 0.01]]) @ wcs.wcs.cd.T
    np.testing.assert_allclose(found[0], turned, rtol=1e-3, atol=1e-4 * SCALE**2)
    assert np.isnan(found[1, 0, 1])

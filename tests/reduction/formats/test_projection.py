"""LSST's projection of an exposure's TPV header against astropy's reading of it."""

from __future__ import annotations

import numpy as np
from astropy import units as u
from astropy.wcs import WCS
from lsst.images import Box, GeneralFrame

from reduction.chain import Simulation
from tololo.reduction.formats.projection import pixel_to_sky, projection_of, sip_wcs, sky_to_pixel

KEY = (840004, 28)


def test_pixels_to_sky_and_back(simulation: Simulation) -> None:
    detector = simulation.chain.detector(*KEY)
    x, y = np.random.default_rng(1).uniform(-50, 1074, (2, 300))
    ra, dec = pixel_to_sky(detector.image.sky_projection, x, y)
    true_ra, true_dec = detector.calibrated.wcs.all_pix2world(x, y, 0)
    east = (ra - true_ra) * np.cos(np.radians(dec)) * 3600
    assert np.hypot(east, (dec - true_dec) * 3600).max() < 1e-3
    back = sky_to_pixel(detector.image.sky_projection, ra, dec)
    np.testing.assert_allclose(back, (x, y), atol=1e-3)
    assert ((ra >= 0) & (ra < 360)).all()


def test_no_points_and_single_points(simulation: Simulation) -> None:
    projection = simulation.chain.detector(*KEY).image.sky_projection
    for function in (pixel_to_sky, sky_to_pixel):
        a, b = function(projection, [], [])
        assert a.size == b.size == 0
    ra, dec = pixel_to_sky(projection, 10.0, 20.0)
    assert ra.shape == dec.shape == (1,)


def test_sip_stands_for_tpv_over_a_whole_ccd(simulation: Simulation) -> None:
    wcs = simulation.chain.detector(*KEY).pixels.wcs
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, 2045, 21), np.linspace(0, 4093, 21)))
    back = sip_wcs(wcs, (4094, 2046)).all_world2pix(*wcs.all_pix2world(x, y, 0), 0)
    np.testing.assert_allclose(back, (x, y), atol=1e-5)


def test_a_wcs_without_distortion_stands_for_itself() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["RA---TAN", "DEC--TAN"], ["deg", "deg"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, 2.0], [50.0, 60.0], [-7e-5, 7e-5]
    projection = projection_of(wcs, GeneralFrame(unit=u.pix), Box.from_shape((100, 100)), (100, 100))
    assert projection.fits_approximation is None
    ra, dec = pixel_to_sky(projection, 49.0, 59.0)
    np.testing.assert_allclose((ra[0], dec[0]), (150.0, 2.0), atol=1e-9)

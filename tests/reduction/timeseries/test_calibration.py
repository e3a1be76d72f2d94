from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from real_data import REAL, needs
from tololo.reduction.timeseries.calibration import UNCALIBRATED, calibrate, contamination, extinction
from tololo.reduction.timeseries.stars import read_reference

CATALOGS = REAL / "lco" / "banzai_catalogs"


@needs(CATALOGS)
@pytest.mark.parametrize(
    ("name", "filter_name", "seconds", "expected"),
    [
        ("cpt1m012-fa06-20200113-0102", "ip", 250.032, 23.1),
        ("ogg2m001-ep04-20201006-0097", "gp", 60.0, 25.15),
    ],
)
def test_zero_points_of_real_frames(name: str, filter_name: str, seconds: float, expected: float) -> None:
    """Sources as the observatory's pipeline measured them, matched to reference magnitudes."""
    path = CATALOGS / f"{name}-matched-cat.fits"
    table = Table.read(path)
    reference = read_reference(path, filter_name)
    sources = table[np.isfinite(table[f"{filter_name[0]}mag"])]
    assert len(sources) == len(reference)
    flux = np.asarray(sources["flux"], float) / seconds
    with np.errstate(invalid="ignore", divide="ignore"):
        error = 1.0857 * np.asarray(sources["fluxerr"], float) / np.asarray(sources["flux"], float)
    good = (sources["flag"] == 0) & (flux > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        instrumental = np.where(good, -2.5 * np.log10(flux), np.nan)
    found = calibrate(instrumental, error, reference["magnitude"], reference["error"], reference["color"])
    assert found.calibrated
    assert found.n_stars > 20
    assert found.zero_point == pytest.approx(expected, abs=0.1)
    assert found.error < 0.03


def made(n: int = 200, seed: int = 4) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    magnitude, color = rng.uniform(13, 18, n), rng.normal(1.2, 0.4, n)
    error = 0.003 * 10 ** (0.25 * (magnitude - 13))
    instrumental = magnitude - 22.9 - 0.05 * (color - 1.2) + rng.normal(0, error / 8)
    return instrumental, error, magnitude, np.full(n, 0.01), color


def test_zero_point_and_colour_term() -> None:
    instrumental, error, magnitude, magnitude_error, color = made()
    instrumental[::9] -= 0.7  # two stars in one aperture
    instrumental[1], color[2], magnitude[3] = np.nan, np.nan, np.nan
    found = calibrate(instrumental, error, magnitude, magnitude_error, color)
    assert found.color_term.slope == pytest.approx(0.05, abs=3 * found.color_term.error)
    assert found.zero_point == pytest.approx(22.9 + 0.05 * (found.color - 1.2), abs=3 * found.error)
    assert found.error < 0.005


def test_without_reference_stars() -> None:
    nothing = np.full(5, np.nan)
    found = calibrate(np.zeros(5), np.full(5, 0.01), nothing, nothing, nothing)
    assert (found.zero_point, found.n_stars, found.calibrated) == (UNCALIBRATED, 0, False)
    assert np.isnan(found.error)


def test_extinction() -> None:
    rng = np.random.default_rng(1)
    airmass = rng.uniform(1, 1.9, 40)
    points = 23.1 - 0.12 * airmass + rng.normal(0, 0.003, 40)
    points[:6] -= 0.25  # clouds
    error = np.full(40, 0.002)
    assert -extinction(points, error, airmass).slope == pytest.approx(0.12, abs=0.015)
    assert not extinction(points, error, np.full(40, 1.2)).fitted
    assert not extinction(points[:4], error[:4], airmass[:4]).fitted


def test_what_neighbours_add() -> None:
    ra = 10 + np.array([0.0, 1.0, 60.0, 90.0]) / 3600
    added = contamination(ra, np.zeros(4), np.array([15.0, 17.5, 15.0, np.nan]), 2.0, 1.5)
    assert added[0] == pytest.approx(0.1, rel=0.2)
    assert added[1] == pytest.approx(10.0, rel=0.2)
    assert list(added[2:]) == [0.0, 0.0]

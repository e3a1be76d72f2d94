from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from reduction.timeseries.made_frames import write_frame
from tololo.reduction.kernels.local_sky import local_sky
from tololo.reduction.timeseries.frames import Frame, read_frame
from tololo.reduction.timeseries.photometry import MASKED, NO_SKY, OFF_FRAME, SATURATED, Apertures, measure

FWHM = 4.0


def stars_on_sky(
    seed: int = 3, n: int = 60, sky: float = 300.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A frame with Gaussian stars on a grid; image, x, y, fluxes (counts)."""
    rng = np.random.default_rng(seed)
    side = math.ceil(math.sqrt(n)) * 60
    j, i = np.mgrid[0:side, 0:side]
    image = np.full((side, side), sky)
    grid = np.array([(30 + 60 * (k % (side // 60)), 30 + 60 * (k // (side // 60))) for k in range(n)], float)
    x, y = (grid + rng.uniform(-0.5, 0.5, grid.shape)).T
    flux = 10 ** rng.uniform(3.5, 5.0, n)
    sigma = FWHM / 2.3548
    for a, b, f in zip(x, y, flux, strict=True):
        image += f / (2 * math.pi * sigma**2) * np.exp(-((i - a) ** 2 + (j - b) ** 2) / 2 / sigma**2)
    noisy = rng.poisson(image) + rng.normal(0, 8, image.shape)
    return noisy.astype(np.float32), x, y, flux


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Frame, np.ndarray, np.ndarray, np.ndarray]:
    image, x, y, flux = stars_on_sky()
    return read_frame(write_frame(tmp_path_factory.mktemp("made") / "x.fits", image)), x, y, flux


def test_fluxes_and_their_errors(made: tuple[Frame, np.ndarray, np.ndarray, np.ndarray]) -> None:
    frame, x, y, flux = made
    apertures = Apertures(radius=6.0, inner=10.0, outer=20.0)
    found = measure(frame, x, y, apertures, flat_error=0.0)
    inside = 1 - math.exp(-(6.0**2) / 2 / (FWHM / 2.3548) ** 2)
    pull = (found.stars["flux"] * 60.0 - flux * inside) / (found.stars["flux_err"] * 60.0)
    assert (found.stars["flags"] == 0).all()
    assert abs(pull.mean()) < 3 / math.sqrt(len(pull))
    assert 0.75 < pull.std() < 1.3
    assert found.correction == pytest.approx(1 / inside, abs=5 * found.correction_error + 1e-4)
    assert found.correction_error < 0.005


def test_a_flat_that_is_wrong_is_in_the_error(made: tuple[Frame, np.ndarray, np.ndarray, np.ndarray]) -> None:
    frame, x, y, _ = made
    apertures = Apertures(6.0, 10.0, 20.0)
    without, with_it = (measure(frame, x, y, apertures, flat_error=e).stars for e in (0.0, 0.02))
    expected = np.hypot(without["flux_err"], 0.02 * without["flux"])
    np.testing.assert_allclose(with_it["flux_err"], expected, rtol=1e-6)


def test_flags(made: tuple[Frame, np.ndarray, np.ndarray, np.ndarray]) -> None:
    frame, x, y, _ = made
    image, bad = frame.image.copy(), frame.bad.copy()
    image[round(y[0]), round(x[0])] = frame.info.saturation
    bad[round(y[0]), round(x[0])] = True
    bad[round(y[1]) + 2, round(x[1])] = True
    bad[round(y[2]) - 25 : round(y[2]) + 26, round(x[2]) - 25 : round(x[2]) + 26] = True
    spoiled = replace(frame, image=image, bad=bad)
    px, py = np.append(x[:4], [-3.0, 3.0, math.nan]), np.append(y[:4], [50.0, 50.0, 50.0])
    found = measure(spoiled, px, py, Apertures(6.0, 10.0, 20.0)).stars
    assert list(found["flags"][:4]) == [MASKED | SATURATED, MASKED, MASKED | NO_SKY, 0]
    assert (found["flags"][4:] & OFF_FRAME == OFF_FRAME).all()
    assert np.isnan(found["flux"][[2, 4, 5, 6]]).all()
    assert np.isfinite(found["flux"][[0, 1, 3]]).all()


def test_the_sky_does_not_see_neighbours() -> None:
    rng = np.random.default_rng(5)
    image = rng.normal(100, 5, (81, 81)).astype(np.float32)
    image[52:58, 40:46] += 3000.0
    bad = np.zeros(image.shape, bool)
    sky = local_sky(image, bad, np.array([40.0, math.nan]), np.array([40.0, 40.0]), 8.0, 20.0)
    assert sky["level"][0] == pytest.approx(100, abs=5 * 5 / math.sqrt(sky["number"][0]))
    assert sky["scatter"][0] == pytest.approx(5, rel=0.1)
    assert math.pi * (20**2 - 8**2) * 0.9 < sky["number"][0] < math.pi * (20**2 - 8**2)
    assert math.isnan(sky["level"][1])
    assert sky["number"][1] == 0


def test_the_ring_lies_outside_the_star() -> None:
    small, wide = Apertures.of(2.0, 0.389), Apertures.of(2.0, 0.389, fwhm=6.0)
    assert small.radius == wide.radius == pytest.approx(5.141, abs=1e-3)
    assert small.inner == pytest.approx(8.141, abs=1e-3)
    assert wide.inner == 18.0
    for one in (small, wide):
        assert math.pi * (one.outer**2 - one.inner**2) > 300, "enough pixels for a sky"

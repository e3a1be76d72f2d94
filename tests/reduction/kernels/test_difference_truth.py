"""What difference imaging finds of what is true, over seeing, registration and crowding."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tololo.reduction.kernels.diasource import measure_difference
from tololo.reduction.kernels.psf import PixelPsf
from tololo.reduction.kernels.subtraction import subtract
from tololo.reduction.reliability import read_model

from .difference_pair import make_pair, moffat

TEMPLATE_FWHM, VARIATION = 3.7, 0.03
SPARSE, CROWDED = 350e-6, 50_000 / (2048 * 4096)
"""Stars per pixel; the second is 50,000 on a CCD."""

VERY_BRIGHT = 240_000.0
"""Electrons: a thousand times the noise."""

SATURATED, NO_DATA = 1, 2
PLANES = {"saturated": SATURATED, "nodata": NO_DATA, "edge": NO_DATA}

WHOLE = list(product((0.8, 1.0, 1.25, 1.6), ((0.0, 0.0), (0.22, -0.2)), (SPARSE, 2000e-6, CROWDED)))
SHORT = [(0.8, (0.22, -0.2), SPARSE), (1.25, (0.0, 0.0), CROWDED), (1.6, (0.22, -0.2), SPARSE)]


def varying_psf(fwhm: float, side: int) -> PixelPsf:
    """The PSF of the science image, which grows by 3 % towards one corner."""
    slope = (moffat(1.01 * fwhm, side=35) - moffat(0.99 * fwhm, side=35)) / 0.02 * VARIATION / 2
    middle = (side - 1) / 2
    terms = np.stack([moffat(fwhm, side=35), slope, -slope])
    return PixelPsf(terms, 1, (middle, middle), (side / 2, side / 2))


def found_of(ratio: float, shift: tuple[float, float], density: float, seed: int, side: int) -> dict:
    """Difference a simulated pair; return counts, fluxes over the truth, and sums that should be none."""
    pair = make_pair(
        seed=seed, side=side, science_fwhm=TEMPLATE_FWHM * ratio, template_fwhm=TEMPLATE_FWHM, shift=shift,
        density=density, variation=VARIATION, n_transients=int(60 * (side / 700) ** 2),
    )  # fmt: skip
    psf = varying_psf(pair.science_fwhm, side)
    stars = pair.stars[pair.stars[:, 2] > 8000 * np.sqrt(density / SPARSE)]
    result = subtract(
        *(*pair.planes(), *stars[:, :2].T),
        science_fwhm=pair.science_fwhm,
        template_fwhm=TEMPLATE_FWHM,
        science_psf=psf,
    )
    bits = np.where(pair.saturated, SATURATED, 0).astype(np.int32)
    science = (pair.science, pair.science_variance, pair.science_bad)
    sources = measure_difference(result, *science, psf, bits=bits, planes=PLANES)
    accepted = (sources["rejection"] == "") & (read_model().apply(sources) >= 0.5)
    places = np.nan_to_num(np.column_stack([sources["x"], sources["y"]]), nan=-99.0)
    kernel, sky = result.psf.kernel(side / 2, side / 2), cKDTree(pair.stars[:, :2])
    inside = moffat(pair.science_fwhm, side=35).sum()
    out = {"planted": 0, "found": 0, "accepted": int(accepted.sum()), "shares": [], "pulls": []}
    for x, y, flux, _ in pair.transients:
        box = np.s_[max(0, round(y) - 3) : round(y) + 4, max(0, round(x) - 3) : round(x) + 4]
        at_edge = min(x, y, side - x, side - y) < 8
        around = pair.stars[sky.query_ball_point((x, y), 6.0 * pair.science_fwhm)]
        near = np.hypot(around[:, 0] - x, around[:, 1] - y) < 1.5 * pair.science_fwhm
        # Isolated: no brighter star upon it, nor in the wings of a very bright one.
        hidden = (near & (around[:, 2] > 3 * abs(flux))) | (around[:, 2] > VERY_BRIGHT)
        if at_edge or result.bad[box].any() or hidden.any():
            continue
        noise = np.sqrt(result.variance[round(y), round(x)] / (kernel**2).sum())
        if abs(flux) * inside < 10 * noise:
            continue
        distance = np.hypot(*(places - (x, y)).T)
        own = np.flatnonzero(accepted & (distance < 2.0))
        out["planted"] += 1
        if own.size:
            best = own[np.argmin(distance[own])]
            out["found"] += 1
            out["shares"].append(sources["psfFlux"][best] / (flux * inside))
            out["pulls"].append((sources["psfFlux"][best] - flux * inside) / sources["psfFluxErr"][best])
    alone = cKDTree(pair.transients[:, :2]).query(places)[0] > 8
    out["false"] = int((accepted & alone).sum())
    out["forbidden"] = int(
        (accepted & (sources["pixelFlags_saturatedCenter"] | (sources["edgeDistance"] < 4))).sum()
    )
    bright = cKDTree(pair.stars[pair.stars[:, 2] > 1e5, :2]) if (pair.stars[:, 2] > 1e5).any() else None
    dipoles = sources["isDipole"] if bright is None else sources["isDipole"] & (bright.query(places)[0] < 6)
    out["dipoles"] = int((accepted & dipoles & alone).sum())
    return out


def judge(conditions: list[tuple[float, tuple[float, float], float]], side: int) -> None:
    """Over all conditions, completeness, purity and fluxes are what a survey relies on."""
    rows = [found_of(*condition, seed=300 + n, side=side) for n, condition in enumerate(conditions)]
    planted, found, accepted = (sum(row[name] for row in rows) for name in ("planted", "found", "accepted"))
    assert planted > 20 * len(conditions) * (side / 700) ** 2
    assert found / planted >= 0.95
    assert 1 - sum(row["false"] for row in rows) / accepted >= 0.95
    assert sum(row["forbidden"] for row in rows) == 0
    assert sum(row["dipoles"] for row in rows) == 0
    shares = np.concatenate([row["shares"] for row in rows])
    pulls = np.concatenate([row["pulls"] for row in rows])
    error = 1.2533 * 1.4826 * np.median(np.abs(shares - np.median(shares))) / np.sqrt(shares.size)
    assert abs(np.median(shares) - 1) < 0.01 + 2 * error
    assert 1.4826 * np.median(np.abs(pulls)) < 1.4


def test_transients_are_found_and_nothing_else() -> None:
    judge(SHORT, 560)


@pytest.mark.long
def test_transients_are_found_and_nothing_else_in_all_conditions() -> None:
    judge(WHOLE, 700)

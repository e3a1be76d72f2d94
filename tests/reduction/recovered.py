"""Tables of detectors with injected sources, whose fate is made up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table, vstack

from tololo.reduction.recovery import Injected
from tololo.reduction.recovery_fit import completeness
from tololo.reduction.references import ZERO_POINT


@dataclass(frozen=True)
class Sky:
    """What becomes of the injected sources of a detector.

    ``limit`` is the magnitude of 5 sigma, ``bias`` the error of the measured fluxes (a fraction),
    ``spurious`` and ``real`` are numbers of other detections, the latter also there without injection.
    """

    band: str = "r"
    number: int = 600
    depth: float = 23.0
    width: float = 0.15
    top: float = 1.0
    limit: float = 23.3
    bias: float = 0.0
    spurious: int = 0
    real: int = 0
    seeing: float = 1.0
    plain: bool = True
    seed: int = 0


def detector(visit: int, sky: Sky, number: int = 28) -> Injected:
    """Return a detector of a visit, with sources on a grid 60 pixels wide."""
    random = np.random.default_rng([visit, number, sky.seed])
    mag = random.uniform(18, 25, sky.number)
    x, y = 60.0 * (np.arange(sky.number) % 30) + 50, 60.0 * (np.arange(sky.number) // 30) + 50
    flux = 10 ** (0.4 * (ZERO_POINT - mag))
    noise = 10 ** (0.4 * (ZERO_POINT - sky.limit)) / 5
    truth = Table(
        {
            "injection_id": np.arange(1, sky.number + 1),
            "mag": mag,
            "band": np.full(sky.number, sky.band),
            "x": x,
            "y": y,
            "flux": flux,
            "snr": flux / noise,
            "snr_beneath": np.where(np.arange(sky.number) % 4 == 0, 20.0, 0.5),
            **{name: np.zeros(sky.number, bool) for name in ("masked", "saturated")},
            "inside": np.ones(sky.number, bool),
        }
    )
    chance = random.random(sky.number)
    found = chance < completeness(mag, sky.depth, sky.width, sky.top)
    seen = found | (chance < completeness(mag, sky.depth + 0.3, sky.width, 1.0))
    measured = flux * (1 + sky.bias) + noise * random.normal(size=sky.number)
    own = _sources(x[seen], y[seen], measured[seen], noise, np.where(found[seen], "", "too faint"))
    others = _elsewhere(random, sky.real, noise, 3.0)
    false = _elsewhere(random, sky.spurious, noise, 23.0)
    return Injected(
        visit,
        number,
        sky.band,
        sky.seeing,
        truth,
        vstack([own, others, false], metadata_conflicts="silent"),
        others if sky.plain else None,
    )


def _elsewhere(random: np.random.Generator, number: int, noise: float, shift: float) -> Table:
    """Return detections between the nodes of the grid."""
    x, y = 60.0 * (np.arange(number) % 30) + 50 + shift, 60.0 * (np.arange(number) // 30) + 80
    return _sources(x, y, noise * random.uniform(6, 20, number), noise, np.full(number, ""))


def _sources(x: np.ndarray, y: np.ndarray, flux: np.ndarray, noise: float, rejection: np.ndarray) -> Table:
    number = len(x)
    return Table(
        {
            "x": x,
            "y": y,
            "psfFlux": flux,
            "psfFluxErr": np.full(number, noise),
            "isNegative": np.zeros(number, bool),
            "reliability": np.full(number, 0.9),
            "rejection": np.asarray(rejection, dtype="U24"),
        }
    )

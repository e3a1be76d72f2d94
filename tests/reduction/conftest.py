"""Reductions that several tests look at, made once."""

from __future__ import annotations

import pytest

from real_data import FIELD
from tololo.simulation.instcal import simulate_nights

from .chain import Chain, Simulation


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """The demo's simulated nights."""
    truth = simulate_nights(tmp_path_factory.mktemp("nights") / "simulation")
    return Simulation(truth, Chain(truth.images, truth.reference))


@pytest.fixture(scope="session")
def real_field() -> Chain:
    """The real epochs of one field."""
    if not FIELD.is_dir():
        pytest.skip(f"no real data in {FIELD} (set TOLOLO_REAL_DATA)")
    return Chain(FIELD / "exposures", FIELD / "gaia")

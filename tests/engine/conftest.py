"""A drill repository that several files of tests copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tololo.simulation.drill import make_drill_repository


@pytest.fixture(scope="session")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten detectors of one visit; tests that write take a copy."""
    repository = tmp_path_factory.mktemp("ten") / "repository"
    make_drill_repository(repository, detectors=10)
    return repository

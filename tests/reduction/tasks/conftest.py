"""A night that several modules inject sources into, made once."""

from __future__ import annotations

import pytest

from .injected_night import Night, build


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A template of three visits, and a night after it, with and without injected sources."""
    return build(tmp_path_factory.mktemp("injected"))

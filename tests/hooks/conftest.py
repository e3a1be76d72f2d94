"""A curated repository that several files of tests copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tololo.hooks.curation import CurationHook

from .curated import build


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `build` makes; tests that write take a copy."""
    return build(tmp_path_factory.mktemp("curated") / "repo")


@pytest.fixture
def hook(curated: Path, tmp_path: Path) -> CurationHook:
    """The hook of a copy of `curated`."""
    return CurationHook(shutil.copytree(curated, tmp_path / "repo"))

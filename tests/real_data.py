"""Real data that some tests compare with: the folder TOLOLO_REAL_DATA, by default ../shared/data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL = (Path(__file__).parents[1] / (os.environ.get("TOLOLO_REAL_DATA") or "../shared/data")).resolve()
INSTCAL = REAL / "decam_instcal"
FIELD = INSTCAL / "field_186.744+25.462"


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip a test where a folder of real data is not there."""
    return pytest.mark.skipif(not path.is_dir(), reason=f"no real data in {path} (set TOLOLO_REAL_DATA)")

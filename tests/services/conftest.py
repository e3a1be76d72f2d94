from __future__ import annotations

import pytest

from tololo.services.home import Home


@pytest.fixture(autouse=True)
def _no_facility_of_the_user(monkeypatch):
    for name in ("TOLOLO_HOME", "TOLOLO_POSTGRES_URL", "TOLOLO_WEB_PORT", "TOLOLO_TOM_PORT", "LSST_DB_AUTH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "var")

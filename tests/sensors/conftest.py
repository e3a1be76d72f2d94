from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import GOOD_VISITS
from sensors.datasets import add_visit_images


@pytest.fixture(autouse=True)
def _outside_the_task_runner() -> Iterator[None]:
    """Let tests call `execute` themselves."""
    from airflow.sdk.bases.operator import ExecutorSafeguard

    ExecutorSafeguard.test_mode = True
    yield
    ExecutorSafeguard.test_mode = False


@pytest.fixture
def repository(own_repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the exposures of NIGHT, behind the connection `butler_test`."""
    connection = {"conn_type": "butler", "host": str(own_repository)}
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_TEST", json.dumps(connection))
    return own_repository


@pytest.fixture
def visited(repository: Path) -> Path:
    """The same with visit images."""
    add_visit_images(repository, GOOD_VISITS)
    return repository

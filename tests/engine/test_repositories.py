"""Butlers that stay open while their database goes and comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hooks.test_bootstrap import make_plan
from tololo.engine.questions import QUESTIONS
from tololo.facility.errors import UnavailableError
from tololo.hooks.bootstrap import bootstrap
from tololo.services import postgres
from tololo.services.home import Home

pytestmark = pytest.mark.services

BACKENDS = "SELECT {what} FROM pg_stat_activity WHERE datname = 'butler' AND pid <> pg_backend_pid()"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    try:
        yield home
    finally:
        postgres.stop(home)


@pytest.fixture
def repository(home: Home, tmp_path: Path) -> str:
    plan = make_plan(tmp_path, registry_url=postgres.start(home).url("butler"), namespace=tmp_path.name)
    bootstrap(plan)
    return plan.repository


def is_there(repository: str) -> bool:
    question = QUESTIONS["collections"]
    return question(repository=repository, collections=["skymaps"], dataset_types=["skyMap"])["ready"]


def test_a_lost_connection_is_opened_anew(home: Home, repository: str) -> None:
    assert is_there(repository)
    with postgres.start(home).connect("butler") as other:
        ended = other.execute(BACKENDS.format(what="pg_terminate_backend(pid)")).fetchall()
    assert ended
    assert is_there(repository)


def test_no_question_stays_in_a_transaction(home: Home, repository: str) -> None:
    assert is_there(repository)
    with postgres.start(home).connect("butler") as other:
        states = {state for (state,) in other.execute(BACKENDS.format(what="state")).fetchall()}
    assert states <= {"idle"}


def test_a_database_that_is_away_is_unavailable_until_it_is_back(home: Home, repository: str) -> None:
    assert is_there(repository)
    postgres.stop(home)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="database does not answer") as caught:
            is_there(repository)
        assert repository in str(caught.value)
    postgres.start(home)
    assert is_there(repository)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from tololo.facility.errors import BadInputError
from tololo.hooks.bootstrap import bootstrap, create, table, verify
from tololo.services import postgres
from tololo.services.home import Home

from .chain_race import race
from .test_bootstrap import content, make_plan

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = Home(tmp_path_factory.mktemp("home"))
    try:
        yield postgres.start(home).url("butler")
    finally:
        postgres.stop(home)


def test_bootstrap_twice(tmp_path: Path, registry_url: str) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="twice")
    bootstrap(plan)
    first = content(plan.repository)
    bootstrap(plan)
    assert content(plan.repository) == first
    checks = verify(plan)
    assert all(check.good for check in checks), table(checks)
    with pytest.raises(BadInputError, match="schema twice, not on SQLite"):
        create(replace(plan, registry_url="", namespace=""))
    with pytest.raises(BadInputError, match="another repository"):
        create(replace(plan, repository=str(tmp_path / "second")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo", "stars.ecsv"]
    assert content(plan.repository) == first


def test_killed_creation_is_taken_over(
    tmp_path: Path, registry_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="killed")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", kill)
        with pytest.raises(KeyboardInterrupt):
            create(plan)
    assert create(plan) is True
    bootstrap(plan)
    assert all(check.good for check in verify(plan))


def test_eight_processes_write_one_chain(tmp_path: Path, registry_url: str) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="race")
    create(plan)
    race(plan.repository)


def test_the_url_in_the_repository_has_no_password(tmp_path: Path, registry_url: str) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="plain")
    create(plan)
    written = (Path(plan.repository) / "butler.yaml").read_text()
    assert registry_url in written
    with Butler.from_config(plan.repository) as butler:
        assert butler.collections.query("*") == []

"""A TOM for all tests of this folder, a bad network in front of it, and hooks that lose patience soon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count

import pytest

from tololo.facility.tom import Target
from tololo.hooks.tom import TomHook
from tololo.services.home import Home

from .server import DEC, RA, MakeHook, Proxy, RealTom

_numbers = count(1)


@pytest.fixture(scope="session")
def tom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealTom]:
    server = RealTom(Home(root=tmp_path_factory.mktemp("home"), tom_port=18001))
    yield server
    server.stop()


@pytest.fixture
def proxy(tom: RealTom) -> Iterator[Proxy]:
    proxy = Proxy(tom.info.url)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def hook(tom: RealTom, monkeypatch: pytest.MonkeyPatch) -> MakeHook:
    """Make hooks; words besides the address and the credentials are extras of the connection or arguments."""
    arguments = {"backoff": 0.02, "timeout": (2, 20), "attempts": 4, "settle": 0.3}

    def make(
        url: str = tom.info.url, token: str = tom.info.token, login: str | None = None, **options: object
    ) -> TomHook:
        name = f"tom_{next(_numbers)}"
        extra = {key: value for key, value in options.items() if key not in arguments}
        connection = {"conn_type": "tom", "host": url, "login": login, "password": token, "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        return TomHook(name, **arguments | {key: options[key] for key in arguments if key in options})

    return make


@pytest.fixture
def target(hook: MakeHook) -> Target:
    return hook().find_target(f"AT 2018t{next(_numbers)}", ra=RA, dec=DEC)

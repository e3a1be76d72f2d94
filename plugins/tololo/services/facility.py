"""The facility's services as one: PostgreSQL, then Airflow, the engine and the TOM."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tololo.services import airflow, engine, postgres, tom
from tololo.services.airflow import AirflowInfo
from tololo.services.home import Home
from tololo.services.postgres import PostgresInfo
from tololo.services.tom import TomInfo


@dataclass(frozen=True)
class Facility:
    """Addresses and logins of everything that runs."""

    home: Home
    postgres: PostgresInfo
    airflow: AirflowInfo
    tom: TomInfo


def up(home: Home) -> Facility:
    """Start every service that does not run yet, and wait until all answer.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        A service does not start; the message ends with the last lines of its log.
    tololo.facility.errors.BadInputError
        A ``TOLOLO_*`` variable is not usable.
    """
    with _alone(home):
        server = postgres.start(home)
        # its port is chosen first, since Airflow's connections name it
        expected = tom.address(home)
        with ThreadPoolExecutor(3) as pool:
            engine_start = pool.submit(engine.start, home, airflow.task_environment(home, server))
            tom_start = pool.submit(tom.start, home, expected)
            airflow_start = pool.submit(airflow.start, home, server, connections(home, server, expected))
            engine_start.result()
            return Facility(home, server, airflow_start.result(), tom_start.result())


def down(home: Home) -> list[str]:
    """Stop every service; return the names of those that ran."""
    with _alone(home):
        stops = {"airflow": airflow.stop, "engine": engine.stop, "tom": tom.stop}
        with ThreadPoolExecutor(len(stops)) as pool:
            ran = {name: pool.submit(stop, home) for name, stop in stops.items()}
        stopped = [name for name, future in ran.items() if future.result()]
        return [*stopped, "postgres"] if postgres.stop(home) else stopped


def status(home: Home) -> dict[str, bool]:
    """Tell for each service whether it runs."""
    parts = {f"airflow {part}": runs for part, runs in airflow.running(home).items()}
    database = {} if home.postgres_url else {"postgres": postgres.running(home)}
    return database | parts | {"engine": engine.running(home), "tom": tom.running(home)}


def connections(home: Home, server: PostgresInfo, tom_info: TomInfo) -> dict[str, dict[str, Any]]:
    """Return the Airflow connections of the facility, in the fields of Airflow's JSON form."""
    return {
        "butler_default": {
            "conn_type": "butler",
            "host": str(home.repository),
            "extra": {
                "instrument": "DECam",
                "registry": "postgresql",
                "registry_url": server.url("butler", "psycopg2"),
            },
        },
        "apdb_default": {
            "conn_type": "apdb",
            "extra": {
                "backend": "postgresql",
                "db_url": server.url("apdb", "psycopg2"),
                "config_folder": str(home.apdb),
            },
        },
        # a password without a login is an API token
        "tom_default": {"conn_type": "tom", "host": tom_info.url, "password": tom_info.token},
        "postgres_default": {
            "conn_type": "postgres",
            "host": server.host,
            "port": server.port,
            "login": server.user,
            "schema": "apdb",
            "extra": {"passfile": str(server.passfile), **dict(server.options)},
        },
    }


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Let one command at a time start or stop services."""
    with home.lock("services"):
        yield

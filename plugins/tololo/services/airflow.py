"""Airflow on the facility's PostgreSQL: four servers (api-server, scheduler, dag-processor, triggerer)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tololo.facility.errors import UnavailableError
from tololo.services.home import CHECKOUT, LOOPBACK, Home, free_port, write_private
from tololo.services.loopback import ask
from tololo.services.postgres import PostgresInfo
from tololo.services.process import Daemon, run_once

USER = "tololo"
# api-server first: the others are of no use before it
PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
START_SECONDS = 180.0
POOLS = {
    "datasets": (5, "Datasets of frames that are reduced at once; max_parallel of their manager sets it")
}
"""Pools that the DAGs need, with their first slots."""
# what another program's environment may hold and would turn up in ours
FOREIGN = ("AIRFLOW", "PG", "LSST_DB_AUTH", "TOLOLO_POSTGRES_URL")


@dataclass(frozen=True)
class AirflowInfo:
    """Where the web UI is and how to enter it.

    Parameters
    ----------
    url : `str`
        Address, without a slash at the end.
    user, password : `str`
        Login of the one administrator.
    """

    url: str
    user: str
    password: str = field(repr=False)

    def token(self) -> str:
        """Log in over REST and return a token for ``Authorization: Bearer <token>``.

        Raises
        ------
        tololo.facility.errors.UnavailableError
            The server does not answer or refuses the login.
        """
        status, answer = ask(
            f"{self.url}/auth/token", body={"username": self.user, "password": self.password}
        )
        if status != 201:
            raise UnavailableError(f"Airflow refuses the login (status {status})", self.url, "run `make up`")
        return str(answer["access_token"])


def start(home: Home, postgres: PostgresInfo, connections: Mapping[str, Mapping[str, Any]]) -> AirflowInfo:
    """Start what does not run yet, and wait until every part reports its health.

    Parameters
    ----------
    home : `Home`
        The facility.
    postgres : `PostgresInfo`
        Where the database `airflow` is.
    connections : mapping
        Airflow connections: id to the fields of Airflow's JSON form (``conn_type``, ``host``, ``extra``...).

    Raises
    ------
    tololo.facility.errors.UnavailableError
        A part does not start; the message ends with the last lines of its log.
    """
    folder = home.folder("airflow")
    port = _daemon(home, "api-server").port() or free_port(home.web_port)
    info = AirflowInfo(f"http://{LOOPBACK}:{port}", USER, home.secret("airflow_password", 12))
    settings = _settings(home, postgres, info, connections)
    _write_environment(home, settings)
    write_private(folder / "passwords.json", json.dumps({info.user: info.password}))
    environment = _environment(settings)

    since = time.time()
    parts = [_daemon(home, part) for part in PARTS]
    if not all(part.running() for part in parts):
        _migrate(home, folder, postgres, environment)
        for part in parts:
            part.start(_command(part.name.removeprefix("airflow-"), port), environment, folder, port)
    else:
        since = 0.0
    for part in parts:
        part.wait(lambda name=part.name: _healthy(info, name, since), START_SECONDS)  # type: ignore[misc]
    if since:
        _make_pools(info)
    return info


def _make_pools(info: AirflowInfo) -> None:
    """Make the pools that are not there; those that are stay as somebody has set them."""
    headers = {"Authorization": f"Bearer {info.token()}"}
    for name, (slots, description) in POOLS.items():
        pool = {"name": name, "slots": slots, "description": description, "include_deferred": False}
        status, answer = ask(f"{info.url}/api/v2/pools", headers, pool)
        if status not in (201, 409):
            raise UnavailableError(f"Airflow makes no pool {name}: {answer}", info.url, "see var/logs")


def task_environment(home: Home, postgres: PostgresInfo) -> dict[str, str]:
    """Return what tasks, and the engine that works for them, find in their environment."""
    return {
        "LSST_DB_AUTH": str(home.db_auth),
        "PGPASSFILE": str(postgres.passfile),
        "TOLOLO_HOME": str(home.root),
        "TOLOLO_FACILITY": str(home.facility),
        # a task's parallelism is over detectors
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def stop(home: Home) -> bool:
    """Stop all parts, at the same time; tell whether any ran."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(PARTS)) as pool:
        return any(list(pool.map(lambda part: _daemon(home, part).stop(), PARTS)))


def running(home: Home) -> dict[str, bool]:
    """Tell for each part whether it runs."""
    return {part: _daemon(home, part).running() for part in PARTS}


def _daemon(home: Home, part: str) -> Daemon:
    return Daemon(home, f"airflow-{part}")


def _program() -> Path:
    return Path(sys.executable).parent / "airflow"


def _command(part: str, port: int) -> list[str | Path]:
    if part == "api-server":
        return [_program(), part, "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    # logs are read as files; Airflow's log servers would listen on every interface
    return [_program(), part, *(["--skip-serve-logs"] if part != "dag-processor" else [])]


def _settings(
    home: Home, postgres: PostgresInfo, info: AirflowInfo, connections: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return our part of the environment; the database's password is in files that it names."""
    fernet = base64.urlsafe_b64encode(hashlib.sha256(home.secret("airflow_fernet", 48).encode()).digest())
    settings = {
        "AIRFLOW_HOME": str(home.root / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(CHECKOUT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",  # heavy work is inside bps
        "AIRFLOW__CORE__MAX_MAP_LENGTH": "20000",  # one task for each dataset of a root
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",  # the default asks the name servers
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{info.url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": fernet.decode(),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{info.user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home.root / "airflow" / "passwords.json"),
        "AIRFLOW__API__BASE_URL": info.url,
        "AIRFLOW__API__INSTANCE_NAME": "Tololo",
        "AIRFLOW__API__SECRET_KEY": home.secret("airflow_secret_key", 48),
        "AIRFLOW__API_AUTH__JWT_SECRET": home.secret("airflow_jwt_secret", 48),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url("airflow", "psycopg2"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": postgres.url("airflow", "psycopg"),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    } | task_environment(home, postgres)
    itself = {"conn_type": "http", "host": info.url, "login": info.user, "password": info.password}
    for name, connection in {**connections, "airflow_api": itself}.items():
        settings[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)
    return settings


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    path = f"{_program().parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    return {**inherited, **settings, "PATH": path}


def _write_environment(home: Home, settings: Mapping[str, str]) -> None:
    """Keep the environment for `bin/run`; parts that run with another one are stopped first."""
    lines = [f"export {key}={shlex.quote(value)}" for key, value in sorted(settings.items())]
    lines.append(f'export PATH={shlex.quote(str(_program().parent))}:"$PATH"')
    text = "\n".join(lines) + "\n"
    if not home.environment_file.exists() or home.environment_file.read_text() != text:
        stop(home)
        write_private(home.environment_file, text)


def _migrate(home: Home, folder: Path, postgres: PostgresInfo, environment: Mapping[str, str]) -> None:
    """Bring the database to the installed version, unless it is there already."""
    stamp = folder / "migrated"
    with postgres.connect("airflow") as connection:
        row = connection.execute(
            "SELECT oid, to_regclass('alembic_version') FROM pg_database WHERE datname = 'airflow'"
        ).fetchone()
    made, migrated = row if row else (0, None)
    state = f"{version('apache-airflow-core')} {postgres.host}:{postgres.port} {made}"
    if migrated and stamp.exists() and stamp.read_text() == state:
        return
    run_once(home, "airflow-migrate", [_program(), "db", "migrate"], environment)
    write_private(stamp, state)


def _healthy(info: AirflowInfo, name: str, since: float) -> bool:
    """Ask for the health of one part; a heartbeat from before `since` (a time in s) is of a dead process."""
    status, answer = ask(f"{info.url}/api/v2/monitor/health")
    if status != 200 or not answer:
        return False
    if name == "airflow-api-server":
        return bool(answer["metadatabase"]["status"] == "healthy")
    part = name.removeprefix("airflow-").replace("-", "_")
    report = answer.get(part) or {}
    beat = report.get(f"latest_{part}_heartbeat")
    if report.get("status") != "healthy" or not beat:
        return False
    return datetime.fromisoformat(beat).astimezone(UTC).timestamp() >= since

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tololo.facility.errors import BadInputError
from tololo.hooks.pools import PoolHook
from tololo.services import airflow, facility, postgres, tom
from tololo.services.home import CHECKOUT, Home
from tololo.services.process import Daemon, process_state

PYTHON = tom.environment_folder() / "bin" / "python"
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        not PYTHON.exists(), reason=f"the TOM's environment is missing ({PYTHON}): bin/install"
    ),
]
SERVERS = ("postgres", "tom", "engine", *(f"airflow-{part}" for part in airflow.PARTS))


def pids(home):
    return {name: Daemon(home, name).pid() for name in SERVERS}


def token_status(info, password):
    login = {"username": info.user, "password": password}
    return requests.post(f"{info.url}/auth/token", json=login, timeout=30).status_code


def run(home, *command):
    environment = {**os.environ, "TOLOLO_HOME": str(home.root)}
    return subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    # ports that the facility of the user who tests is unlikely to have
    home = Home(tmp_path_factory.mktemp("facility") / "var", web_port=18080, tom_port=18101)
    try:
        yield facility.up(home)
    finally:
        facility.down(home)


def test_airflow_is_healthy(running):
    health = requests.get(f"{running.airflow.url}/api/v2/monitor/health", timeout=30).json()
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    assert {part: health[part]["status"] for part in parts} == dict.fromkeys(parts, "healthy")


def test_the_pool_of_datasets_gets_the_slots_that_a_manager_asks_for(running, monkeypatch):
    def slots():
        headers = {"Authorization": f"Bearer {running.airflow.token()}"}
        found = requests.get(f"{running.airflow.url}/api/v2/pools", headers=headers, timeout=30).json()[
            "pools"
        ]
        return {pool["name"]: pool["slots"] for pool in found if pool["name"] != "default_pool"}

    assert slots() == {"datasets": 5}
    monkeypatch.delenv("AIRFLOW_CONN_AIRFLOW_API", raising=False)
    assert PoolHook().set_slots("datasets", 3, "") is False
    told = {"conn_type": "http", "host": running.airflow.url, "login": running.airflow.user}
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", json.dumps(told | {"password": running.airflow.password}))
    assert PoolHook().set_slots("datasets", 3, "")
    assert PoolHook().set_slots("own", 2, "of a test")
    assert slots() == {"datasets": 3, "own": 2}
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", json.dumps(told | {"password": "wrong"}))
    with pytest.raises(BadInputError, match="connection airflow_api") as caught:
        PoolHook().set_slots("datasets", 4, "")
    assert "wrong" not in str(caught.value)


def test_the_login_works_and_a_wrong_password_is_refused(running):
    url = f"{running.airflow.url}/api/v2/connections"
    assert requests.get(url, timeout=30).status_code == 401
    assert token_status(running.airflow, "nope") == 401
    assert token_status(running.airflow, running.airflow.password) == 201
    headers = {"Authorization": f"Bearer {running.airflow.token()}"}
    assert requests.get(url, headers=headers, timeout=30).status_code == 200


def test_everything_listens_on_the_loopback_interface_alone(running):
    ours = set()
    for name in SERVERS:
        daemon = Daemon(running.home, name)
        for pid in daemon._members():
            for entry in os.scandir(f"/proc/{pid}/fd"):
                try:
                    target = os.readlink(entry.path)
                except OSError:
                    continue
                if target.startswith("socket:["):
                    ours.add(target[8:-1])
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in ours:
                listening.add(fields[1].partition(":")[0])
    assert listening == {"0100007F"}


def test_secrets_are_in_private_files_alone(running):
    home = running.home
    secrets = [
        home.secret(name) for name in ("postgres", "airflow_password", "airflow_jwt_secret", "tom_token")
    ]
    public = "".join(path.read_text() for path in home.logs.iterdir())
    for name in SERVERS:
        for pid in Daemon(home, name)._members():
            public += Path(f"/proc/{pid}/cmdline").read_text()
    assert [secret for secret in secrets if secret in public] == []
    for path in (home.environment_file, home.root / "airflow" / "passwords.json"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_second_up_uses_the_first(running):
    before = pids(running.home)
    assert None not in before.values()
    assert facility.up(running.home) == running
    assert pids(running.home) == before
    assert set(facility.status(running.home).values()) == {True}


def test_the_command_line_works_on_the_same_airflow(running):
    answer = run(running.home, "bin/airflow", "connections", "get", "apdb_default", "--output", "json")
    assert answer.returncode == 0, answer.stderr
    assert running.postgres.url("apdb", "psycopg2").split("?")[0].rsplit("/", 1)[0] in answer.stdout


@pytest.mark.long
def test_after_a_crash_of_everything_up_starts_again(running):
    home = running.home
    before = pids(home)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    while any(process_state(pid) for pid in before.values()):
        time.sleep(0.01)
    assert not any(facility.status(home).values())
    again = facility.up(home)
    after = pids(home)
    assert None not in after.values()
    assert not set(after.values()) & set(before.values())
    assert again.airflow.password == running.airflow.password
    assert again.postgres == running.postgres
    test_airflow_is_healthy(again)


def test_stop_leaves_no_process(running):
    home = running.home
    members = [pid for name in SERVERS for pid in Daemon(home, name)._members()]
    members += postgres._occupants(home.root / "postgres" / "data")
    assert len(members) > len(SERVERS)
    answer = run(home, sys.executable, "-m", "tololo.services", "stop")
    assert answer.stdout.strip() == "Stopped: airflow, engine, tom, postgres."
    assert [pid for pid in members if process_state(pid)] == []
    assert list(home.run.glob("*.json")) == []
    assert run(home, sys.executable, "-m", "tololo.services", "stop").stdout.strip() == "Nothing was running."
    assert run(home, sys.executable, "-m", "tololo.services", "status").returncode == 1

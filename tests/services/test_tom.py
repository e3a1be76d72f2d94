from __future__ import annotations

import os
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tololo.facility.errors import UnavailableError
from tololo.services import tom
from tololo.services.home import Home
from tololo.services.process import Daemon, process_state

PYTHON = tom.environment_folder() / "bin" / "python"
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        not PYTHON.exists(), reason=f"the TOM's environment is missing ({PYTHON}): bin/install"
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("tom") / "var", tom_port=18001)
    yield home
    tom.stop(home)


@pytest.fixture
def server(place):
    return tom.start(place)


@pytest.fixture
def api(server):
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Token {server.token}"

    def call(method, path, **content):
        return session.request(method, f"{server.url}/api/{path}/", timeout=30, **content)

    return call


def test_the_demo_target_is_visible_with_the_token_alone(server, api):
    found = api("GET", "targets").json()["results"]
    assert [(t["name"], t["ra"], t["dec"]) for t in found] == [("Tololo demo", 186.744, 25.462)]
    assert requests.get(f"{server.url}/api/targets/", timeout=30).json()["count"] == 0
    refused = requests.get(f"{server.url}/api/targets/", headers={"Authorization": "Token nope"}, timeout=30)
    assert refused.status_code in (401, 403)


def test_the_user_is_in_the_group(api):
    assert tom.GROUP in [group["name"] for group in api("GET", "groups").json()["results"]]


def test_the_password_opens_the_pages_and_a_wrong_one_does_not(server):
    for password, status in ((server.password, 200), ("nope", 400)):
        answer = requests.post(
            f"{server.url}/api/token-auth/", json={"username": server.user, "password": password}, timeout=30
        )
        assert answer.status_code == status


def test_the_pages_have_their_styles(server):
    assert "Tololo" in requests.get(f"{server.url}/", timeout=30).text
    style = requests.get(f"{server.url}/static/tom_common/css/main.css", timeout=30)
    assert style.status_code == 200
    assert style.headers["Content-Type"].startswith("text/css")


def test_points_are_kept_once_and_go_with_their_product(api):
    """The stock behaviour that uploads cope with: a point belongs to the product that brought it first."""
    target = api("POST", "targets", json={"name": "unique", "type": "SIDEREAL", "ra": 10.0, "dec": -10.0})
    number = target.json()["id"]
    rows = "time,filter,magnitude,error\n58000.1,r,20.1,0.1\n58001.1,r,20.2,0.1\n"
    versions = "time,filter,magnitude,error,reduction_version\n58000.1,r,20.1,0.1,v2\n58001.1,r,20.2,0.1,v2\n"

    def upload(name, text):
        answer = api(
            "POST",
            "dataproducts",
            data={"target": number, "data_product_type": "photometry", "product_id": name},
            files={"file": (f"{name}.csv", text, "text/csv")},
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def points():
        return api("GET", f"reduceddatums/?target_name=unique&target={number}").json()["count"]

    before = points()
    first = upload("first", rows)
    assert points() == before + 2
    upload("same", rows)
    assert points() == before + 2
    upload("versioned", versions)
    assert points() == before + 4
    assert api("DELETE", f"dataproducts/{first}").status_code == 204
    assert points() == before + 2


def test_it_takes_many_points_at_once(api):
    target = api(
        "POST", "targets", json={"name": "many", "type": "SIDEREAL", "ra": 20.0, "dec": -10.0}
    ).json()["id"]

    def send(number):
        point = {
            "target": target,
            "data_type": "photometry",
            "source_name": "test",
            "timestamp": f"2018-02-12T00:00:{number:02d}Z",
            "value": {"magnitude": 20.0 + number / 100, "filter": "z", "error": 0.1},
        }
        return api("POST", "reduceddatums", json=point).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(40))) == {201}


def test_a_second_start_uses_the_first_and_a_crash_blocks_nothing(place, server):
    daemon = Daemon(place, "tom")
    pid = daemon.pid()
    assert tom.start(place) == server
    assert daemon.pid() == pid
    os.kill(pid, signal.SIGKILL)
    while process_state(pid):
        time.sleep(0.01)
    again = tom.start(place)
    assert daemon.pid() != pid
    assert again.token == server.token
    targets = requests.get(
        f"{again.url}/api/targets/", headers={"Authorization": f"Token {again.token}"}, timeout=30
    )
    assert "Tololo demo" in [target["name"] for target in targets.json()["results"]]


def test_secrets_are_not_in_the_log_or_on_the_command_line(place, server):
    daemon = Daemon(place, "tom")
    words = Path(f"/proc/{daemon.pid()}/cmdline").read_text() + daemon.log.read_text()
    assert server.token not in words
    assert server.password not in words
    assert stat.S_IMODE(place.secrets_file.stat().st_mode) == 0o600


def test_a_missing_environment_is_said(monkeypatch, home):
    monkeypatch.setenv("TOLOLO_TOM_VENV", str(home.root / "nothing"))
    with pytest.raises(UnavailableError, match="bin/install"):
        tom.start(home)

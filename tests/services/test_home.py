from __future__ import annotations

import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.services import __main__ as commands
from tololo.services.home import CHECKOUT, LOOPBACK, Home, free_port, port_is_free


@pytest.fixture
def taken():
    """Two neighbouring ports that somebody listens on, and that the third is free."""
    for first in range(41000, 42000):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind((LOOPBACK, first))
                two.bind((LOOPBACK, first + 1))
            except OSError:
                continue
            one.listen()
            two.listen()
            if port_is_free(first + 2):
                yield first
                return
    pytest.skip("no three neighbouring ports are free")


def test_the_checkout_is_where_the_makefile_is():
    assert (CHECKOUT / "Makefile").is_file()
    assert (CHECKOUT / "bin" / "install").is_file()


def test_defaults():
    home = Home.from_environment()
    assert home == Home(CHECKOUT / "var", CHECKOUT / "include" / "configs" / "facility.yaml", "", 8080, 8001)


def test_the_environment_decides(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLOLO_HOME", "here")
    monkeypatch.setenv("TOLOLO_WEB_PORT", "9000")
    monkeypatch.setenv("TOLOLO_TOM_PORT", "9001")
    monkeypatch.setenv("TOLOLO_FACILITY", "f.yaml")
    monkeypatch.setenv("TOLOLO_POSTGRES_URL", "postgresql+psycopg://a@b/")
    here = Path.cwd()
    assert Home.from_environment() == Home(
        here / "here", here / "f.yaml", "postgresql+psycopg://a@b/", 9000, 9001
    )


@pytest.mark.parametrize("text", ["eighty", "0", "65536", "-1", "80 80"])
def test_a_port_that_is_none_is_refused_by_name(monkeypatch, text):
    monkeypatch.setenv("TOLOLO_WEB_PORT", text)
    with pytest.raises(BadInputError, match="TOLOLO_WEB_PORT"):
        Home.from_environment()


def test_the_next_free_port_is_taken(taken):
    assert not port_is_free(taken)
    assert free_port(taken) == taken + 2


def test_no_free_port_is_said(taken):
    with pytest.raises(UnavailableError, match=f"{taken} to {taken + 1}"):
        free_port(taken, tries=2)


def test_secrets_are_kept_and_private(home):
    secret = home.secret("door")
    assert len(secret) == 32
    assert Home(home.root).secret("door") == secret
    assert home.secret("window") != secret
    assert stat.S_IMODE(home.secrets_file.stat().st_mode) == 0o600


def test_two_who_ask_at_once_get_the_same_secret(home):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: home.secret("door"), range(24)))) == 1


def test_spoilt_secrets_are_not_replaced(home):
    home.secret("door")
    home.secrets_file.write_text("{")
    with pytest.raises(BadInputError, match=r"secrets\.json"):
        home.secret("door")
    assert home.secrets_file.read_text() == "{"


def test_a_home_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="TOLOLO_HOME"):
        _ = Home(tmp_path / "file").logs


def test_clean_removes_a_facility_and_nothing_else(monkeypatch, capsys, home):
    monkeypatch.setenv("TOLOLO_HOME", str(home.root))
    (home.folder("precious") / "thesis.tex").write_text("chapter 1")
    assert commands.main(["clean"]) == 1
    assert "TOLOLO_HOME" in capsys.readouterr().err
    assert (home.root / "precious" / "thesis.tex").exists()
    assert commands.main(["stop"]) == 0  # a facility's command was here: the folder is a facility's
    assert commands.main(["clean"]) == 0
    assert not home.root.exists()

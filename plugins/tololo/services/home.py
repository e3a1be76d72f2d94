"""Where the facility keeps its state: the one place that knows the paths, the ports and the secrets."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tololo.facility.errors import BadInputError, UnavailableError

CHECKOUT = Path(__file__).resolve().parents[3]
"""Root of the checkout: the folder that holds `dags/`, `plugins/` and `include/`."""

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Home:
    """All state of one facility.

    Parameters
    ----------
    root : `pathlib.Path`
        Folder of all state (``TOLOLO_HOME``); made when first needed.
    facility : `pathlib.Path`
        The facility's configuration (``TOLOLO_FACILITY``).
    postgres_url : `str`
        An existing PostgreSQL server instead of the embedded one (``TOLOLO_POSTGRES_URL``), or empty.
    web_port, tom_port : `int`
        First port to try for Airflow and for the TOM (``TOLOLO_WEB_PORT``, ``TOLOLO_TOM_PORT``).
    """

    root: Path
    facility: Path = CHECKOUT / "include" / "configs" / "facility.yaml"
    postgres_url: str = ""
    web_port: int = 8080
    tom_port: int = 8001

    @classmethod
    def from_environment(cls) -> Home:
        """Read the ``TOLOLO_*`` variables; relative paths count from the working directory.

        Raises
        ------
        tololo.facility.errors.BadInputError
            A port is not a number between 1 and 65535.
        """
        return cls(
            root=Path(os.environ.get("TOLOLO_HOME") or CHECKOUT / "var").expanduser().resolve(),
            facility=Path(os.environ.get("TOLOLO_FACILITY") or cls.facility).expanduser().resolve(),
            postgres_url=os.environ.get("TOLOLO_POSTGRES_URL", ""),
            web_port=_port_variable("TOLOLO_WEB_PORT", cls.web_port),
            tom_port=_port_variable("TOLOLO_TOM_PORT", cls.tom_port),
        )

    @property
    def logs(self) -> Path:
        """One log per service."""
        return self.folder("logs")

    @property
    def run(self) -> Path:
        """What runs now: process records and the lock."""
        return self.folder("run")

    @property
    def repository(self) -> Path:
        """The Butler repository of the demo."""
        return self.root / "repository"

    @property
    def apdb(self) -> Path:
        """Folder of the APDBs' configuration files."""
        return self.root / "apdb"

    @property
    def environment_file(self) -> Path:
        """Shell file (mode 0600) with the environment of the services; `bin/run` reads it."""
        return self.root / "environment"

    @property
    def db_auth(self) -> Path:
        """Database passwords in the form of ``LSST_DB_AUTH`` (mode 0600)."""
        return self.root / "db-auth.yaml"

    @property
    def passfile(self) -> Path:
        """Database passwords in the form of ``PGPASSFILE`` (mode 0600)."""
        return self.root / "pgpass"

    @property
    def secrets_file(self) -> Path:
        """Generated passwords and keys (mode 0600)."""
        return self.root / "secrets.json"

    def folder(self, name: str) -> Path:
        """Return a folder below the home, made if it is not there.

        Raises
        ------
        tololo.facility.errors.UnavailableError
            The folder cannot be made.
        """
        path = self.root / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"Cannot make the folder: {error.strerror}", str(path), "set TOLOLO_HOME to a writable folder"
            ) from error
        return path

    def remove(self) -> None:
        """Remove all state."""
        self.check_is_ours()
        shutil.rmtree(self.root)

    def check_is_ours(self) -> None:
        """Refuse to remove a folder that ``TOLOLO_HOME`` names by mistake.

        Raises
        ------
        tololo.facility.errors.BadInputError
            It holds other things, and no record of a facility's services.
        """
        if self.root != CHECKOUT / "var" and not (self.root / "run" / "services.lock").exists():
            raise BadInputError(
                "This folder holds no state of a facility, and nothing was removed",
                str(self.root),
                "check TOLOLO_HOME",
            )

    def secret(self, name: str, length: int = 24) -> str:
        """Return the secret of this name, generated at the first call and kept from then on.

        Parameters
        ----------
        name : `str`
            What the secret is for.
        length : `int`, optional
            Number of random bytes; the secret has 4/3 times as many characters.
        """
        with self.lock("secrets"):
            try:
                known: dict[str, str] = json.loads(self.secrets_file.read_text())
            except FileNotFoundError:
                known = {}
            except json.JSONDecodeError as error:
                raise BadInputError(
                    "The file of secrets is not JSON", str(self.secrets_file), "restore it, or `make clean`"
                ) from error
            if name not in known:
                known[name] = secrets.token_urlsafe(length)
                write_private(self.secrets_file, json.dumps(known, indent=1) + "\n")
            return known[name]

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock among processes; it ends with the process, so a crash leaves nothing behind."""
        with open(self.run / f"{name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, beside and then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(beside, path)


def port_is_free(port: int) -> bool:
    """Tell whether a server can listen on this port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as servers do: a port in TIME_WAIT is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port(first: int, tries: int = 200) -> int:
    """Return the first free port from `first` on.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        None of the `tries` ports is free.
    """
    last = min(first + tries, 65536)
    for port in range(first, last):
        if port_is_free(port):
            return port
    raise UnavailableError(
        f"No port from {first} to {last - 1} is free", LOOPBACK, "set TOLOLO_WEB_PORT or TOLOLO_TOM_PORT"
    )


def _port_variable(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise BadInputError(
            f"{text!r} is not a port", f"environment variable {name}", "give a number from 1 to 65535"
        )
    return int(text)

"""A TOM Toolkit server on the loopback interface, in an environment of its own (`.venv-tom`).

Its behaviour is the stock one: the settings are the template of TOM Toolkit's `tom_setup` command, with the
paths, the secret key and the serving of static files of `include/tom/local_settings.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from tololo.facility.errors import UnavailableError
from tololo.services.home import CHECKOUT, LOOPBACK, Home, free_port, write_private
from tololo.services.loopback import ask
from tololo.services.process import Daemon, run_once

USER = "tololo"
GROUP = "Tololo"
TARGET = {"name": "Tololo demo", "ra": 186.744, "dec": 25.462}
"""The demo target: name, and position (ICRS, degrees)."""

PROJECT = CHECKOUT / "include" / "tom"
START_SECONDS = 90.0


@dataclass(frozen=True)
class TomInfo:
    """Where the TOM is and how to enter it.

    Parameters
    ----------
    url : `str`
        Address, without a slash at the end.
    user, password : `str`
        Login of its pages.
    token : `str`
        For the API: header ``Authorization: Token <token>``.
    """

    url: str
    user: str
    password: str = field(repr=False)
    token: str = field(repr=False)


def environment_folder() -> Path:
    """Return the TOM's own environment (``TOLOLO_TOM_VENV``, by default `.venv-tom` of the checkout)."""
    return Path(os.environ.get("TOLOLO_TOM_VENV") or CHECKOUT / ".venv-tom")


def address(home: Home) -> TomInfo:
    """Return where the TOM is, or where the next `start` will try to put it.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        No port is free.
    """
    port = _daemon(home).port() or free_port(home.tom_port)
    # a token of Django REST framework has at most 40 characters
    return TomInfo(
        f"http://{LOOPBACK}:{port}", USER, home.secret("tom_password"), home.secret("tom_token", 30)
    )


def start(home: Home, info: TomInfo | None = None) -> TomInfo:
    """Start the server, or find it running: user, group, token and demo target are there when this returns.

    Parameters
    ----------
    home : `Home`
        The facility.
    info : `TomInfo`, optional
        What `address` returned, where the port must be known beforehand.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        Its environment is missing, or it does not start; the message ends with the last lines of its log.
    """
    info = info or address(home)
    daemon = _daemon(home)
    if not daemon.running():
        python = environment_folder() / "bin" / "python"
        if not python.exists():
            raise UnavailableError(
                "The TOM's environment is missing", str(python.parent), "run `bin/install`"
            )
        folder = home.folder("tom")
        environment = _environment(home, folder, info)
        _prepare(home, folder, python, environment)
        port = info.url.rpartition(":")[2]
        daemon.start(
            [
                python,
                "-m",
                "waitress",
                f"--listen={LOOPBACK}:{port}",
                "--threads=4",
                "--call",
                "django.core.wsgi:get_wsgi_application",
            ],
            environment,
            folder,
            int(port),
        )
    daemon.wait(lambda: _answers(info), START_SECONDS)
    return info


def stop(home: Home) -> bool:
    """Stop the server; tell whether it ran."""
    return _daemon(home).stop()


def running(home: Home) -> bool:
    """Tell whether the server runs."""
    return _daemon(home).running()


def _daemon(home: Home) -> Daemon:
    return Daemon(home, "tom")


def _environment(home: Home, folder: Path, info: TomInfo) -> dict[str, str]:
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("DJANGO_", "TOM_", "PYTHON"))
    }
    return inherited | {
        "PYTHONPATH": f"{PROJECT}:{folder}",
        "DJANGO_SETTINGS_MODULE": "tom_settings",
        "TOM_HOME": str(folder),
        "TOM_SECRET_KEY": home.secret("tom_secret_key", 48),
        "TOM_USER": info.user,
        "TOM_PASSWORD": info.password,
        "TOM_TOKEN": info.token,
        "TOM_GROUP": GROUP,
        "TOM_TARGET": json.dumps(TARGET),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _prepare(home: Home, folder: Path, python: Path, environment: dict[str, str]) -> None:
    """Make or upgrade the project, unless that was done for the same lock file, project and secrets."""
    state = hashlib.sha256("\n".join(v for k, v in sorted(environment.items()) if k[:4] == "TOM_").encode())
    for path in (CHECKOUT / "requirements-tom.txt", *sorted(PROJECT.glob("*.py"))):
        state.update(path.read_bytes())
    stamp = folder / "prepared"
    if stamp.exists() and stamp.read_text() == state.hexdigest() and (folder / "db.sqlite3").exists():
        return
    run_once(home, "tom", [python, PROJECT / "prepare.py"], environment)
    write_private(stamp, state.hexdigest())


def _answers(info: TomInfo) -> bool:
    status, _ = ask(f"{info.url}/api/targets/", {"Authorization": f"Token {info.token}"})
    if status in (401, 403):
        raise UnavailableError(
            "The TOM refuses our token", info.url, "another program may use the port; `make stop`, `make up`"
        )
    return status == 200

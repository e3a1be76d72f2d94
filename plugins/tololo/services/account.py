"""Which user runs PostgreSQL when we are root: PostgreSQL refuses to run as root.

A user who exists already is taken, and nothing is made, opened, moved or copied for it. Where that user
cannot reach the checkout (a folder of mode 0700 above it), the server gets one capability: to pass through
folders.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tololo.facility.errors import UnavailableError

CAPABILITIES = ("", "dac_read_search", "dac_override")
"""What is tried, least first; containers often keep only the last of root's capabilities."""


def server_account(data: Path) -> pwd.struct_passwd | None:
    """Return the user that root must hand the server to; `None` when we are not root.

    Parameters
    ----------
    data : `pathlib.Path`
        The server's data; its owner goes first, then `postgres`, then `nobody`.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        There is no such user.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat().st_uid) != 0:
        try:
            return pwd.getpwuid(owner)
        except KeyError:
            pass
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise UnavailableError(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`",
        "/etc/passwd",
        "run as an ordinary user, or set TOLOLO_POSTGRES_URL",
    )


def run_as(account: pwd.struct_passwd, folder: Path, program: Path) -> list[str]:
    """Return the words that, before a command, run it as another user.

    Parameters
    ----------
    account : `pwd.struct_passwd`
        The user.
    folder : `pathlib.Path`
        Given to that user, who must be able to write there.
    program : `pathlib.Path`
        What that user must be able to execute.

    Raises
    ------
    tololo.facility.errors.UnavailableError
        The user cannot be changed, or cannot reach the two.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise UnavailableError(
            "PostgreSQL refuses to run as root, and `setpriv` is not there to change the user",
            "PATH",
            "install util-linux, run as an ordinary user, or set TOLOLO_POSTGRES_URL",
        )
    os.chown(folder, account.pw_uid, account.pw_gid)
    folder.chmod(0o700)
    plain = [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    probe = ["test", "-x", str(program), "-a", "-w", str(folder)]
    for capability in CAPABILITIES:
        granted = [
            # without this bit the system call access(2), which initdb asks, disregards capabilities
            "--securebits=+no_setuid_fixup",
            f"--inh-caps=-all,+{capability}",
            f"--ambient-caps=-all,+{capability}",
        ]
        prefix = [*plain, *(granted if capability else []), "--"]
        if subprocess.run([*prefix, *probe], capture_output=True, check=False, cwd="/").returncode == 0:
            return prefix
    raise UnavailableError(
        f"PostgreSQL refuses to run as root, and the user `{account.pw_name}` cannot reach its folder",
        str(folder),
        "run as an ordinary user, set TOLOLO_HOME to a folder that all users can reach, "
        "or set TOLOLO_POSTGRES_URL",
    )

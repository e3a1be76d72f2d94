"""Files from a server that breaks off, lies, hangs and refuses."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tololo.facility.disk import DiskError
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.http_files import CHUNK, RefusedError, fetch

from .lco_archive import Fault, LcoArchive, Stored

CONTENT = os.urandom(5 * CHUNK + 17)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[LcoArchive]:
    server = LcoArchive()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def stored(server: LcoArchive) -> Stored:
    return server.add(CONTENT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "frame.fits.fz"


def get(server: LcoArchive, stored: Stored, path: Path, **options: Any) -> int:
    options = {"timeout": (2.0, 0.5), "attempts": 3, "backoff": 0.01} | options
    return fetch(server.described(stored)["url"], path, MD5, log=logging.getLogger("test"), **options)


def ranges(server: LcoArchive) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.seen]


def test_a_file_is_there_under_its_name_only(server: LcoArchive, stored: Stored, path: Path) -> None:
    assert get(server, stored, path) == len(CONTENT)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_what_breaks_off_goes_on(server: LcoArchive, stored: Stored, path: Path) -> None:
    server.faults = [Fault("/files/", "break", size=2 * CHUNK), Fault("/files/", "break", size=CHUNK)]
    assert get(server, stored, path) == len(CONTENT)
    assert path.read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"]


def test_attempts_that_bring_something_do_not_count(server: LcoArchive, stored: Stored, path: Path) -> None:
    server.faults = [Fault("/files/", "break", times=5, size=CHUNK)]
    assert get(server, stored, path, attempts=2) == len(CONTENT)
    assert path.read_bytes() == CONTENT


def test_a_later_call_goes_on(server: LcoArchive, stored: Stored, path: Path) -> None:
    server.faults = [
        Fault("/files/", "break", size=3 * CHUNK),
        Fault("/files/", "status", times=9, status=503),
    ]
    with pytest.raises(UnavailableError, match=r"did not come in 3 attempts in a row; .* answers 503"):
        get(server, stored, path)
    assert [file.name for file in path.parent.iterdir()] == [f"{path.name}.{MD5[:8]}.part"]
    server.faults, server.seen = [], []
    get(server, stored, path)
    assert path.read_bytes() == CONTENT
    assert ranges(server) == [f"bytes={3 * CHUNK}-"]


def test_without_ranges_it_is_begun_again(server: LcoArchive, stored: Stored, path: Path) -> None:
    server.ranges = False
    server.faults = [Fault("/files/", "break", size=2 * CHUNK)]
    get(server, stored, path)
    assert path.read_bytes() == CONTENT
    # a file that always breaks off at the same place ends all the same
    server.faults = [Fault("/files/", "break", times=99, size=2 * CHUNK)]
    with pytest.raises(UnavailableError, match="breaks off"):
        get(server, stored, path.with_name("other"))


def test_a_part_that_was_whole_needs_no_server(server: LcoArchive, stored: Stored, path: Path) -> None:
    path.with_name(f"{path.name}.{MD5[:8]}.part").write_bytes(CONTENT)
    get(server, stored, path)
    assert path.read_bytes() == CONTENT
    assert server.seen == []


def test_a_part_that_is_too_long_is_begun_again(server: LcoArchive, stored: Stored, path: Path) -> None:
    path.with_name(f"{path.name}.{MD5[:8]}.part").write_bytes(CONTENT + b"more")
    get(server, stored, path)
    assert path.read_bytes() == CONTENT


def test_parts_of_older_versions_go(server: LcoArchive, stored: Stored, path: Path) -> None:
    path.with_name(f"{path.name}.0123abcd.part").write_bytes(b"older")
    get(server, stored, path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("how", ["spoil", "short"])
def test_a_wrong_checksum_is_fetched_anew(server: LcoArchive, stored: Stored, path: Path, how: str) -> None:
    server.faults = [Fault("/files/", how, size=CHUNK)]
    get(server, stored, path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_again_is_said(server: LcoArchive, stored: Stored, path: Path) -> None:
    server.faults = [Fault("/files/", "spoil", times=2)]
    with pytest.raises(BadInputError, match=r"frame\.fits\.fz differs from its checksum"):
        get(server, stored, path)
    assert list(path.parent.iterdir()) == []


def test_a_server_that_hangs_is_left(server: LcoArchive, stored: Stored, path: Path) -> None:
    server.faults = [Fault("/files/", "hang", seconds=1.0)]
    get(server, stored, path)
    assert path.read_bytes() == CONTENT
    server.faults = [Fault("/files/", "hang", times=9, seconds=1.0)]
    with pytest.raises(UnavailableError, match="ReadTimeout"):
        get(server, stored, path.with_name("other"), timeout=(2.0, 0.1), attempts=2)


def test_a_server_that_asks_to_wait_is_obeyed(
    server: LcoArchive, stored: Stored, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tololo.hooks.http_files.time.sleep", waits.append)
    asked = [
        Fault("/files/", "status", status=429, headers={"Retry-After": after}) for after in ("7", "9999")
    ]
    server.faults = [*asked, Fault("/files/", "status", status=500)]
    get(server, stored, path, attempts=4, backoff=0.25)
    assert waits == [7.0, 300.0, 1.0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_said_at_once_without_the_signature(
    server: LcoArchive, stored: Stored, path: Path, status: int
) -> None:
    server.faults = [Fault("/files/", "status", times=9, status=status)]
    with pytest.raises(RefusedError, match=str(status)) as caught:
        get(server, stored, path)
    assert "secret" not in str(caught.value)
    assert len(server.seen) == 1
    assert list(path.parent.iterdir()) == []


def test_no_credentials_go_along(
    server: LcoArchive, stored: Stored, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    get(server, stored, path)
    assert "Authorization" not in server.seen[0][1]


@pytest.mark.parametrize("url", ["", "frame.fits", "http://", "ftp://host/frame.fits", "http://[::1"])
def test_what_is_no_address(url: str, path: Path) -> None:
    with pytest.raises(BadInputError, match="address"):
        fetch(url, path, MD5, log=logging.getLogger("test"))


def test_no_server_at_all(server: LcoArchive, stored: Stored, path: Path) -> None:
    url = server.described(stored)["url"].replace(server.url, "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="ConnectionError"):
        fetch(url, path, MD5, attempts=2, backoff=0.01, log=logging.getLogger("test"))


def test_a_disk_that_takes_no_more(server: LcoArchive, stored: Stored, path: Path) -> None:
    code = f"""
import logging, resource
from pathlib import Path
from tololo.hooks.http_files import fetch
from tololo.facility.disk import DiskError
resource.setrlimit(resource.RLIMIT_FSIZE, ({2 * CHUNK}, {2 * CHUNK}))
try:
    fetch({server.described(stored)["url"]!r}, Path({str(path)!r}), {MD5!r}, log=logging.getLogger())
except DiskError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large" in done.stdout
    assert str(path.parent) in done.stdout
    assert not path.exists()
    get(server, stored, path)  # and with a larger disk it goes on
    assert path.read_bytes() == CONTENT


def test_a_full_disk_is_given_back_what_came(server: LcoArchive, stored: Stored, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with pytest.raises(DiskError, match="No space left on device"):
            get(server, stored, disk / "frame.fits.fz")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)

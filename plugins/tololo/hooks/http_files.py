"""Files from web servers: resumed, compared with their checksum, and renamed when whole."""

from __future__ import annotations

import errno
import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from tololo.facility.disk import DiskError, md5_of, writing
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.rest import Log, UncertainError

CHUNK = 1 << 16
"""Bytes at a time; what is lost when a line breaks is less than this."""
_TRY_LATER = (408, 425, 429)


class NoAuth(AuthBase):
    """No credentials, whatever a ``.netrc`` says: an address that is signed bears no others."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Leave a request as it is."""
        return request


class RefusedError(BadInputError):
    """The server does not give the file; a fresh address may help (401, 403, 404, 410)."""


class _DelayedError(UncertainError):
    """No usable answer; the server said how long to wait, or nothing (0)."""

    def __init__(self, what: str, seconds: float = 0.0) -> None:
        super().__init__(what)
        self.seconds = seconds


def fetch(
    url: str,
    path: Path,
    md5: str,
    *,
    timeout: tuple[float, float] = (5.0, 60.0),
    attempts: int = 5,
    backoff: float = 1.0,
    patience: float = 300.0,
    log: Log,
) -> int:
    """Download a file.

    What has come of it lies beside, as ``<name>.<checksum's beginning>.part``, and is gone on with by the
    next attempt or the next call; where the server knows no ranges, the file is begun again. Attempts that
    bring the file further do not count.

    Parameters
    ----------
    url : `str`
        Address, which may bear a signature: no message repeats its query.
    path : `pathlib.Path`
        What the file shall be; replaced if it is there.
    md5 : `str`
        Checksum, hexadecimal.
    timeout : `tuple` [`float`, `float`], optional
        Seconds to wait for a connection, and for each piece of the file.
    attempts : `int`, optional
        How often in a row an attempt may bring nothing.
    backoff : `float`, optional
        Seconds before the second attempt; doubled for each further one.
    patience : `float`, optional
        Longest time (seconds) to wait at the server's request (``Retry-After``).
    log : `~tololo.hooks.rest.Log`

    Returns
    -------
    size : `int`
        Bytes.

    Raises
    ------
    RefusedError
        The server refuses, or has no such file.
    BadInputError
        The address is none, or the file differs from its checksum.
    UnavailableError
        The server does not answer, or breaks off, in all attempts. What has come is kept.
    DiskError
        The disk is full or cannot be written.
    """
    try:
        where = _plain(url)
    except ValueError:
        raise BadInputError("The address of the file is none", path.name) from None
    part = path.with_name(f"{path.name}.{md5[:8]}.part")
    best, idle, spoilt = _size(part), 0, 0
    trouble = UncertainError("it was not asked")
    while idle < attempts:
        try:
            with _disk(part):
                if part.exists() and md5_of(part) == md5:
                    return _finish(part, path)
            _receive(url, where, part, timeout)
            with _disk(part):
                if md5_of(part) == md5:
                    return _finish(part, path)
                part.unlink()
            spoilt += 1
            if spoilt == 2:
                raise BadInputError(
                    f"{path.name} differs from its checksum, and did so again when it was fetched anew",
                    where,
                    "try again later; tell the archive if that does not help",
                )
            log.warning("%s differs from its checksum and is fetched anew", path.name)
            best = 0
        except UncertainError as error:
            size = _size(part)
            idle, best = (0, size) if size > best else (idle + 1, best)
            trouble = error
            if idle < attempts:
                asked = getattr(error, "seconds", 0.0)
                wait = min(asked, patience) if asked else backoff * 2 ** max(idle - 1, 0)
                log.warning("%s: %s; goes on at byte %d in %.1f s", path.name, error, size, wait)
                time.sleep(wait)
    raise UnavailableError(
        f"{path.name} did not come in {attempts} attempts in a row; the last: {trouble}",
        where,
        "run again later: it goes on from where it was broken off",
    )


def retry_after(response: requests.Response) -> float:
    """Return the seconds that a server asks to wait; 0 where it says nothing or names a date."""
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isdecimal() else 0.0


def _receive(url: str, where: str, part: Path, timeout: tuple[float, float]) -> None:
    """Get what is missing of a part."""
    offset = _size(part)
    # the bytes as they are: ranges and checksums are of these
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = requests.get(url, headers=headers, auth=NoAuth(), stream=True, timeout=timeout)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise UncertainError(type(error).__name__) from error
    except requests.RequestException as error:
        raise BadInputError(f"The address of the file is none: {type(error).__name__}", where) from error
    with response:
        status = response.status_code
        if status >= 500 or status in _TRY_LATER:
            raise _DelayedError(f"the server answers {status}", retry_after(response))
        resumed = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        if status == 416 or (status == 206 and not resumed):
            part.unlink(missing_ok=True)
            raise UncertainError("the server has no such range of the file")
        if status not in (200, 206):
            raise RefusedError(f"The server refuses the file: {status} {response.reason}", where)
        with _disk(part), open(part, "ab" if resumed else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(CHUNK)
    except requests.RequestException as error:
        raise UncertainError(f"the answer breaks off ({type(error).__name__})") from error


def _finish(part: Path, path: Path) -> int:
    size = part.stat().st_size
    part.replace(path)
    for other in path.parent.glob(f"{glob.escape(path.name)}.*.part"):  # of versions that are past
        other.unlink(missing_ok=True)
    return size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _plain(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


@contextmanager
def _disk(part: Path) -> Iterator[None]:
    """As `writing`; a full disk is given back what has come of the file."""
    try:
        with writing(part):
            yield
    except DiskError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)
        raise

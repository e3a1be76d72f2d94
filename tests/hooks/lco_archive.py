"""A server that speaks the API of Las Cumbres' archive and gives files as S3 does, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

TOKEN = "token-of-the-archive"
LOGIN = ("observer", "her password")


@dataclass
class Fault:
    """What goes wrong with requests to paths that begin so.

    Parameters
    ----------
    path : `str`
        Requests that it befalls.
    how : `str`
        ``status`` (answer it), ``hang`` (answer too late), ``break`` (close the line after ``size`` bytes),
        ``short`` (give only ``size`` bytes and say nothing of it), ``spoil`` (give other bytes), ``words``
        (answer 200 with ``body``).
    times : `int`
        How often.
    """

    path: str
    how: str
    times: int = 1
    status: int = 500
    size: int = 0
    seconds: float = 0.0
    body: bytes = b"<html><title>Down for maintenance</title></html>"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Stored:
    """A frame in the archive."""

    record: dict[str, Any]
    content: bytes


class LcoArchive(ThreadingHTTPServer):
    """The archive.

    ``ranges`` tells whether files can be got in pieces, ``lifetime`` for how many seconds an address of a
    file is good; ``old_names`` has records use the fields of the former API only.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.frames: dict[int, Stored] = {}
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.ranges = True
        self.lifetime = 3600.0
        self.old_names = False
        self.page_size = 1000
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, content: bytes, filename: str = "", **changes: Any) -> Stored:
        """Keep a frame; ``changes`` are fields of its record."""
        number = 1000 + len(self.frames)
        filename = filename or f"cpt1m012-fa06-20240502-{number:04d}-e91.fits.fz"
        observed = datetime(2024, 5, 2, 1, tzinfo=UTC) + timedelta(minutes=number - 1000)
        record = {
            "id": number,
            "basename": filename.split(".")[0],
            "filename": filename,
            "observation_date": f"{observed:%Y-%m-%dT%H:%M:%S}Z",
            "proposal_id": "LCO2024A-001",
            "target_name": "OGLE-2024-BLG-0034",
            "instrument_id": "fa06",
            "primary_optical_element": "ip",
            "reduction_level": 91,
            "configuration_type": "EXPOSE",
            "site_id": "cpt",
            "telescope_id": "1m0a",
        } | changes
        stored = self.frames[number] = Stored(record, content)
        return stored

    def files_asked(self) -> list[str]:
        """Return the names of files that were asked for, in order."""
        return [urlsplit(path).path.rsplit("/", 1)[1] for path, _ in self.seen if path.startswith("/files/")]

    def described(self, stored: Stored) -> dict[str, Any]:
        """Return a frame's record, with an address that is good for a while."""
        record = stored.record
        signature = urlencode({"X-Amz-Signature": "secret", "expires": time.time() + self.lifetime})
        url = f"{self.url}/files/{record['id']}/{record['filename']}?{signature}"
        version = {"id": record["id"], "md5": hashlib.md5(stored.content).hexdigest(), "url": url}
        described = {**record, "url": url, "version_set": [version]}
        old = {
            "OBJECT": "target_name",
            "INSTRUME": "instrument_id",
            "FILTER": "primary_optical_element",
            "RLEVEL": "reduction_level",
            "OBSTYPE": "configuration_type",
            "PROPID": "proposal_id",
            "DATE_OBS": "observation_date",
        }
        for name, new in old.items():
            described[name] = described.pop(new) if self.old_names else described[new]
        return described

    def next_fault(self, path: str, headers: dict[str, str]) -> Fault | None:
        with self._lock:
            self.seen.append((path, headers))
            for fault in self.faults:
                if fault.times > 0 and path.startswith(fault.path):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: broken lines are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    server: LcoArchive
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def _answer(self, body: bytes) -> None:
        fault = self.server.next_fault(self.path, dict(self.headers.items()))
        if fault and fault.how == "hang":
            time.sleep(fault.seconds)
        if fault and fault.how in ("status", "words"):
            self._send(200 if fault.how == "words" else fault.status, fault.body, fault.headers)
            return
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/files/"):
            self._file(int(parts.path.split("/")[2]), query, fault)
        elif parts.path == "/api-token-auth/":
            form = {key: values[-1] for key, values in parse_qs(body.decode()).items()}
            good = (form.get("username"), form.get("password")) == LOGIN
            refusal = {"non_field_errors": ["Unable to log in with provided credentials."]}
            self._json(200 if good else 400, {"token": TOKEN} if good else refusal)
        elif self.headers.get("Authorization") != f"Token {TOKEN}":
            self._json(401, {"detail": "Invalid token."})
        elif parts.path == "/profile/":
            self._json(200, {"username": LOGIN[0], "proposals": ["LCO2024A-001"]})
        elif parts.path == "/frames/":
            self._list(query)
        elif (number := int(parts.path.split("/")[2])) in self.server.frames:
            self._json(200, self.server.described(self.server.frames[number]))
        else:
            self._json(404, {"detail": "Not found."})

    def _list(self, query: dict[str, str]) -> None:
        def wanted(record: dict[str, Any]) -> bool:
            begun = record["observation_date"].replace("T", " ").rstrip("Z")
            return (
                record["proposal_id"] == query["proposal_id"]
                and str(record["reduction_level"]) == query["reduction_level"]
                and record["configuration_type"] == query["configuration_type"]
                and query["start"] <= begun <= query["end"]
            )

        found = [stored for stored in self.server.frames.values() if wanted(stored.record)]
        found.sort(key=lambda stored: [stored.record[key] for key in query["ordering"].split(",")])
        limit, offset = min(int(query["limit"]), self.server.page_size), int(query.get("offset", 0))
        following = None
        if offset + limit < len(found):
            # as behind a proxy, which does not know under what name it is called
            following = (
                f"http://archive.internal/frames/?{urlencode(query | {'offset': str(offset + limit)})}"
            )
        page = [self.server.described(stored) for stored in found[offset : offset + limit]]
        self._json(200, {"count": len(found), "next": following, "previous": None, "results": page})

    def _file(self, number: int, query: dict[str, str], fault: Fault | None) -> None:
        if "Authorization" in self.headers:  # S3 refuses two kinds of credentials
            self._send(400, b"<Error><Code>InvalidArgument</Code></Error>", {})
            return
        if float(query["expires"]) < time.time():
            self._send(
                403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", {}
            )
            return
        content = self.server.frames[number].content
        if fault and fault.how == "spoil":
            content = bytes(len(content))
        status, headers, offset = 200, {}, 0
        if self.server.ranges and (asked := self.headers.get("Range")):
            offset = int(asked.removeprefix("bytes=").rstrip("-"))
            if offset >= len(content):
                self._send(416, b"", {})
                return
            status, headers = 206, {"Content-Range": f"bytes {offset}-{len(content) - 1}/{len(content)}"}
        piece = content[offset:]
        if fault and fault.how in ("break", "short"):
            announced = len(piece) if fault.how == "break" else fault.size
            self._send(status, piece[: fault.size], headers, announced)
            self.close_connection = True
            return
        self._send(status, piece, headers)

    def _json(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)


def a_frame(target: str = "OGLE-2024-BLG-0034", **cards: Any) -> bytes:
    """Return a small frame in the form of Las Cumbres' pipeline, packed; no two are the same."""
    import io

    import numpy as np
    from astropy.io import fits

    header = fits.Header()
    header.update({"OBJECT": target, "FILTER": "ip", "INSTRUME": "fa06", "RLEVEL": 91, "OBSTYPE": "EXPOSE"})
    header.update(
        {"CAT-RA": "17:30:25.500", "CAT-DEC": "-25:30:30.50", "RA": "17:30:25.4", "DEC": "-25:30:31"}
    )
    header.update(cards)
    image = np.random.default_rng().normal(400, 20, (64, 64)).astype(np.float32)
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, header=header, name="SCI")])
    file = io.BytesIO()
    hdus.writeto(file)
    return file.getvalue()

"""A real TOM that a test can kill, look into and put a bad network in front of."""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from astropy.time import Time

from tololo.facility.lightcurve import LightCurve
from tololo.facility.photometry_point import PhotometryPoint
from tololo.facility.tom import Target, UploadResult
from tololo.hooks.tom import TomHook
from tololo.services import tom
from tololo.services.home import Home
from tololo.services.process import Daemon

RA, DEC = 186.744, 25.462
INSTALLED = pytest.mark.skipif(
    not (tom.environment_folder() / "bin" / "python").exists(),
    reason="the TOM's environment .venv-tom is not installed",
)

MakeHook = Callable[..., TomHook]


@dataclass
class RealTom:
    """The TOM Toolkit server of the embedded services, in a home of its own."""

    home: Home
    info: tom.TomInfo = field(init=False)

    def __post_init__(self) -> None:
        self.info = tom.start(self.home)

    def start(self) -> None:
        tom.start(self.home, self.info)

    def stop(self) -> None:
        tom.stop(self.home)

    def kill(self) -> None:
        pid = Daemon(self.home, "tom").pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while Daemon(self.home, "tom").running():
            time.sleep(0.02)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with (
            closing(sqlite3.connect(self.home.root / "tom" / "db.sqlite3", timeout=30)) as database,
            database,
        ):
            return database.execute(statement, values).fetchall()

    def products(self, target: int) -> list[int]:
        rows = self.sql("SELECT id FROM tom_dataproducts_dataproduct WHERE target_id = ? ORDER BY id", target)
        return [row[0] for row in rows]

    def points(self, target: int) -> list[dict[str, Any]]:
        """Everything the database holds of a target's photometry, what the API leaves out too."""
        names = "data_product_id timestamp brightness brightness_error limit bandpass telescope instrument"
        names += " reduction_version unit source_name source_location value"
        columns = ", ".join(f'"{name}"' for name in names.split())
        rows = self.sql(
            f"SELECT {columns} FROM tom_dataproducts_photometryreduceddatum WHERE target_id = ?"
            " ORDER BY timestamp, source_location",
            target,
        )
        return [dict(zip(names.split(), row, strict=True)) for row in rows]


@dataclass
class Fault:
    """What goes wrong with requests of one method to one path.

    Parameters
    ----------
    method, path : `str`
        Requests that it befalls.
    how : `str`
        ``refuse`` (answer ``status``, the TOM not asked); ``forget`` (let the TOM do it, answer ``status``);
        ``drop`` (let the TOM do it, close the line); ``hang`` (let the TOM do it, answer too late);
        ``act`` (call ``action``, then forward as usual); ``rewrite`` (``action`` changes the body);
        ``die`` (``action`` is called while the TOM is at it, after ``seconds``).
    times : `int`
        How often.
    """

    method: str
    path: str
    how: str
    times: int = 1
    status: int = 502
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    words: bytes = b"<html><head><title>Bad gateway</title></head></html>"
    action: Callable[[], None] | Callable[[bytes], bytes] | None = None


class Proxy(ThreadingHTTPServer):
    """A proxy in front of a TOM, with faults."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.watch: Callable[[int, str], None] = lambda number, when: None
        """Called with the number of each request, ``before`` the TOM has it and ``after`` it has answered."""
        self.answered = 0
        """Requests without a fault that the TOM is done with."""
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.seen.append((method, path))
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and path.startswith(fault.path):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: broken lines are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.next_fault(self.command, self.path)
        number = len(self.server.seen)
        if fault is None:
            self.server.watch(number, "before")
            answer = self._forward(body)
            self.server.answered += 1
            self.server.watch(number, "after")
            self._answer(*answer)
        elif fault.how == "die":
            at_it = threading.Thread(target=self._forward, args=(body,))
            at_it.start()
            time.sleep(fault.seconds)
            fault.action()
            at_it.join()
        elif fault.how == "refuse":
            self._answer(fault.status, {"Content-Type": "text/html"} | fault.headers, fault.words)
        elif fault.how == "act":
            fault.action()
            self._answer(*self._forward(body))
        elif fault.how == "rewrite":
            self._answer(*self._forward(fault.action(body)))
        else:
            self._forward(body)
            if fault.how == "forget":
                self._answer(fault.status, {"Content-Type": "text/html"}, fault.words)
            elif fault.how == "hang":
                time.sleep(fault.seconds)

    do_GET = do_POST = do_DELETE = _serve

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        line = http.client.HTTPConnection(
            self.server.upstream.hostname, self.server.upstream.port, timeout=30
        )
        with closing(line):
            headers = {
                k: v for k, v in self.headers.items() if k.lower() not in ("connection", "content-length")
            }
            try:
                line.request(self.command, self.path, body or None, headers)
                response = line.getresponse()
                answer = response.read()
            except OSError:
                return 502, {"Content-Type": "text/html"}, b"<title>no TOM behind the proxy</title>"
            kept = {k: v for k, v in response.getheaders() if k.lower() in ("content-type", "location")}
            return response.status, kept, answer

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def light_curve(n: int = 12, **changes: object) -> LightCurve:
    """A rising transient of February 2018, the first third below the threshold, in z and r by turns."""
    points = [
        PhotometryPoint(
            mjd=58161.25 + 0.9 * i + 0.000123456,
            time_scale="TAI",
            flux_njy=-20.0 + 100 * max(0, i - n // 3 + 1),
            flux_err_njy=20.0,
            band="zr"[i % 2],
            visit=712000 + i,
            detector=29,
            dia_object_id=2**62 + 1,
        )
        for i in range(n)
    ]
    points[-1] = replace(points[-1], **changes)
    return LightCurve("AT 2018", RA, DEC, tuple(points))


def check_holds(tom: RealTom, target: Target, curve: LightCurve, result: UploadResult | None = None) -> None:
    """The TOM's database has one product of the target, and each point of the light curve once, as sent."""
    (product,) = tom.products(target.id)
    points = tom.points(target.id)
    rows = curve.rows()
    assert [point["source_location"] for point in points] == [row["source_location"] for row in rows]
    for point, row in zip(points, rows, strict=True):
        assert point["data_product_id"] == product
        mjd = Time(datetime.fromisoformat(point["timestamp"]), scale="utc").mjd
        assert mjd == pytest.approx(float(row["time"]), abs=1e-9)
        for kept, sent in (("brightness", "magnitude"), ("brightness_error", "error"), ("limit", "limit")):
            assert point[kept] == (pytest.approx(float(row[sent]), abs=1e-9) if row[sent] else None)
        assert point["bandpass"] == row["filter"]
    if result:
        assert (result.product_id, result.n_points) == (product, len(curve))
        assert {point["reduction_version"] for point in points} == {result.reduction_version}

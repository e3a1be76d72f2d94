"""Requests to our own servers on the loopback interface, past any proxy."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(
    url: str, headers: Mapping[str, str] | None = None, body: Any = None, timeout: float = 30.0
) -> tuple[int, Any]:
    """Send one request: GET, or POST when there is a body.

    Parameters
    ----------
    url : `str`
        Address.
    headers : mapping, optional
        Further headers.
    body : optional
        Sent as JSON.
    timeout : `float`, optional
        Seconds.

    Returns
    -------
    status : `int`
        HTTP status; 0 when nobody listens or the answer breaks off.
    answer : optional
        The JSON of the answer; `None` if it is not JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, headers={"Content-Type": "application/json", **(headers or {})}
    )
    try:
        try:
            with _OPENER.open(request, timeout=timeout) as response:
                return response.status, _json(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())
    except (OSError, http.client.HTTPException):
        return 0, None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None

"""Addresses of services, and what cannot be sent to them."""

from __future__ import annotations

import logging
import traceback

import pytest

from tololo.facility.errors import BadInputError
from tololo.hooks.rest import RestService, TokenAuth, address


@pytest.mark.parametrize(
    ("host", "port", "schema", "url"),
    [
        ("tom.example.org", None, None, "https://tom.example.org"),
        ("tom.example.org", 8443, "http", "http://tom.example.org:8443"),
        ("localhost", 8001, None, "http://localhost:8001"),
        ("127.0.0.1", 8001, "", "http://127.0.0.1:8001"),
        ("::1", 8001, None, "http://[::1]:8001"),
        ("https://user:word@tom.example.org/mop/", None, None, "https://tom.example.org/mop"),
        ("http://tom.example.org:81", 82, "https", "http://tom.example.org:81"),
    ],
)
def test_address(host: str, port: int | None, schema: str | None, url: str) -> None:
    assert address(host, port, schema) == url


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("http://127.0.0.1:9", "secret\n"),
        ("http://127.0.0.1:9", "secret\u200b"),
        ("http://tom..example", "secret"),
    ],
)
def test_what_cannot_be_sent_is_said_without_the_token(url: str, token: str) -> None:
    service = RestService(
        "The TOM",
        url,
        TokenAuth(token),
        token,
        "correct it in connection x",
        timeout=(1.0, 1.0),
        attempts=1,
        backoff=0.0,
        log=logging.getLogger("test"),
    )
    with pytest.raises(BadInputError, match=r"what cannot be sent.*connection x") as caught:
        service.call("GET", "/api/targets/")
    assert "secret" not in "".join(traceback.format_exception(caught.value))

"""Addresses of services."""

from __future__ import annotations

import pytest

from tololo.hooks.rest import address


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

"""Requests to our own servers, and to what else may listen on their ports."""

from __future__ import annotations

import socket
import threading

import pytest

from tololo.services.loopback import ask


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 99\r\n\r\n{}",
    ],
)
def test_another_program_on_the_port_is_no_answer(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            line, _ = listening.accept()
            with line:
                line.recv(4096)
                line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        assert ask(f"http://127.0.0.1:{listening.getsockname()[1]}/api/", timeout=5) == (0, None)

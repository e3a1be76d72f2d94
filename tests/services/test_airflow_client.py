"""The client against a small server that answers as Airflow's REST API does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.services.airflow_client import AirflowClient


@dataclass
class Answers:
    """What the server says next to each path, and what it was asked."""

    url: str = ""
    by_path: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, str, str, Any]] = field(default_factory=list)

    def say(self, path: str, *answers: tuple[int, Any]) -> None:
        self.by_path[f"/api/v2/{path}"] = list(answers)

    def paths(self) -> list[str]:
        return [f"{method} {path.removeprefix('/api/v2/')}" for method, path, _, _ in self.asked]


@pytest.fixture
def server() -> Iterator[Answers]:
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = json.loads(body) if body else None
            answers.asked.append((self.command, self.path, self.headers["Authorization"], content))
            queue = answers.by_path.get(self.path) or [(404, {"detail": "not found"})]
            status, answer = queue.pop(0) if len(queue) > 1 else queue[0]
            text = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = answer

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    answers.url = f"http://127.0.0.1:{http.server_port}"
    yield answers
    http.shutdown()
    thread.join()
    http.server_close()


def client(server: Answers) -> AirflowClient:
    tokens = iter(["first", "second", "third"])
    return AirflowClient(f"{server.url}/", lambda: next(tokens))


def test_an_expired_token_is_renewed(server: Answers) -> None:
    server.say("dags/a/dagRuns/r", (401, {}), (200, {"state": "success"}))
    assert client(server).run("a", "r") == {"state": "success"}
    assert [asked[2] for asked in server.asked] == ["Bearer first", "Bearer second"]


def test_a_server_that_stumbles_is_asked_again(server: Answers) -> None:
    server.say("dags/a/dagRuns/r", (503, {}), (200, {"state": "running"}))
    assert client(server).run("a", "r") == {"state": "running"}
    assert len(server.asked) == 2


def test_a_refusal_is_one_message(server: Answers) -> None:
    server.say("dags/a/dagRuns", (422, {"detail": "night: '2019' does not match"}))
    with pytest.raises(BadInputError, match=r"POST dags/a/dagRuns.*does not match"):
        client(server).trigger("a", {"night": "2019"})
    assert len(server.asked) == 1


def test_a_server_that_stays_away_is_told(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr("tololo.services.airflow_client.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("tololo.services.airflow_client.time.sleep", lambda _: None)
    with pytest.raises(UnavailableError, match="does not answer"):
        AirflowClient("http://127.0.0.1:9", lambda: "x").run("a", "r")


def test_triggering_passes_params_and_no_date(server: Answers) -> None:
    server.say("dags/a/dagRuns", (200, {"dag_run_id": "manual__1"}))
    assert client(server).trigger("a", {"night": "20190401"}) == "manual__1"
    assert server.asked[0][3] == {"logical_date": None, "conf": {"night": "20190401"}}


def test_dags_are_waited_for_and_only_paused_ones_unpaused(server: Answers) -> None:
    paused = {"dag_id": "a", "is_paused": True}
    running = {"dag_id": "b", "is_paused": False}
    server.say("dags?limit=100", (200, {"dags": [paused]}), (200, {"dags": [paused, running]}))
    server.say("dags/a", (200, {}))
    client(server).wait_for_dags(["a", "b"])
    assert server.paths() == ["GET dags?limit=100", "GET dags?limit=100", "PATCH dags/a"]
    assert server.asked[-1][3] == {"is_paused": False}


def test_a_dag_that_cannot_be_imported_is_named_with_its_error(server: Answers) -> None:
    server.say("dags?limit=100", (200, {"dags": []}))
    fault = {"stack_trace": "Traceback\n  File x\nSyntaxError: invalid syntax\n"}
    server.say("importErrors", (200, {"import_errors": [fault]}))
    with pytest.raises(UnavailableError, match=r"DAGs a, b.*SyntaxError: invalid syntax"):
        client(server).wait_for_dags(["b", "a"], timeout=0)


def test_progress_and_result_of_a_task_that_has_none(server: Answers) -> None:
    own = client(server)
    assert own.progress("a", "r", "t") == ""
    assert own.result("a", "r", "t") is None
    task = "dags/a/dagRuns/r/taskInstances/t"
    server.say(f"{task}/state-store/progress", (200, {"value": "1 of 2"}))
    server.say(f"{task}/xcomEntries/return_value?deserialize=true", (200, {"value": {"done": 3}}))
    assert own.progress("a", "r", "t") == "1 of 2"
    assert own.result("a", "r", "t") == {"done": 3}


def test_the_error_that_ended_a_task_is_found_in_its_log(server: Answers) -> None:
    path = "dags/a/dagRuns/r/taskInstances/t/logs/1?full_content=true&map_index=-1"
    detail = [{"exc_type": "AirflowFailException", "exc_value": "There is no template"}]
    server.say(path, (200, {"content": [{"event": "working"}, {"event": "failed", "error_detail": detail}]}))
    assert client(server).last_lines("a", "r", "t", 1) == "AirflowFailException: There is no template"
    assert client(server).last_lines("a", "r", "absent", 1) == ""

"""Airflow's REST API, as far as the demo needs it: trigger a DAG, follow its tasks, read their results."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import requests

from tololo.facility.errors import BadInputError, UnavailableError

ENDED = ("success", "failed")


class AirflowClient:
    """A client of one Airflow server.

    Parameters
    ----------
    url : `str`
        Address of the web server.
    token : callable
        Returns a bearer token; asked again when the old one has expired.
    """

    def __init__(self, url: str, token: Callable[[], str]) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._session = requests.Session()
        self._log_in()

    def _log_in(self) -> None:
        self._session.headers["Authorization"] = f"Bearer {self._token()}"

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the API and return its JSON; a server that is away for a moment is asked again.

        Raises
        ------
        BadInputError
            The server refuses the call (4xx).
        UnavailableError
            The server does not answer for a minute.
        """
        deadline = time.monotonic() + 60
        while True:
            try:
                response = self._session.request(method, f"{self.url}/api/v2/{path}", timeout=30, **arguments)
            except requests.RequestException as error:
                problem = str(error)
            else:
                if response.status_code == 401:
                    self._log_in()
                elif response.status_code < 400:
                    return response.json() if response.content else None
                elif response.status_code < 500:
                    raise BadInputError(
                        f"Airflow refuses {method} {path}: {response.text[:300]}",
                        self.url,
                        "look at the params",
                    )
                problem = f"{response.status_code} {response.text[:200]}"
            if time.monotonic() > deadline:
                raise UnavailableError(f"Airflow does not answer: {problem}", self.url, "see var/logs")
            time.sleep(1)

    def wait_for_dags(self, dag_ids: list[str], timeout: float = 120) -> None:
        """Wait until the DAGs are parsed, and unpause them.

        Raises
        ------
        UnavailableError
            A DAG does not appear, or cannot be imported.
        """
        deadline = time.monotonic() + timeout
        while True:
            known = {dag["dag_id"]: dag for dag in self.call("GET", "dags?limit=100")["dags"]}
            if set(dag_ids) <= set(known):
                break
            if time.monotonic() > deadline:
                faults = self.call("GET", "importErrors")["import_errors"]
                text = "; ".join(fault["stack_trace"].strip().splitlines()[-1] for fault in faults)
                missing = ", ".join(sorted(set(dag_ids) - set(known)))
                raise UnavailableError(
                    f"Airflow does not show the DAGs {missing}. {text}", self.url, "see var/logs"
                )
            time.sleep(0.5)
        for dag_id in dag_ids:
            if known[dag_id]["is_paused"]:
                self.call("PATCH", f"dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, params: dict[str, Any]) -> str:
        """Start a run and return its id."""
        run = self.call("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": params})
        return str(run["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a run."""
        return dict(self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}"))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        return list(self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"])

    def progress(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Return what a running task last said of its progress."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/state-store/progress"
        try:
            return str(self.call("GET", path).get("value", ""))
        except BadInputError:
            return ""

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned, `None` if nothing."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        try:
            return self.call("GET", f"{path}?deserialize=true").get("value")
        except BadInputError:
            return None

    def last_lines(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1) -> str:
        """Return the error that ended a task, from its log."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        path += f"?full_content=true&map_index={map_index}"
        try:
            entries = self.call("GET", path)["content"]
        except (BadInputError, UnavailableError):
            return ""
        lines = []
        for entry in entries if isinstance(entries, list) else []:
            for fault in entry.get("error_detail") or []:
                lines.append(f"{fault.get('exc_type')}: {fault.get('exc_value')}")
        return "\n".join(lines[-2:])

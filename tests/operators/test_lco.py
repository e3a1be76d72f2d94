"""The download of frames as a task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from hooks.lco_archive import TOKEN, Fault, LcoArchive, a_frame
from operators.airflow_context import context
from tololo.facility.errors import UnavailableError
from tololo.operators.lco import DownloadFramesOperator

PROPOSAL = "LCO2024A-001"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LcoArchive]:
    server = LcoArchive()
    connection = {
        "conn_type": "lco",
        "host": server.url,
        "password": TOKEN,
        "extra": {"proposals": PROPOSAL},
    }
    monkeypatch.setenv("AIRFLOW_CONN_LCO_ARCHIVE", json.dumps(connection))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def params(root: Path) -> dict[str, Any]:
    manager = root.parent / "manager.yaml"
    manager.write_text(
        f"data_reduction_dir: {root}\ninstrument_list: [sinistro]\ndataset_selection: {{group: all}}\n"
    )
    window = {"start": "2024-05-01", "end": "2024-05-02"}
    return {"source": "datasets", "manager": str(manager), "download": "yes", "proposals": [], **window}


def run(params: dict[str, Any], **options: Any) -> Any:
    return DownloadFramesOperator(task_id="download", **options).execute(context(**params))


def test_frames_come_and_are_counted(server: LcoArchive, params: dict[str, Any], root: Path) -> None:
    server.add(a_frame())
    server.add(a_frame(), observation_date="2024-05-02T23:59:00Z")  # the end's day is in the window
    server.add(a_frame(), observation_date="2024-05-03T00:01:00Z")
    dataset = str(root / "OGLE-2024-BLG-0034" / "sinistro" / "ip")
    assert run(params) == {
        "found": 2,
        "new": 2,
        "present": 0,
        "waiting": {},
        "set_aside": {},
        "failed": {},
        "datasets": [dataset],
        "configured": [dataset],
        "unconfigured": {},
    }
    assert run(params | {"proposals": "OTHER"})["found"] == 0
    assert run(params)["present"] == 2


def test_what_failed_is_named_and_the_rest_is_there(server: LcoArchive, params: dict[str, Any]) -> None:
    names = [server.add(a_frame()).record["filename"] for _ in range(3)]
    server.faults = [Fault("/files/1002/", "status", times=2, status=404)]
    with pytest.raises(UnavailableError, match="1 of 3 frames failed, 2 came") as caught:
        run(params)
    assert names[2] in caught.value.where
    assert "404" in caught.value.where
    assert run(params)["new"] == 1


def test_a_dry_run_fetches_nothing(server: LcoArchive, params: dict[str, Any], root: Path) -> None:
    server.add(a_frame())
    assert run(params | {"dry_run": True})["new"] == 1
    assert list(root.iterdir()) == []


def test_nothing_is_downloaded_unless_asked_for(server: LcoArchive, params: dict[str, Any]) -> None:
    with pytest.raises(AirflowSkipException, match="not to be downloaded"):
        run(params | {"download": "no"})
    with pytest.raises(AirflowSkipException, match="another source"):
        run(params, skip="another source")
    assert server.seen == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"manager": "/nowhere/manager.yaml"}, "/nowhere/manager.yaml"),
        ({"manager": None, "datasets": ["/data/x"]}, "not said where frames go"),
        ({"start": "yesterday"}, "'yesterday' is no time. Where: param start"),
        ({"start": "2024-05-03", "end": "2024-05-02"}, "is not before the end"),
    ],
)
def test_bad_params_are_named(
    server: LcoArchive, params: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(AirflowFailException, match=message):
        run(params | changes)
    assert server.seen == []


def test_a_wrong_token_fails_at_once(
    server: LcoArchive, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "lco", "host": server.url, "password": "wrong"}
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))
    with pytest.raises(AirflowFailException, match="There are no proposals to download"):
        run(params, conn_id="other")
    with pytest.raises(AirflowFailException, match="401"):
        run(params | {"proposals": [PROPOSAL]}, conn_id="other")

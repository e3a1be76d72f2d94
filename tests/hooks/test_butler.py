from __future__ import annotations

import errno
from pathlib import Path

import pytest

from real_data import FIELD, needs
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.hooks.butler import ButlerHook


@pytest.fixture
def hook(tmp_path: Path) -> ButlerHook:
    bootstrap(BootstrapPlan(str(tmp_path / "repo")))
    return ButlerHook(tmp_path / "repo")


def test_connection_names_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap(BootstrapPlan(str(tmp_path / "repo")))
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_HERE", f'{{"conn_type": "butler", "host": "{tmp_path}/repo"}}')
    hook = ButlerHook.from_connection("butler_here")
    assert hook.exists()
    assert hook.test_connection() == (True, f"Butler repository of DECam at {tmp_path}/repo")
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_EMPTY", '{"conn_type": "butler"}')
    with pytest.raises(BadInputError, match="butler_empty"):
        ButlerHook.from_connection("butler_empty")


def test_what_is_not_there(tmp_path: Path, hook: ButlerHook) -> None:
    absent = ButlerHook(tmp_path / "absent")
    assert not absent.exists()
    with pytest.raises(BadInputError, match="repo_bootstrap"):
        absent.open()
    assert absent.test_connection()[0] is False
    assert (hook.collections("2018*"), hook.collections("nowhere"), hook.counts("nowhere")) == ([], [], {})
    assert (hook.count("visit_image", "refcats"), hook.count("instcal_image", "nowhere")) == (0, 0)
    with pytest.raises(BadInputError, match="nowhere"):
        hook.open(inputs="nowhere")


@needs(FIELD)
def test_ingest_counts_and_chains(hook: ButlerHook) -> None:
    report = hook.ingest_instcal(FIELD)
    assert len(report.ingested) == 9
    assert hook.counts("20180211/instcal") == {"instcal_image": 1, "instcal_mask": 1, "instcal_weight": 1}
    assert hook.count("instcal_image", "DECam/instcal/all") == 9
    assert hook.count("instcal_image", "DECam/instcal/all", "instrument = 'DECam' AND band = 'r'") == 3
    assert hook.count("instcal_image", "DECam/instcal/all", instrument="DECam", exposure=1) == 0
    with hook.open() as butler:
        children = butler.collections.get_info("20180211/instcal").children
    assert children == ("refcats", "skymaps", "20180211/instcal/raw")
    assert hook.ingest_instcal(FIELD).datasets == 0


def test_errors_of_a_session_are_the_facilitys(hook: ButlerHook, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"nowhere.*What to do"), hook.session() as butler:
        butler.collections.get_info("nowhere")
    with pytest.raises(BadInputError, match="detektor"), hook.session() as butler:
        butler.query_datasets("instcal_image", "DECam/instcal/all", where="detektor = 1")
    with pytest.raises(BadInputError, match=r"no\.yaml"), hook.session() as butler:
        (tmp_path / "no.yaml").read_text()
    with pytest.raises(UnavailableError, match="disk cannot be used"), hook.session():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ZeroDivisionError), hook.session():
        _ = 1 / 0
    with pytest.raises(BadInputError, match="repo_bootstrap"), ButlerHook(tmp_path / "absent").session():
        pass


def test_a_database_that_is_gone_is_away_for_now(hook: ButlerHook) -> None:
    (Path(hook.repository) / "gen3.sqlite3").unlink()
    with pytest.raises(UnavailableError, match="does not answer"), hook.session():
        pass

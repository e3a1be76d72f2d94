"""The site parsl: what it honours, and the record that it keeps of jobs that failed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tololo.engine.attempt import Attempt
from tololo.engine.client import job_environment
from tololo.engine.driver import drive
from tololo.engine.parsl_failures import read_failures
from tololo.engine.parsl_site import ResumableParslService
from tololo.simulation.drill import drill_request, make_drill_repository, wrong_numbers
from tololo.simulation.drill_faults import executions, write_faults


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """That of a driver, which goes into its attempt's folder."""
    for key, value in job_environment().items():
        monkeypatch.setenv(key, value)
    with contextlib.chdir(Path.cwd()):
        yield


@pytest.mark.long
def test_one_core_is_one_job_at_a_time_and_failures_are_recorded_and_final(tmp_path: Path) -> None:
    make_drill_repository(tmp_path / "repository", detectors=4)
    faults = write_faults(tmp_path / "faults.json", kill=[2], sleep={"3": 3, "4": 3}, **{"raise": [1]})
    journal = tmp_path / "journal"
    request = drill_request(tmp_path / "repository", "one", faults, journal, site="parsl", cores=1)
    attempt = Attempt(tmp_path / "1")
    attempt.create(request)
    assert drive(attempt).phase == "done"
    assert sorted(execution.detector for execution in executions(journal)) == [1, 2, 3, 4]
    events = [(json.loads(line)["event"], json.loads(line)["detector"]) for line in journal.open()]
    for detector in (3, 4):
        assert events.index(("ended", detector)) == events.index(("began", detector)) + 1
    failures = read_failures(attempt.submit_path)
    assert sorted((f["label"], f["exit"] or 0, f["signal"] or 0, f["tries"]) for f in failures) == [
        ("drillOne", 0, signal.SIGKILL, 1),
        ("drillOne", 1, 0, 1),
    ]
    assert {failure["reason"] for failure in failures} == {"exit", "lost"}
    assert len({quantum for failure in failures for quantum in failure["quanta"]}) == 2
    wrong = wrong_numbers(tmp_path / "repository", "one")
    assert [line.split(":")[0] for line in wrong] == [
        "drillOne of visit 900001, detector 1",
        "drillOne of visit 900001, detector 2",
    ]


def test_nothing_is_recorded_of_a_run_that_was_not(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == []
    service = ResumableParslService({})
    assert service.restart(str(tmp_path)) == (None, None, f"bps has not prepared a run in {tmp_path}")


@pytest.mark.long
@pytest.mark.parametrize("when", ["first job", "a quantum"])
def test_a_run_is_gone_on_with_after_its_driver_was_killed(tmp_path: Path, when: str) -> None:
    make_drill_repository(tmp_path / "repository", detectors=2)
    faults = write_faults(tmp_path / "faults.json", sleep={"2": 600})
    journal = tmp_path / "journal"
    request = drill_request(tmp_path / "repository", "all", faults, journal, site="parsl")
    attempt = Attempt(tmp_path / "attempts" / "1")
    attempt.create(request)
    logs = attempt.submit_path / "logs" / "pipetaskInit"
    code = "import sys; from pathlib import Path; from tololo.engine.attempt import Attempt; "
    code += "from tololo.engine.driver import drive; drive(Attempt(Path(sys.argv[1])))"
    with open(attempt.log, "ab") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", code, attempt.folder], stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while not (logs.exists() if when == "first job" else ("drillTwo", 1) in runs(journal, "began")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    before = runs(journal, "ended")
    write_faults(faults)
    assert ResumableParslService({}).restart(str(attempt.submit_path))[2] == ""
    assert wrong_numbers(tmp_path / "repository", "all", collections=attempt.state.run) == []
    assert runs(journal, "ended")["drillOne", 1] == 1
    assert runs(journal, "began")["drillOne", 1] == 1
    assert (when == "first job") is (before == {})


def runs(journal: Path, event: str) -> Counter[tuple[str, int]]:
    return Counter((execution.label, execution.detector) for execution in executions(journal, event))

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tololo.facility.errors import BadInputError
from tololo.facility.locks import (
    MISSING,
    LockOwner,
    LockRecord,
    Verdict,
    age,
    checked_policy,
    describe,
    judge,
    may_break,
    split_name,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OWNER = LockOwner("nightly_decam", "manual__1", "lock", 2, "ctio")
RECORD = LockRecord(
    since=NOW - timedelta(minutes=90),
    heartbeat=NOW - timedelta(seconds=12),
    owner=OWNER,
    ttl=900.0,
    host="tololo1",
    pid=4711,
    pid_started="99",
    token="0123456789abcdef",
)
SILENT = replace(RECORD, heartbeat=NOW - timedelta(seconds=901))
KEPT = replace(RECORD, kept=True)
FOREIGN = LockRecord(NOW - timedelta(days=3), NOW - timedelta(days=3), note="the file is empty")


def test_written_and_read_again() -> None:
    for record in (RECORD, SILENT, KEPT, replace(RECORD, owner=replace(OWNER, task_id='"µ\n' * 500))):
        text = record.text()
        assert LockRecord.parse(text, NOW) == record
        assert len(text.encode()) % 1024 == 0
        assert text.startswith("2026-11-20T10:30:00\n")
    assert len(RECORD.text(4096)) == 4096
    assert LockRecord.parse(RECORD.text(4096), NOW) == RECORD


def test_times_of_another_zone_are_written_in_utc() -> None:
    chile = replace(RECORD, since=datetime.fromisoformat("2026-11-20T07:30:00-03:00"))
    assert chile.text().startswith("2026-11-20T10:30:00\n")


@pytest.mark.parametrize(
    "change",
    [
        {"token": ""},
        {"token": None, "ttl": "long"},
        {"ttl": 0},
        {"ttl": -1.0},
        {"ttl": float("nan")},
        {"ttl": float("inf")},
        {"heartbeat": "yesterday"},
        {"heartbeat": 5},
        {"owner": "me"},
        {"owner": {"dag_id": "a"}},
        {"pid": "none"},
    ],
)
def test_what_is_no_lock_of_ours_is_another_tool_s(change: dict[str, object]) -> None:
    time, rest = RECORD.text().split("\n", 1)
    text = f"{time}\n{json.dumps(json.loads(rest) | change)}"
    record = LockRecord.parse(text, NOW)
    assert (record.owner, record.since) == (None, RECORD.since)
    assert judge(record, NOW) is Verdict.FOREIGN


def test_what_a_later_version_adds_is_no_matter() -> None:
    time, rest = RECORD.text().split("\n", 1)
    text = f"{time}\n{json.dumps(json.loads(rest) | {'colour': 'red'})}"
    assert LockRecord.parse(text, NOW) == RECORD


@pytest.mark.parametrize(
    ("record", "state", "verdict"),
    [
        (None, None, Verdict.FREE),
        (FOREIGN, None, Verdict.FOREIGN),
        (FOREIGN, "failed", Verdict.FOREIGN),
        (RECORD, None, Verdict.HELD),
        (SILENT, None, Verdict.STALE),
        (SILENT, "running", Verdict.HELD),
        (SILENT, "queued", Verdict.HELD),
        (SILENT, "success", Verdict.ENDED),
        (RECORD, "success", Verdict.ENDED),
        (RECORD, "failed", Verdict.ENDED),
        (RECORD, MISSING, Verdict.ENDED),
        (KEPT, "failed", Verdict.HELD),
        (replace(SILENT, kept=True), "failed", Verdict.ENDED),
        (replace(SILENT, kept=True), "running", Verdict.HELD),
    ],
)
def test_verdicts(record: LockRecord | None, state: str | None, verdict: Verdict) -> None:
    assert judge(record, NOW, state) is verdict


def test_a_heartbeat_as_old_as_the_time_to_live_is_not_stale_yet() -> None:
    record = replace(RECORD, heartbeat=NOW - timedelta(seconds=900))
    assert judge(record, NOW) is Verdict.HELD
    assert judge(record, NOW + timedelta(milliseconds=1)) is Verdict.STALE
    assert judge(replace(record, heartbeat=NOW + timedelta(days=1)), NOW) is Verdict.HELD


def test_policies() -> None:
    allowed = {policy: {verdict for verdict in Verdict if may_break(policy, verdict)} for policy in POLICIES}
    assert allowed == {
        "never": set(),
        "if_stale": {Verdict.STALE, Verdict.ENDED},
        "if_run_ended": {Verdict.ENDED},
    }
    with pytest.raises(BadInputError, match=r"no lock policy 'always'.*use never, if_stale, if_run_ended"):
        checked_policy("always")


POLICIES = tuple(map(checked_policy, ("never", "if_stale", "if_run_ended")))


def test_descriptions() -> None:
    assert describe(None, NOW) == "free"
    assert describe(RECORD, NOW) == (
        "held by nightly_decam manual__1 (task lock, try 2) on tololo1, process 4711, "
        "since 2026-11-20T10:30:00 UTC (90 min ago), heartbeat 12 s ago, time to live 15 min"
    )
    assert describe(SILENT, NOW).endswith("heartbeat 15 min ago, time to live 15 min; stale")
    assert describe(SILENT, NOW, Verdict.HELD).endswith("time to live 15 min")
    assert describe(RECORD, NOW, Verdict.ENDED).endswith("; its DAG run has ended")
    assert describe(FOREIGN, NOW) == (
        "held by another tool, owner unknown (the file is empty), since 2026-11-17T12:00:00 UTC (3 d ago)"
    )
    for record in (RECORD, SILENT, FOREIGN):
        assert "\n" not in describe(record, NOW)


def test_ages() -> None:
    ages = [age(NOW - timedelta(seconds=seconds), NOW) for seconds in (-5, 0, 119, 120, 7199, 7200, 172800)]
    assert ages == ["0 s", "0 s", "119 s", "2 min", "120 min", "2 h", "2 d"]


def test_the_same_run_is_the_same_owner() -> None:
    assert OWNER.is_same(replace(OWNER, task_id="other", try_number=9))
    for change in ({"dag_id": "x"}, {"run_id": "x"}, {"facility": "x"}):
        assert not OWNER.is_same(replace(OWNER, **change))
    assert not OWNER.is_same(None)


def test_names() -> None:
    assert split_name("folder:/data/red/") == ("folder", "/data/red")
    assert split_name("/data/red:1") == ("folder", "/data/red:1")
    assert split_name("collection:20190401/drp") == ("collection", "20190401/drp")
    assert split_name("apdb:2019_meanclip") == ("apdb", "2019_meanclip")
    with pytest.raises(BadInputError, match="not absolute"):
        split_name("folder:red")
    with pytest.raises(BadInputError, match=r"name of a lock.*'20190401/drp'"):
        split_name("20190401/drp")
    with pytest.raises(BadInputError, match=r"'dr\*'"):
        split_name("collection:20190401/dr*")


def test_the_rule_and_the_locks_are_quick_to_import() -> None:
    code = (
        "import sys, tololo.facility.locks, tololo.engine.locks\n"
        "heavy = {'airflow', 'lsst', 'numpy', 'psycopg', 'sqlalchemy', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

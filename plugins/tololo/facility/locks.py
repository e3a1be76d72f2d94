"""The rule of dataset locks: what a lock says, who owns it, when it is stale, and who may break it.

A lock belongs to a DAG run, not to a task or a process: whatever that run starts may renew it and release it.
All times in a lock are of one clock, that of the file server or the database that keeps the lock.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args

from tololo.facility import collections
from tololo.facility.errors import BadInputError, TololoError

LOCK_FILE = "dataset.lock"
"""The lock of a reduction directory; other tools of the field test only that this file exists."""

TTL = 900.0
"""Seconds without a heartbeat after which a lock is stale, unless its owner says otherwise."""

Policy = Literal["never", "if_stale", "if_run_ended"]
POLICIES: tuple[str, ...] = get_args(Policy)
"""Which locks may be broken without asking a person."""

MISSING = "missing"
"""State of a DAG run that Airflow does not know any more."""

_TIME = "%Y-%m-%dT%H:%M:%S"
_ENDED = ("success", "failed", MISSING)
_BLOCK = 1024


class LockLostError(TololoError):
    """A lock was broken while its owner counted on it: what was done since may have met another's work."""


class Verdict(StrEnum):
    """What a lock is worth now."""

    FREE = "free"
    HELD = "held"
    STALE = "stale"
    """Its heartbeat is older than its time to live, and nothing is known of its DAG run."""
    ENDED = "its DAG run has ended"
    FOREIGN = "of another tool"


@dataclass(frozen=True)
class LockOwner:
    """The DAG run that owns a lock, and the task that took it.

    Parameters
    ----------
    dag_id, run_id : `str`
        The DAG run, which is the owner.
    task_id, try_number : `str`, `int`
        Which of its tasks took the lock.
    facility : `str`
        Which facility's Airflow it is: two facilities may share a disk, and run ids repeat.
    """

    dag_id: str
    run_id: str
    task_id: str = ""
    try_number: int = 1
    facility: str = ""

    def is_same(self, other: LockOwner | None) -> bool:
        """Tell whether two are the same DAG run, in whichever task and try."""
        return other is not None and self._run() == other._run()

    def _run(self) -> tuple[str, str, str]:
        return self.facility, self.dag_id, self.run_id

    def __str__(self) -> str:
        task = f" (task {self.task_id}, try {self.try_number})" if self.task_id else ""
        return f"{self.dag_id} {self.run_id}{task}"


@dataclass(frozen=True)
class LockRecord:
    """What a lock says.

    Parameters
    ----------
    since, heartbeat : `datetime.datetime`
        When it was taken and last renewed, UTC.
    owner : `LockOwner` or `None`
        `None` for the lock of another tool, or one that cannot be read.
    ttl : `float`
        Time to live without a heartbeat, seconds.
    host, pid, pid_started : `str`, `int`, `str`
        The process that renewed it last, with its start time in clock ticks.
    kept : `bool`
        Whether that process goes on renewing it. Where none does, the DAG run's state is all there is.
    token : `str`
        Random name of this one taking of the lock.
    note : `str`
        What is odd about a lock without an owner.
    """

    since: datetime
    heartbeat: datetime
    owner: LockOwner | None = None
    ttl: float = TTL
    host: str = ""
    pid: int = 0
    pid_started: str = ""
    kept: bool = False
    token: str = ""
    note: str = ""

    def text(self, length: int = 0) -> str:
        """Return the content of a lock file: the time, then JSON, padded to whole blocks.

        A renewed lock is as long as it was, so it is written in place and never seen shortened.
        """
        content = {key: value for key, value in asdict(self).items() if key not in ("since", "note")}
        content["heartbeat"] = (
            self.heartbeat.astimezone(UTC).replace(tzinfo=None).isoformat("T", "milliseconds")
        )
        text = f"{self.since.astimezone(UTC):{_TIME}}\n{json.dumps(content)}"
        length = max(length, -(-(len(text) + 1) // _BLOCK) * _BLOCK)
        return text.ljust(length - 1) + "\n"

    @classmethod
    def parse(cls, text: str, modified: datetime) -> LockRecord:
        """Read what `text` wrote, or whatever else stands in a lock file.

        Parameters
        ----------
        text : `str`
            Content.
        modified : `datetime.datetime`
            When the file was written, for a lock that does not say.

        Returns
        -------
        record : `LockRecord`
            Without an owner if this is not a lock of ours; any file of the name is a lock.
        """
        first, _, rest = text.partition("\n")
        try:
            since = datetime.strptime(first.strip(), _TIME).replace(tzinfo=UTC)
        except ValueError:
            note = "the file has no time in it" if first.strip() else "the file is empty"
            return cls(modified, modified, note=note)
        if not rest.strip():
            return cls(since, since, note="the file has only a time in it")
        try:
            return replace(_from_json(json.loads(rest)), since=since)
        except (ValueError, TypeError, KeyError, OverflowError):
            return cls(since, since, note="the file cannot be read to its end")


def _from_json(content: dict[str, Any]) -> LockRecord:
    owner = content["owner"]
    heartbeat = datetime.fromisoformat(content["heartbeat"])
    record = LockRecord(
        since=heartbeat,
        heartbeat=heartbeat.astimezone(UTC) if heartbeat.tzinfo else heartbeat.replace(tzinfo=UTC),
        owner=LockOwner(
            str(owner["dag_id"]),
            str(owner["run_id"]),
            str(owner.get("task_id", "")),
            int(owner.get("try_number", 1)),
            str(owner.get("facility", "")),
        ),
        ttl=float(content["ttl"]),
        host=str(content.get("host", "")),
        pid=int(content.get("pid", 0)),
        pid_started=str(content.get("pid_started", "")),
        kept=bool(content.get("kept")),
        token=str(content["token"]),
    )
    if not record.token or not record.ttl > 0 or math.isinf(record.ttl):
        raise ValueError("a lock without a token or a time to live")
    return record


def judge(record: LockRecord | None, now: datetime, run_state: str | None = None) -> Verdict:
    """Say what a lock is worth.

    Parameters
    ----------
    record : `LockRecord` or `None`
        What the lock says.
    now : `datetime.datetime`
        Time of the clock that its times are of.
    run_state : `str`, optional
        State of the owner's DAG run, `MISSING` if Airflow does not know it any more; `None` where nobody can
        tell.

    Returns
    -------
    verdict : `Verdict`
        A lock of a DAG run that goes on is held, however old its heartbeat: nobody renews it between two
        tasks. A lock of a DAG run that has ended is held as long as a process that outlived it renews it.
    """
    if record is None:
        return Verdict.FREE
    if record.owner is None:
        return Verdict.FOREIGN
    silent = is_silent(record, now)
    if run_state in _ENDED:
        return Verdict.HELD if record.kept and not silent else Verdict.ENDED
    return Verdict.STALE if silent and run_state is None else Verdict.HELD


def is_silent(record: LockRecord, now: datetime) -> bool:
    """Tell whether the heartbeat of a lock is older than its time to live."""
    return (now - record.heartbeat).total_seconds() > record.ttl


def may_break(policy: Policy, verdict: Verdict) -> bool:
    """Tell whether a policy lets anybody break a lock of this verdict without asking a person."""
    if policy == "if_stale":
        return verdict in (Verdict.STALE, Verdict.ENDED)
    return policy == "if_run_ended" and verdict is Verdict.ENDED


def describe(record: LockRecord | None, now: datetime, verdict: Verdict | None = None) -> str:
    """Say in one line who holds a lock, since when, how old its heartbeat is, and whether it is stale.

    Parameters
    ----------
    record : `LockRecord` or `None`
        What the lock says.
    now : `datetime.datetime`
        Time of the clock that its times are of.
    verdict : `Verdict`, optional
        What `judge` said who knew more.
    """
    if record is None:
        return "free"
    since = f"since {record.since:{_TIME}} UTC ({age(record.since, now)} ago)"
    if record.owner is None:
        return f"held by another tool, owner unknown ({record.note}), {since}"
    verdict = verdict or judge(record, now)
    state = "" if verdict is Verdict.HELD else f"; {verdict}"
    return (
        f"held by {record.owner} on {record.host or 'an unknown host'}, process {record.pid}, {since}, "
        f"heartbeat {age(record.heartbeat, now)} ago, time to live {_duration(record.ttl)}{state}"
    )


def remedy(verdict: Verdict) -> str:
    """Say what a person can do about a lock that stands in the way."""
    match verdict:
        case Verdict.STALE:
            return "see whether its owner still works; if not, break the lock, or use the policy if_stale"
        case Verdict.ENDED:
            return "break the lock, or use the policy if_run_ended"
        case Verdict.FOREIGN:
            return "see whether the tool that made it still works; if not, remove the file"
    return "wait until it is released"


def age(then: datetime, now: datetime) -> str:
    """Return the time between two moments as people say it."""
    return _duration(max((now - then).total_seconds(), 0.0))


def _duration(seconds: float) -> str:
    for unit, size, enough in (("d", 86400, 2), ("h", 3600, 2), ("min", 60, 2)):
        if seconds >= enough * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def checked_policy(policy: str) -> Policy:
    """Return a policy, checked.

    Raises
    ------
    BadInputError
        If there is no such policy.
    """
    for known in get_args(Policy):
        if policy == known:
            return known  # type: ignore[no-any-return]
    raise BadInputError(f"There is no lock policy {policy!r}", "policy", f"use {', '.join(POLICIES)}")


def split_name(name: str) -> tuple[str, str]:
    """Take the name of a lock apart: ``folder:/path``, ``collection:20190401/drp``, ``apdb:2019_meanclip``.

    A path alone is the name of a folder.

    Returns
    -------
    kind, what : `str`
        ``folder``, ``collection`` or ``apdb``; and the path or name.

    Raises
    ------
    BadInputError
        If the kind is not known, the path is not absolute, or the name cannot be that of a collection.
    """
    kind, _, what = name.partition(":") if not name.startswith("/") else ("folder", "", name)
    remedy = "use folder:/path, collection:<name>[@<repository>] or apdb:<name>"
    if kind not in ("folder", "collection", "apdb") or not what:
        raise BadInputError("This is not the name of a lock", repr(name), remedy)
    if kind == "folder":
        if not Path(what).is_absolute():
            raise BadInputError("The folder of a lock is not absolute", repr(name), remedy)
        return kind, str(Path(what))
    collections.check_name(what.partition("@")[0], f"{kind} of a lock")
    return kind, what

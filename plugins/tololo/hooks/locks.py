"""Locks as Airflow's tasks and triggers use them: owned by a DAG run, kept in the facility's PostgreSQL.

The connection ``postgres_default`` says where that is. Without it, locks of collections and APDBs are files
in ``TOLOLO_HOME/locks``. A database that is named but does not answer is an error: a second place would mean
a second holder.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from tololo.engine.locks import Lock, LockStatus, facility_id, lock_for, process_owner, ticket
from tololo.facility.errors import BadInputError, NothingToDoError, TololoError, UnavailableError
from tololo.facility.locks import (
    MISSING,
    TTL,
    LockOwner,
    LockRecord,
    Policy,
    checked_policy,
    may_break,
    remedy,
    split_name,
)
from tololo.hooks.credentials import authorised, credential

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger("tololo.locks")


class LockHook:
    """The locks of the facility.

    Parameters
    ----------
    owner : `LockOwner`, optional
        The DAG run that takes and releases them; `owner_of` gives that of a task.
    ttl : `float`, optional
        Time to live of the locks that it takes, seconds.
    postgres_conn_id : `str`, optional
        Connection of type ``postgres``.

    Notes
    -----
    Files, databases and Airflow are asked and waited for: a trigger calls these methods in a thread
    (``await asyncio.to_thread(hook.status, name)``).
    """

    def __init__(
        self, owner: LockOwner | None = None, *, ttl: float = TTL, postgres_conn_id: str = "postgres_default"
    ) -> None:
        self.owner = owner
        self.ttl = ttl
        self.postgres_conn_id = postgres_conn_id
        self._taken: list[Lock] = []

    def lock(self, name: str) -> Lock:
        """Return a lock; see `tololo.engine.locks.lock_for`."""
        if split_name(name)[0] == "folder":
            return lock_for(name, self.owner, ttl=self.ttl)
        database, password = self._database
        return lock_for(name, self.owner, ttl=self.ttl, database=database, password=password)

    def holder(self, name: str) -> LockRecord | None:
        """Return what a lock says, `None` if nobody holds it."""
        return self.lock(name).holder()

    def status(self, name: str) -> LockStatus:
        """Return who holds a lock and what it is worth, Airflow being asked for the state of its DAG run."""
        return self.lock(name).status(self.run_state)

    def acquire(self, names: Sequence[str], policy: Policy = "never") -> None:
        """Take all of some locks, or none.

        Raises
        ------
        UnavailableError
            Somebody else holds one of them.
        """
        # always in the same order, so that of two who want the same locks one gets them all
        for lock in map(self.lock, sorted(set(names))):
            try:
                before = lock.holder()
                lock.acquire(policy, self.run_state)
            except BaseException:
                self.give_back()
                raise
            if before is None or not lock.owner.is_same(before.owner):
                self._taken.append(lock)

    def give_back(self) -> None:
        """Release the locks that `acquire` took here; those that the DAG run had before stay."""
        while self._taken:
            try:
                self._taken.pop().release()
            except Exception as error:  # the reason why we cannot go on is what counts
                _log.error("%s", error)

    def release(self, names: Sequence[str]) -> None:
        """Release locks; all that are ours, whatever is wrong with one of them.

        Raises
        ------
        BadInputError
            One is another's.
        UnavailableError
            Where one is kept cannot be reached.
        """
        errors: list[Exception] = []
        for name in sorted(set(names), reverse=True):
            try:
                self.lock(name).release()
            except Exception as error:  # the others must be released all the same
                errors.append(error)
                _log.error("%s", error)
        if errors:
            raise errors[0]

    def break_(self, name: str, reason: str, only: str = "always") -> str:
        """Break a lock, whoever holds it.

        Parameters
        ----------
        name : `str`
            Name of the lock.
        reason : `str`
            Why; it goes into the log.
        only : `str`, optional
            ``always``, or a policy (`tololo.facility.locks.POLICIES`) that must allow it.

        Returns
        -------
        line : `str`
            Whose lock it was.

        Raises
        ------
        NothingToDoError
            Nobody holds it.
        UnavailableError
            The policy does not allow it, or it was renewed or changed hands in this moment.
        """
        lock = self.lock(name)
        status = lock.status(self.run_state)
        if status.record is None:
            raise NothingToDoError(f"Nobody holds the lock {name}", lock.place)
        if only != "always" and not may_break(checked_policy(only), status.verdict):
            raise UnavailableError(
                f"The policy {only} does not let us break the lock {name}: it is {status.line}",
                lock.place,
                remedy(status.verdict),
            )
        if lock.break_(reason, None if only == "always" else status.record) is None:
            raise UnavailableError(f"The lock {name} has just changed hands", lock.place, "look again")
        return status.line

    def tickets(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the process that does the work needs to renew these locks; JSON.

        Raises
        ------
        BadInputError
            This DAG run does not hold one of them.
        """
        locks = [self.lock(name) for name in sorted(set(names))]
        for lock in locks:
            held = lock.holder()
            if held is None or not lock.owner.is_same(held.owner):
                raise BadInputError(
                    f"This DAG run does not hold the lock {lock.name}, which its work needs",
                    lock.place,
                    "clear the task that takes it, too",
                )
            lock.ttl = held.ttl
        return [ticket(lock) for lock in locks]

    def authorised(self) -> AbstractContextManager[None]:
        """Let processes started from here find the password of the connection, if it has one."""
        database, password = self._database
        return authorised(_credentials(database, password) if password else {})

    def run_state(self, owner: LockOwner) -> str | None:
        """Ask Airflow for the state of the DAG run that owns a lock.

        Returns
        -------
        state : `str` or `None`
            ``queued``, ``running``, ``success``, ``failed``; `MISSING` if it was deleted; `None` if it is no
            DAG run of this Airflow, or there is no Airflow to ask.

        Raises
        ------
        UnavailableError
            Airflow does not answer.
        """
        if not owner.facility or owner.facility != facility_id():
            return None
        from airflow.sdk.execution_time import task_runner

        if getattr(task_runner, "SUPERVISOR_COMMS", None) is None:
            return None
        try:
            state = task_runner.RuntimeTaskInstance.get_dagrun_state(owner.dag_id, owner.run_id)
        except Exception as error:  # a task, a trigger and a test of a DAG get different ones
            if _status_code(error) == 404:
                return MISSING
            raise UnavailableError(
                f"Airflow does not tell the state of a DAG run: {error}", str(owner), "try again"
            ) from error
        return str(getattr(state, "value", state))

    @cached_property
    def _database(self) -> tuple[str, str]:
        """URL of the database without a password, and the password; both empty where there is none."""
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            connection = BaseHook.get_connection(self.postgres_conn_id)
        except AirflowNotFoundException:
            return "", ""
        if not connection.host:
            return "", ""
        options = {key: value for key, value in connection.extra_dejson.items() if _is_libpq(key, value)}
        user = f"{quote(connection.login, safe='')}@" if connection.login else ""
        host, port = quote(connection.host, safe="[]:"), f":{connection.port}" if connection.port else ""
        name = quote(connection.schema or connection.login or "", safe="")
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{user}{host}{port}/{name}{query}", str(connection.password or "")


def owner_of(context: Context) -> LockOwner:
    """Return the owner of locks that a task takes: its DAG run."""
    ti = context["ti"]
    return LockOwner(ti.dag_id, ti.run_id, ti.task_id, ti.try_number, facility_id())


def _status_code(error: Exception) -> int | None:
    """Return the status with which Airflow refused an answer."""
    detail = getattr(getattr(error, "error", None), "detail", None) or {}
    code: int | None = detail.get("status_code")
    return code or getattr(getattr(error, "response", None), "status_code", None)


def _is_libpq(key: str, value: Any) -> bool:
    from psycopg.pq import Conninfo

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    return isinstance(value, str) and key in known - {"password"}


def _credentials(database: str, password: str) -> dict[str, str]:
    from urllib.parse import unquote, urlsplit

    url = urlsplit(database)
    return credential(str(url.hostname), url.port, url.path.strip("/"), unquote(url.username or ""), password)


def main(words: Sequence[str] | None = None) -> int:
    """Show or break locks from the command line: ``bin/run python -m tololo.hooks.locks --help``."""
    parser = argparse.ArgumentParser(prog="python -m tololo.hooks.locks", description="Show or break locks.")
    parser.add_argument("action", choices=("show", "break"))
    parser.add_argument("names", nargs="+", metavar="NAME", help="folder:/path, collection:NAME or apdb:NAME")
    parser.add_argument("--reason", default="", help="why they are broken")
    asked = parser.parse_args(words)
    hook = LockHook(process_owner(f"{getpass.getuser()} at the command line"))
    code = 0
    for name in asked.names:
        try:
            line = hook.status(name).line if asked.action == "show" else hook.break_(name, asked.reason)
        except TololoError as error:
            line, code = str(error), 1
        sys.stdout.write(f"{name}: {line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

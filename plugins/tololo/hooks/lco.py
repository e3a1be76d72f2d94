"""The science archive of Las Cumbres Observatory, its REST API: which frames there are, and where.

https://observatorycontrolsystem.github.io/api/science_archive describes the API.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from requests.auth import AuthBase

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.lco import CONFIGURATION, REDUCED, ArchiveFrame, frame_of, proposals_in
from tololo.hooks.http_files import NoAuth, retry_after
from tololo.hooks.rest import RestService, TokenAuth, address

URL = "https://archive-api.lco.global"
PAGE_SIZE = 500

_TOO_OFTEN = 429


class LcoArchiveHook(BaseHook):
    """The archive, as the owner of a token sees it.

    The connection gives the API token in ``password``, or ``login`` and ``password`` that are exchanged for
    one; the address in ``host`` where it is another archive than Las Cumbres' own; and in its extra
    ``proposals``, separated by commas, those that are downloaded unless a run names others.

    Parameters
    ----------
    lco_conn_id : `str`, optional
        Connection of type ``lco``.
    timeout : `tuple` [`float`, `float`], optional
        Seconds to wait for a connection, and for each piece of an answer.
    attempts : `int`, optional
        How often a call is tried when the archive is away, answers 5xx or not at all.
    backoff : `float`, optional
        Seconds before the second attempt; doubled for each further one.
    patience : `float`, optional
        Longest time (seconds) to wait where the archive asks for it (429 with ``Retry-After``).
    """

    conn_name_attr = "lco_conn_id"
    default_conn_name = "lco_archive"
    conn_type = "lco"
    hook_name = "Las Cumbres archive"

    def __init__(
        self,
        lco_conn_id: str = default_conn_name,
        *,
        timeout: tuple[float, float] = (5.0, 60.0),
        attempts: int = 5,
        backoff: float = 1.0,
        patience: float = 300.0,
    ) -> None:
        super().__init__()
        self.lco_conn_id = lco_conn_id
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff
        self.patience = patience

    @property
    def _where(self) -> str:
        return f"connection {self.lco_conn_id}"

    @cached_property
    def _connection(self) -> Any:
        try:
            return self.get_connection(self.lco_conn_id)
        except AirflowNotFoundException as error:
            raise BadInputError("There is no such connection", self._where, "add it, of type lco") from error

    @cached_property
    def _service(self) -> RestService:
        connection = self._connection
        if not connection.password:
            # Without a token the archive shows an empty list instead of an error, for months.
            raise BadInputError(
                "There is no token for the archive",
                self._where,
                "set the API token of your account as password, or login and password",
            )
        if not connection.login:
            return self._service_with(TokenAuth(connection.password))
        return self._service_with(TokenAuth(self._token(connection.login, connection.password)))

    def _service_with(self, auth: AuthBase) -> RestService:
        connection = self._connection
        try:
            url = address(connection.host or URL, connection.port, connection.schema)
        except ValueError as error:
            raise BadInputError(f"The address of the archive cannot be read: {error}", self._where) from error
        return RestService(
            "The archive",
            url,
            auth,
            connection.password,
            f"correct address and token in {self._where}",
            timeout=self.timeout,
            attempts=self.attempts,
            backoff=self.backoff,
            log=self.log,
        )

    def _token(self, login: str, password: str) -> str:
        """Exchange login and password for a token."""
        service = self._service_with(NoAuth())
        response = service.call(
            "POST", "/api-token-auth/", data={"username": login, "password": password}, allow=(400,)
        )
        try:
            token = str(response.json()["token"]) if response is not None and response.ok else ""
        except (ValueError, KeyError, TypeError):
            token = ""
        if not token:
            raise BadInputError(
                f"The archive gives no token to {login!r} with this password",
                f"{service.url}, {self._where}",
                "correct login and password, or set the API token as password without a login",
            )
        return token

    def get_conn(self) -> RestService:
        """Return the service behind the connection.

        Raises
        ------
        BadInputError
            If the connection lacks credentials, or the archive does not take them.
        """
        return self._service

    @property
    def proposals(self) -> tuple[str, ...]:
        """The proposals that the connection names."""
        return proposals_in(self._connection.extra_dejson.get("proposals"))

    def test_connection(self) -> tuple[bool, str]:
        """Tell whether the archive knows the token."""
        try:
            profile = self._ask("/profile/", {})
            return True, f"{self._service.url}: user {profile.get('username') or 'without a name'}"
        except (BadInputError, UnavailableError) as error:
            return False, str(error)

    def frames(self, proposal: str, start: datetime, end: datetime) -> Iterator[ArchiveFrame]:
        """List the reduced exposures of a proposal in a window of time, each once, in order of time.

        Parameters
        ----------
        proposal : `str`
        start, end : `datetime.datetime`
            When they were begun; both ends included.

        Raises
        ------
        BadInputError
            If the archive refuses, or answers something else.
        UnavailableError
            If it does not answer.
        """
        query: dict[str, Any] = {
            "proposal_id": proposal,
            "reduction_level": REDUCED,
            "configuration_type": CONFIGURATION,
            "start": _utc(start),
            "end": _utc(end),
            # Without ties, frames that come while pages are turned may be seen twice, but none is missed.
            "ordering": "observation_date,id",
            "limit": PAGE_SIZE,
        }
        seen: set[int] = set()
        pages: list[Mapping[str, Any]] = []
        while True:
            page = self._ask("/frames/", query)
            records, following = page.get("results"), page.get("next")
            if not isinstance(records, list):
                raise self._strange("/frames/")
            for record in records:
                frame = frame_of(record)
                if frame.id not in seen and frame.proposal in (proposal, ""):
                    seen.add(frame.id)
                    yield frame
            if not following:
                return
            # Of its address only the query counts: the token goes nowhere but to the archive.
            pages.append(query)
            query = dict(parse_qsl(urlsplit(following).query))
            if query in pages:
                raise BadInputError(
                    "The pages of the archive's list go round", self._service.url, "tell the observatory"
                )

    def frame(self, number: int) -> ArchiveFrame:
        """Return a frame by its id, with an address that has not expired."""
        return frame_of(self._ask(f"/frames/{number}/", {}))

    def _ask(self, path: str, query: Mapping[str, Any]) -> Any:
        """Return the JSON at a path, asking again when the archive says that it was too early."""
        for attempt in range(self.attempts):
            response = self._service.call("GET", path, params=query, allow=(_TOO_OFTEN,))
            if response is None or response.status_code != _TOO_OFTEN:
                break
            wait = min(retry_after(response) or self.backoff * 2**attempt, self.patience)
            self.log.warning("The archive asks to wait; goes on in %.1f s", wait)
            time.sleep(wait)
        else:
            raise UnavailableError(
                f"The archive says {self.attempts} times in a row that it is asked too often",
                self._service.url + path,
                "run again later",
            )
        try:
            content = response.json() if response is not None else None
        except ValueError:
            raise self._strange(path) from None
        if not isinstance(content, dict):
            raise self._strange(path)
        return content

    def _strange(self, path: str) -> BadInputError:
        return BadInputError(
            "The archive answers something else than its API does",
            self._service.url + path,
            f"correct the address in {self._where}",
        )


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")

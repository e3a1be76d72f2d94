"""A REST service behind a network that fails: time-outs, retries with backoff, and plain words in the end."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.auth import AuthBase

from tololo.facility.errors import BadInputError, UnavailableError

_TRY_LATER = (408, 425, 429)


class Log(Protocol):
    """What takes warnings; Airflow's loggers do."""

    def warning(self, event: str, *args: Any) -> Any:
        """Take one, with the arguments of its format."""


class UncertainError(Exception):
    """The service gave no usable answer; what was asked may have happened or not."""


class TokenAuth(AuthBase):
    """Token in the ``Authorization`` header; unlike a session's header, no ``.netrc`` entry replaces it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token into a request."""
        request.headers["Authorization"] = f"Token {self._token}"
        return request


class RestService:
    """Calls to one service.

    Parameters
    ----------
    name : `str`
        What messages call it, for example ``the TOM``.
    url : `str`
        Address that paths are appended to, without credentials.
    auth : `requests.auth.AuthBase`
        Credentials.
    secret : `str`
        Blotted out where the service repeats it.
    remedy : `str`
        Where address and credentials can be corrected.
    timeout : `tuple` [`float`, `float`]
        Seconds to wait for a connection, and for each piece of an answer.
    attempts : `int`
        How often a call is tried in all.
    backoff : `float`
        Seconds before the second attempt; doubled for each further one.
    log : `Log`
    """

    def __init__(
        self,
        name: str,
        url: str,
        auth: AuthBase,
        secret: str,
        remedy: str,
        *,
        timeout: tuple[float, float],
        attempts: int,
        backoff: float,
        log: Log,
    ) -> None:
        self.name = name
        self.url = url
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff
        self._secret = secret
        self._remedy = remedy
        self._log = log
        self._session = requests.Session()
        self._session.auth = auth

    def get(self, path: str, query: Mapping[str, Any]) -> Any:
        """Return the JSON at a path.

        Raises
        ------
        BadInputError
            If the service refuses, or answers something else than JSON.
        UnavailableError
            If it does not answer.
        """
        response = self.call("GET", path, params=query)
        try:
            return None if response is None else response.json()
        except ValueError:
            raise BadInputError(
                f"{self.name} answers something else than JSON", self.url + path, self._remedy
            ) from None

    def call(
        self,
        method: str,
        path: str,
        *,
        happened: Callable[[], bool] = lambda: False,
        allow: Collection[int] = (),
        **what: Any,
    ) -> requests.Response | None:
        """Call until there is an answer.

        Parameters
        ----------
        method, path : `str`
        happened : callable, optional
            Asked before each further attempt whether the last one did its work in spite of all, so that
            nothing is done twice. Not needed where doing it twice is doing it once.
        allow : collection of `int`, optional
            Status codes that are as good as 2xx.
        **what
            Goes to `requests.Session.request`.

        Returns
        -------
        response : `requests.Response` or `None`
            None where it had happened without an answer.

        Raises
        ------
        BadInputError
            If the service refuses (3xx, 4xx), with its words.
        UnavailableError
            If it cannot be reached, does not answer in time or answers 5xx, in all attempts.
        """
        trouble: UncertainError | None = None
        for attempt in range(self.attempts):
            if trouble:
                self._log.warning("%s; attempt %d of %d follows", trouble, attempt + 1, self.attempts)
                time.sleep(self.backoff * 2 ** (attempt - 1))
                if happened():
                    return None
            try:
                return self._request(method, path, allow, **what)
            except UncertainError as error:
                trouble = error
        if happened():
            return None
        raise UnavailableError(
            f"{self.name} gave no answer in {self.attempts} attempts; the last: {trouble}",
            self.url + path,
            "see that it runs and read its log, then run again; nothing is lost",
        )

    def _request(self, method: str, path: str, allow: Collection[int], **what: Any) -> requests.Response:
        url = self.url + path
        try:
            # A redirected POST would arrive as a GET.
            response = self._session.request(method, url, timeout=self.timeout, allow_redirects=False, **what)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise UncertainError(f"{method} {path}: {type(error).__name__}") from error
        except requests.RequestException as error:
            raise BadInputError(f"{self.name} cannot be called: {error}", url, self._remedy) from error
        except ValueError:
            # A line's end in a token for instance; the error's own words would repeat the token.
            raise BadInputError(
                f"{self.name} cannot be called: address or credentials hold what cannot be sent, a line's "
                "end or a letter beyond Latin-1 for instance",
                url,
                self._remedy,
            ) from None
        status = response.status_code
        if 200 <= status < 300 or status in allow:
            return response
        if status >= 500 or status in _TRY_LATER:
            raise UncertainError(f"{method} {path}: {status} {self._words(response)}")
        if status < 400:
            location = response.headers.get("Location", "nowhere")
            raise BadInputError(f"{self.name} redirects to {location}", url, self._remedy)
        raise BadInputError(
            f"{self.name} refuses {method}: {status} {self._words(response)}",
            url,
            self._remedy if status in (401, 403) else "correct what it says",
        )

    def _words(self, response: requests.Response) -> str:
        text = response.text
        if "html" in response.headers.get("Content-Type", ""):
            title = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
            text = title[1] if title else re.sub(r"<[^>]*>", " ", text)
        return " ".join(text.replace(self._secret, "***").split())[:300]


def address(host: str, port: int | None, schema: str | None) -> str:
    """Make an address of the fields of a connection; https unless it is this machine or said otherwise.

    Raises
    ------
    ValueError
        If the host is a URL with a port that is none.
    """
    bare_ipv6 = host.count(":") > 1 and "://" not in host and "[" not in host
    parts = urlsplit(host if "://" in host else f"//[{host}]" if bare_ipv6 else f"//{host}")
    name = parts.hostname or ""
    try:
        local = ipaddress.ip_address(name).is_loopback
    except ValueError:
        local = name == "localhost"
    scheme = parts.scheme or schema or ("http" if local else "https")
    number = parts.port or port
    network = f"[{name}]" if ":" in name else name
    return urlunsplit((scheme, f"{network}:{number}" if number else network, parts.path.rstrip("/"), "", ""))

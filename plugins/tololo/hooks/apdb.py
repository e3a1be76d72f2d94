"""APDBs of the facility: one per campaign, in one database server or one folder of SQLite files.

The connection (type ``apdb``) gives the server by its parts (``host``, ``port``, ``login``, ``password``,
``schema`` for the database) and in its extra ``config_folder``, where the YAML file of each APDB is kept.
Instead of the parts the extra may hold a whole ``db_url``; with ``backend`` ``sqlite`` the APDBs are files in
``config_folder``. Other text values of the extra, such as ``sslmode`` or ``passfile``, are options of the
driver.

A password never stands in a URL, in a YAML file or on a command line: it goes to dax_apdb through
``LSST_DB_AUTH_CREDENTIALS``, before whatever ``LSST_DB_AUTH`` knows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseHook

from tololo.facility.errors import BadInputError
from tololo.facility.nights import parse_night
from tololo.hooks.credentials import authorised, credential

if TYPE_CHECKING:
    from astropy.table import Table
    from sqlalchemy.engine import URL

    from tololo.reduction.apdb import CampaignApdb
    from tololo.reduction.withdrawal import Withdrawn

DATABASE = "apdb"
DRIVER = "postgresql+psycopg2"
"""dax_apdb stores through pandas, whose untyped NULLs psycopg 3 refuses."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_OWN_EXTRAS = {"backend", "config_folder", "db_url"}


@dataclass(frozen=True)
class ApdbPlace:
    """Where APDBs are made and found.

    Parameters
    ----------
    url : `str`
        PostgreSQL with its driver and without a password; empty for SQLite files in ``folder``.
    folder : `pathlib.Path`
        Folder of configurations.
    credentials : `dict`
        Entry of an ``LSST_DB_AUTH`` file; empty where no password is needed.
    """

    url: str
    folder: Path
    credentials: dict[str, str]


class ApdbHook(BaseHook):
    """The APDBs that a connection leads to.

    Parameters
    ----------
    apdb_conn_id : `str`, optional
        Connection of type ``apdb``.
    """

    conn_name_attr = "apdb_conn_id"
    default_conn_name = "apdb_default"
    conn_type = "apdb"
    hook_name = "Alert Production Database (APDB)"

    def __init__(self, apdb_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.apdb_conn_id = apdb_conn_id
        self._place: ApdbPlace | None = None

    @property
    def place(self) -> ApdbPlace:
        """Where the connection leads.

        Raises
        ------
        BadInputError
            If there is no such connection, or it names no database.
        """
        if self._place is None:
            self._place = self._read_connection()
        return self._place

    def config_path(self, name: str) -> Path:
        """Return the configuration file of an APDB, which need not exist yet."""
        return self.place.folder / f"{checked_name(name)}.yaml"

    def create(
        self,
        name: str,
        *,
        instrument: str = "DECam",
        template: str = "",
        template_version: str = "",
        policy: Literal["use", "refuse", "reset"] = "use",
        template_policy: Literal["refuse", "use"] = "refuse",
        config_path: Path | None = None,
    ) -> dict[str, Any]:
        """Make an APDB, or take the one that is there.

        Parameters
        ----------
        name : `str`
            ``{coadd_subset}_{template_type}`` (`tololo.facility.collections.apdb`) unless the operator names
            it; the schema of PostgreSQL, or the SQLite file.
        instrument : `str`, optional
        template : `str`, optional
            Collection of the template that the difference images are made with.
        template_version : `str`, optional
        policy : `str`, optional
            With an existing APDB: ``use`` it if it was made for this instrument and template, ``refuse`` it,
            or ``reset`` it, losing all its rows.
        template_policy : `str`, optional
            With an APDB that was made for another version of the template: ``refuse`` it, or ``use`` it,
            which is recorded in its metadata.
        config_path : `pathlib.Path`, optional
            Where the configuration goes; `config_path` where it is not given.

        Returns
        -------
        description : `dict`
            As `describe` gives it, and ``outcome``: ``created``, ``used`` or ``reset``.

        Raises
        ------
        BadInputError
            If the name or the policy is bad, or the existing APDB is refused or was made for something else.
        UnavailableError
            If the database does not answer.
        """
        from tololo.reduction.campaign import Campaign, create_apdb

        if policy not in ("use", "refuse", "reset"):
            raise BadInputError(f"There is no APDB policy {policy!r}", "apdb_policy", "use, refuse or reset")
        if template_policy not in ("refuse", "use"):
            raise BadInputError(
                f"There is no template policy {template_policy!r}", "template_policy", "refuse or use"
            )
        path = config_path or self.config_path(name)
        campaign = Campaign(instrument, checked_name(name), template, template_version)
        place = self.place
        url, namespace = (place.url, name) if place.url else (_sqlite_url(place.folder / f"{name}.db"), None)
        with self.authorised():
            outcome = create_apdb(url, namespace, path, campaign, policy, template_policy)
            return {**self._open(path).describe(), "config": str(path), "outcome": outcome}

    def describe(self, name: str) -> dict[str, Any]:
        """Return what an APDB was made for, its versions and counts, and where its configuration is."""
        with self.opened(name) as apdb:
            return {**apdb.describe(), "config": str(self.config_path(name))}

    def nights(self, name: str) -> list[int]:
        """Return the nights of which something is stored, in time order; none where there is no such APDB."""
        if not self.config_path(name).exists():
            return []
        with self.opened(name) as apdb:
            return apdb.nights()

    def waiting(self, name: str) -> list[int]:
        """Return the nights that were withdrawn and have to be associated again, in time order."""
        if not self.config_path(name).exists():
            return []
        with self.opened(name) as apdb:
            return apdb.waiting()

    def held(
        self, name: str, night: int | str, detectors: Collection[tuple[int, int]]
    ) -> set[tuple[int, int]]:
        """Return which of a night's visits and detectors an APDB holds."""
        with self.opened(name) as apdb:
            known = apdb.ledger.detectors(parse_night(night))
            others = {key for key in set(detectors) - known if apdb.stored(*key) is not None}
            return known | others

    def withdraw(self, name: str, night: int | str) -> Withdrawn:
        """Take a night out of an APDB, and what was stored after it, which then waits.

        Raises
        ------
        NothingToDoError
            If nothing of the night is stored, nor waits.
        BadInputError
            If there is no such APDB, or rows of another program would have to go too.
        """
        with self.opened(name) as apdb:
            return apdb.withdraw(parse_night(night))

    def give_up(self, name: str, night: int | str) -> list[int]:
        """Let nothing of a night wait any more; returns the visits that did."""
        with self.opened(name) as apdb:
            return apdb.ledger.give_up(parse_night(night))

    def counts(self, name: str) -> dict[str, int]:
        """Return the number of valid rows: ``{"DiaObject": n, "DiaSource": n, "DiaForcedSource": n}``."""
        with self.opened(name) as apdb:
            return apdb.counts()

    def light_curve(self, name: str, dia_object_id: int) -> Table:
        """Return the points of a diaObject; see `tololo.reduction.apdb_readers.light_curve`."""
        from tololo.reduction.apdb_readers import light_curve

        with self.opened(name) as apdb:
            return light_curve(apdb, dia_object_id)

    def objects_near(self, name: str, ra: float, dec: float, radius: float) -> Table:
        """Return the diaObjects within ``radius`` arcsec of a position in degrees, nearest first."""
        from tololo.reduction.apdb_readers import objects_near

        with self.opened(name) as apdb:
            return objects_near(apdb, ra, dec, radius)

    def objects(self, name: str, minimum_sources: int = 1) -> Table:
        """Return the diaObjects with at least so many diaSources."""
        from tololo.reduction.apdb_readers import all_objects

        with self.opened(name) as apdb:
            return all_objects(apdb, minimum_sources)

    @contextmanager
    def opened(self, name: str) -> Iterator[CampaignApdb]:
        """Open an APDB for reading.

        Raises
        ------
        BadInputError
            If there is none of this name.
        UnavailableError
            If the database does not answer.
        """
        from tololo.reduction.apdb import reachable

        with self.authorised(), reachable(f"APDB {name}"):
            yield self._open(self.config_path(name))

    def authorised(self) -> AbstractContextManager[None]:
        """Let dax_apdb, here and in processes started from here, find the password of the connection."""
        return authorised(self.place.credentials)

    def test_connection(self) -> tuple[bool, str]:
        """Try the database, for the button in the form of the connection."""
        try:
            return True, self._answer()
        except Exception as error:  # the form shows whatever went wrong
            return False, str(error)

    def _answer(self) -> str:
        from tololo.reduction.campaign import ping

        with self.authorised():
            return ping(self.place.url) if self.place.url else f"SQLite files in {self.place.folder}"

    def _open(self, path: Path) -> CampaignApdb:
        from tololo.reduction.apdb import open_apdb

        return open_apdb(path)

    def _read_connection(self) -> ApdbPlace:
        from airflow.sdk.exceptions import AirflowNotFoundException
        from sqlalchemy.engine import URL, make_url
        from sqlalchemy.exc import ArgumentError

        where = f"connection {self.apdb_conn_id}"
        try:
            connection = self.get_connection(self.apdb_conn_id)
        except AirflowNotFoundException as error:
            raise BadInputError("There is no such connection", where, "add it, of type apdb") from error
        extra = connection.extra_dejson
        home = Path(os.environ.get("TOLOLO_HOME") or "var")
        folder = Path(extra.get("config_folder") or home / "apdb").expanduser().resolve()
        if extra.get("backend") == "sqlite":
            return ApdbPlace("", folder, {})
        if extra.get("db_url"):
            try:
                url = make_url(extra["db_url"])
            except ArgumentError as error:
                raise BadInputError("db_url is not a database URL", where, "see the docs") from error
        elif connection.host:
            options = {k: v for k, v in extra.items() if k not in _OWN_EXTRAS and isinstance(v, str)}
            socket = connection.host.startswith("/")
            url = URL.create(
                DRIVER,
                connection.login or None,
                connection.password or None,
                host=None if socket else connection.host,
                port=connection.port,
                database=connection.schema or DATABASE,
                query={**options, "host": connection.host} if socket else options,
            )
        else:
            raise BadInputError("The APDB connection names no database", where, "set its host")
        if url.get_backend_name() != "postgresql":
            raise BadInputError(
                "The APDB's database is not PostgreSQL", where, "choose backend sqlite or a server"
            )
        # Rebuilt: `url.set` takes no password away, and dax_apdb can store with one driver only.
        plain = URL.create(DRIVER, url.username, None, url.host, url.port, url.database, url.query)
        return ApdbPlace(plain.render_as_string(hide_password=False), folder, _credentials(url, where))


def checked_name(name: str) -> str:
    """Return the name of an APDB, checked.

    Raises
    ------
    BadInputError
        If it is empty, longer than PostgreSQL allows, or holds anything but letters, digits, ``_`` and ``-``.
    """
    if not _NAME.fullmatch(name) or name.lower().startswith("pg_"):
        remedy = "use up to 63 letters, digits, `_` and `-`, not beginning with pg_"
        raise BadInputError(f"{name!r} cannot be the name of an APDB", "param `apdb`", remedy)
    return name


def _sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def _credentials(url: URL, where: str) -> dict[str, str]:
    if not url.password:
        return {}
    if not url.host or not url.username:
        raise BadInputError("A password needs a host and a login", where, "set both, or drop the password")
    return credential(url.host, url.port, str(url.database), url.username, str(url.password))

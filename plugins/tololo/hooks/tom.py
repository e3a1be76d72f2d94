"""A TOM Toolkit server: its connection, its targets, and light curves published in it.

`tololo.hooks.tom_upload` says how a light curve is published so that nothing is lost or doubled.
"""

from __future__ import annotations

import stat
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from requests.auth import HTTPBasicAuth

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.lightcurve import LightCurve
from tololo.facility.tom import Target, TomPoint, UploadResult
from tololo.facility.tom_settings import CreatePolicy, TomSettings, options_of, read_tom_file
from tololo.hooks.rest import RestService, TokenAuth, address
from tololo.hooks.tom_api import TomApi
from tololo.hooks.tom_upload import Upload

FAR = 10.0
"""Arcsec between a light curve and the TOM's target of its name, from where on they may be two objects."""


class TomHook(BaseHook):
    """A TOM Toolkit server.

    The connection gives the address (``host``, ``port`` and ``schema``, or a full URL in ``host``) and the
    credentials: an API token in ``password``, or ``login`` and ``password``. Its extras are the fields of
    `~tololo.facility.tom_settings.TomOptions`.

    Parameters
    ----------
    tom_conn_id : `str`, optional
        Connection of type ``tom``.
    config_file : `pathlib.Path`, optional
        File that says where the TOM is, instead of the connection.
    timeout : `tuple` [`float`, `float`], optional
        Seconds to wait for a connection, and for each piece of an answer.
    attempts : `int`, optional
        How often a call is tried when the server is away, answers 5xx or not at all.
    backoff : `float`, optional
        Seconds before the second attempt; doubled for each further one.
    settle : `float`, optional
        Seconds to wait for a product to get all its points, before it is taken for a broken upload.
    """

    conn_name_attr = "tom_conn_id"
    default_conn_name = "tom_default"
    conn_type = "tom"
    hook_name = "TOM Toolkit"

    def __init__(
        self,
        tom_conn_id: str = default_conn_name,
        *,
        config_file: Path | None = None,
        timeout: tuple[float, float] = (5.0, 60.0),
        attempts: int = 5,
        backoff: float = 1.0,
        settle: float = 10.0,
    ) -> None:
        super().__init__()
        self.tom_conn_id = tom_conn_id
        self.config_file = config_file
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff
        self.settle = settle

    @cached_property
    def settings(self) -> TomSettings:
        """Where the TOM is and how things are published there.

        Raises
        ------
        BadInputError
            If connection or file are missing, or lack an address or credentials, or an option is wrong.
        """
        if self.config_file is None:
            return self._connected(self.tom_conn_id, {})
        found = read_tom_file(self.config_file)
        if found.settings is None:
            return self._connected(found.connection, found.options)
        everybody = " and everybody can read it" if self._is_open(self.config_file) else ""
        self.log.warning(
            "%s has a password in it%s: better, put it into an Airflow connection of type tom, and either "
            "drop config_file or write only `connection: <its name>` into that file",
            self.config_file,
            everybody,
        )
        return found.settings

    def _connected(self, conn_id: str, options: dict[str, Any]) -> TomSettings:
        where = f"connection {conn_id}"
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise BadInputError("There is no such connection", where, "add it, of type tom") from error
        host, login, secret = connection.host, connection.login, connection.password
        if not host:
            raise BadInputError("The TOM has no address", where, "set its host or its URL")
        if not secret:
            # Without credentials a TOM shows an empty list instead of an error, and creates targets.
            remedy = "set an API token as password, or login and password"
            raise BadInputError("There are no credentials for the TOM", where, remedy)
        try:
            url = address(host, connection.port, connection.schema)
        except ValueError as error:
            raise BadInputError(f"The address of the TOM cannot be read: {error}", where) from error
        return TomSettings(
            url, login or "", secret, where, options_of(connection.extra_dejson | options, where)
        )

    @staticmethod
    def _is_open(path: Path) -> bool:
        return bool(path.stat().st_mode & stat.S_IROTH)

    @cached_property
    def _api(self) -> TomApi:
        settings = self.settings
        try:
            url = address(settings.url, None, None)
        except ValueError as error:
            raise BadInputError(f"The address of the TOM cannot be read: {error}", settings.where) from error
        service = RestService(
            "The TOM",
            url,
            # As bytes, or letters beyond Latin-1 could not be sent.
            HTTPBasicAuth(settings.login.encode(), settings.secret.encode())
            if settings.login
            else TokenAuth(settings.secret),
            settings.secret,
            f"correct address and credentials in {settings.where}, and the user's permissions in the TOM",
            timeout=self.timeout,
            attempts=self.attempts,
            backoff=self.backoff,
            log=self.log,
        )
        return TomApi(service, settings.where)

    def get_conn(self) -> RestService:
        """Return the service behind the connection.

        Raises
        ------
        BadInputError
            If the connection lacks an address or credentials.
        """
        return self._api.service

    @property
    def url(self) -> str:
        """Address of the TOM, without credentials and without a slash at its end."""
        return self._api.url

    def test_connection(self) -> tuple[bool, str]:
        """Tell whether the TOM answers to these credentials."""
        try:
            return True, f"{self.url}: {self.count('targets')} targets for this user"
        except (BadInputError, UnavailableError) as error:
            return False, str(error)

    def count(self, what: Literal["targets", "dataproducts", "reduceddatums"]) -> int:
        """Return how many of these the user sees; ``reduceddatums`` are the points."""
        return self._api.count(what)

    def find_target(
        self,
        name: str,
        *,
        ra: float | None = None,
        dec: float | None = None,
        create: CreatePolicy | None = None,
    ) -> Target:
        """Find the one target with exactly this name or alias.

        Parameters
        ----------
        name : `str`
        ra, dec : `float`, optional
            ICRS, degrees; needed to create a target.
        create : ``"missing"`` or ``"never"``, optional
            Whether to make the target if there is none; as the connection says unless it is given. The
            groups and the permissions of the connection go with it.

        Raises
        ------
        BadInputError
            If there is none and it may or can not be made, or if there are several.
        UnavailableError
            If the TOM does not answer.
        """
        if target := self._api.target(name):
            return target
        options = self.settings.options
        where, remedy = f"{self.url}, target {name!r}", "correct the name or add an alias in the TOM"
        if (create or options.create_targets) == "never":
            raise BadInputError("The TOM has no such target", where, f"{remedy}, or let it be created")
        if ra is None or dec is None:
            raise BadInputError(
                "The TOM has no such target, and there is no position to create it at",
                where,
                f"{remedy}, or give ra and dec",
            )
        target = self._api.create_target(
            name, ra, dec, groups=options.groups, permissions=options.permissions
        )
        self.log.info("Target %s has id %d in the TOM", name, target.id)
        return target

    def points(self, target: Target, *, product_id: int | None = None) -> list[TomPoint]:
        """Return the photometry of a target, or of one of its data products, in order of time."""
        return self._api.points(target, product_id)

    def upload_light_curve(self, target: Target, light_curve: LightCurve, label: str) -> UploadResult:
        """Make this the only light curve of its target and label; see `~tololo.hooks.tom_upload.Upload`.

        Parameters
        ----------
        target : `~tololo.facility.tom.Target`
        light_curve : `~tololo.facility.lightcurve.LightCurve`
        label : `str`
            Tells this light curve of the target from others; products with exactly this label are replaced.

        Raises
        ------
        NothingToDoError, BadInputError, UnavailableError
            As `~tololo.hooks.tom_upload.Upload.run` raises them.
        """
        options = self.settings.options
        if options.time_format == "hjd":
            from tololo.reduction.heliocentric import hjd_utc

            light_curve = light_curve.with_hjd(lambda mjd: hjd_utc(mjd, light_curve.ra, light_curve.dec))
        upload = Upload(
            self._api, target, light_curve, label, options.groups, options.time_format, self.settle
        )
        result = upload.run()
        self.log.info(
            "%s: %s, product %d, deleted %s", upload.where, result.status, result.product_id, result.deleted
        )
        return result

    def publish(
        self, light_curve: LightCurve, label: str, *, create: CreatePolicy | None = None
    ) -> dict[str, Any]:
        """Find or make the target of a light curve and upload it; returns what came of it, for people."""
        target = self.find_target(light_curve.target, ra=light_curve.ra, dec=light_curve.dec, create=create)
        self._compare_places(light_curve, target)
        result = asdict(self.upload_light_curve(target, light_curve, label))
        return {
            "target": light_curve.target,
            "label": label,
            "status": result["status"],
            "points": result["n_points"],
            "product": result["product_id"],
            "deleted": len(result["deleted"]),
            "tom": self.url,
        }

    def _compare_places(self, light_curve: LightCurve, target: Target) -> None:
        """Say if the target of this name is somewhere else in the TOM."""
        apart = target.separation(light_curve.ra, light_curve.dec)
        if apart is None or apart < FAR:
            return
        what = f"The TOM's target {target.name!r} is {apart:.0f} arcsec from the place of this light curve"
        where, remedy = f"{self.url}, target {target.id}", "see which of the positions is right"
        if any(point.dia_object_id is not None for point in light_curve.points):
            # Two APDBs, or one that was begun anew, give one id to different objects.
            raise BadInputError(
                what, where, f"{remedy}; rename the target in the TOM if it is another object"
            )
        self.log.warning("%s (%s): %s", what, where, remedy)

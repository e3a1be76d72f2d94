"""Light curves into a TOM (TOM Toolkit 3, its REST API), losing and doubling nothing.

How a light curve is published:

1. Its content and its label give a version, ``tololo-<12 hexadecimal digits>``, which is the
   ``reduction_version`` of every point and part of the id of the data product. The TOM keeps a point once per
   (target, bandpass, time, brightness or limit, instrument, reduction version) and gives it to the first
   product that brings it; two versions share no point, and deleting one takes none of the other along.
2. If the newest product of this target and label is of this version, and the TOM gives back every point of
   it, nothing is sent. Otherwise the light curve is uploaded. A product whose upload was broken off is left
   where it is, and the light curve goes up again as the next generation of its version (``tololo-<hash>.2``).
3. Every point is read back and compared; if one differs, the new product is withdrawn and the older stays.
4. Only then are the *older* products of exactly this target and label deleted, and all is read again.

Killed anywhere, the next run ends with one product and all its points. Two runs at once: the TOM takes an id
of a product once, so that equal light curves become one product; of different ones the later stays, since a
run deletes what is older than its own (smaller primary key), never what is newer; the run that lost says so.

The API gives back time, brightness, error, filter, telescope, instrument and source of a point, but neither
its limit nor its reduction version nor its extra columns; these travel in the same row. Deleting a product by
the API leaves its file in the TOM's media folder.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from requests.auth import HTTPBasicAuth

from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.lightcurve import LightCurve
from tololo.facility.tom import Product, Target, TomPoint, UploadResult, differences, point_of, version_of
from tololo.hooks.rest import RestService, TokenAuth, address

PAGE_SIZE = 10_000

_LABEL = re.compile(r"\S(.{0,98}\S)?")


class TomHook(BaseHook):
    """A TOM Toolkit server.

    The connection gives the address (``host``, ``port`` and ``schema``, or a full URL in ``host``) and the
    credentials: an API token in ``password``, or ``login`` and ``password``.

    Parameters
    ----------
    tom_conn_id : `str`, optional
        Connection of type ``tom``.
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
        timeout: tuple[float, float] = (5.0, 60.0),
        attempts: int = 5,
        backoff: float = 1.0,
        settle: float = 10.0,
    ) -> None:
        super().__init__()
        self.tom_conn_id = tom_conn_id
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff
        self.settle = settle

    @cached_property
    def _service(self) -> RestService:
        where = f"connection {self.tom_conn_id}"
        try:
            connection = self.get_connection(self.tom_conn_id)
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
        return RestService(
            "The TOM",
            url,
            HTTPBasicAuth(login, secret) if login else TokenAuth(secret),
            secret,
            f"correct address and credentials in {where}, and the user's permissions in the TOM",
            timeout=self.timeout,
            attempts=self.attempts,
            backoff=self.backoff,
            log=self.log,
        )

    def get_conn(self) -> RestService:
        """Return the service behind the connection.

        Raises
        ------
        BadInputError
            If the connection lacks an address or credentials.
        """
        return self._service

    @property
    def url(self) -> str:
        """Address of the TOM, without credentials and without a slash at its end."""
        return self._service.url

    def test_connection(self) -> tuple[bool, str]:
        """Tell whether the TOM answers to these credentials."""
        try:
            return True, f"{self.url}: {self.count('targets')} targets for this user"
        except (BadInputError, UnavailableError) as error:
            return False, str(error)

    def count(self, what: Literal["targets", "dataproducts", "reduceddatums"]) -> int:
        """Return how many of these the user sees; ``reduceddatums`` are the points."""
        return int(self._page(what, {"limit": 1})["count"])

    # Targets

    def find_target(
        self,
        name: str,
        *,
        ra: float | None = None,
        dec: float | None = None,
        create: bool = False,
        groups: Sequence[str] = (),
    ) -> Target:
        """Find the one target with exactly this name or alias.

        Parameters
        ----------
        name : `str`
        ra, dec : `float`, optional
            ICRS, degrees; needed to create a target.
        create : `bool`, optional
            Make the target if there is none.
        groups : sequence of `str`, optional
            Names of the groups that shall see a target which is made here.

        Raises
        ------
        BadInputError
            If there is none and it may or can not be made, or if there are several.
        UnavailableError
            If the TOM does not answer.
        """
        if target := self._lookup(name):
            return target
        where, remedy = f"{self.url}, target {name!r}", "correct the name or add an alias in the TOM"
        if not create:
            raise BadInputError("The TOM has no such target", where, f"{remedy}, or let it be created")
        if ra is None or dec is None:
            raise BadInputError("There is no position to create the target at", where, "give ra and dec")
        new = {"name": name, "type": "SIDEREAL", "ra": ra, "dec": dec, "epoch": 2000.0}
        new["groups"] = self._groups(groups)
        refusal: BadInputError | None = None
        try:
            self._service.call(
                "POST", "/api/targets/", happened=lambda: self._lookup(name) is not None, json=new
            )
        except BadInputError as error:
            refusal = error  # another run may have made it in the meantime
        if target := self._lookup(name):
            self.log.info("Target %s has id %d in the TOM", name, target.id)
            return target
        raise refusal or BadInputError(
            "The TOM made the target but does not show it", where, "look at the user's permissions in the TOM"
        )

    def points(self, target: Target, *, product_id: int | None = None) -> list[TomPoint]:
        """Return the photometry of a target, or of one of its data products, in order of time."""
        query: dict[str, Any] = {"target__id": target.id, "data_type": "photometry"}
        if product_id is not None:
            query["data_product__id"] = product_id
        try:
            points = [point_of(datum) for datum in self._list("reduceddatums", query)]
        except (KeyError, TypeError) as error:
            raise BadInputError(
                f"The TOM describes photometry without {error}", self.url, "upgrade it to TOM Toolkit 3.1"
            ) from error
        return sorted(points, key=lambda point: (point.mjd_utc, point.source_location))

    # Light curves

    def upload_light_curve(
        self, target: Target, light_curve: LightCurve, label: str, *, groups: Sequence[str] = ()
    ) -> UploadResult:
        """Make this the only light curve of its target and label; the head of this file says how.

        Parameters
        ----------
        target : `Target`
        light_curve : `~tololo.facility.lightcurve.LightCurve`
        label : `str`
            Tells this light curve of the target from others; products with exactly this label are replaced.
        groups : sequence of `str`, optional
            Names of the groups that shall see the product, for TOMs that keep permissions per product.

        Returns
        -------
        result : `UploadResult`

        Raises
        ------
        NothingToDoError
            If the light curve has no points; an older one stays.
        BadInputError
            If the TOM refuses the light curve or keeps another one than was sent; the older one stays.
        UnavailableError
            If the TOM does not answer, or another run replaced this light curve at the same time. What is in
            the TOM stays; the next run completes the upload.
        """
        where = f"{self.url}, target {target.name!r}, label {label!r}"
        if not _LABEL.fullmatch(label):
            raise BadInputError("A label has 1 to 100 characters and no blank at its ends", where)
        if not len(light_curve):
            raise NothingToDoError("The light curve has no points", where)
        version = version_of(light_curve, label)
        status: Literal["created", "unchanged"] = "unchanged"
        products = self._products(target, label)
        product = products[-1] if products else None
        if (
            not product
            or product.version != version
            or self._differences(target, product, light_curve, label)
        ):
            generation = 1 + max((p.generation for p in products if p.version == version), default=0)
            product = self._upload(target, light_curve, label, Product(0, version, generation), groups)
            status = "created"
        deleted = tuple(p.pk for p in self._products(target, label) if p.pk < product.pk)
        for pk in deleted:
            self._delete(pk)
        self._require(target, label, product)
        if deleted and (wrong := self._differences(target, product, light_curve, label)):
            raise UnavailableError(
                f"The older light curve is deleted, but the new one lacks points: {wrong}",
                where,
                "run again: it is uploaded anew",
            )
        self.log.info("%s: %s, product %d, deleted %s", where, status, product.pk, deleted)
        return UploadResult(status, product.pk, product.reduction_version, len(light_curve), deleted)

    def _upload(
        self,
        target: Target,
        light_curve: LightCurve,
        label: str,
        wanted: Product,
        groups: Sequence[str],
    ) -> Product:
        """Send a light curve, and return its product once every point of it has been read back."""

        def stored() -> Product | None:
            products = self._products(target, label)
            same = (p for p in products if p.reduction_version == wanted.reduction_version)
            return next(same, None)

        where = f"{self.url}, target {target.name!r}, label {label!r}"
        reduction_version = wanted.reduction_version
        ours = {"label": label, "version": wanted.version, "generation": wanted.generation}
        form: dict[str, Any] = {
            "target": target.id,
            "data_product_type": "photometry",
            "product_id": f"{label}/{target.id}/{reduction_version}",
            "extra_data": json.dumps({"tololo": ours}),
        }
        for number, group in enumerate(self._groups(groups)):
            form[f"groups[{number}]id"] = group["id"]
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", f"{label}_{reduction_version}") + ".csv"
        file = (name, light_curve.to_csv(reduction_version).encode(), "text/csv")
        response = self._service.call(
            "POST",
            "/api/dataproducts/",
            happened=lambda: stored() is not None,
            data=form,
            files={"file": file},
        )
        product = stored()
        if product is None:
            raise self._overtaken(target, label)
        if not (wrong := self._differences(target, product, light_curve, label)):
            return product
        if response is None or response.status_code != 201:  # of whoever sent it first, it may still be at it
            raise UnavailableError(
                f"The TOM has not finished with the light curve: {wrong}",
                where,
                "run again later; the older light curve is untouched",
            )
        self._delete(product.pk)
        raise BadInputError(
            f"The TOM keeps another light curve than was sent: {wrong}",
            where,
            "look into the TOM's log and its processor of photometry; the older light curve is untouched",
        )

    def _products(self, target: Target, label: str) -> list[Product]:
        """List the light curves of exactly this target and label, oldest first."""
        found: dict[int, Product] = {}  # the TOM repeats a product whose target has several names alike
        for entry in self._list("dataproducts", {"target_name": target.name}):
            try:
                ours = json.loads(entry["extra_data"])["tololo"]
                if entry["target"] == target.id and ours["label"] == label:
                    found[entry["id"]] = Product(entry["id"], ours["version"], int(ours["generation"]))
            except (ValueError, KeyError, TypeError):
                continue  # somebody else's
        return [found[pk] for pk in sorted(found)]

    def _differences(self, target: Target, product: Product, light_curve: LightCurve, label: str) -> str:
        """Compare a product with what was sent, once the TOM has had time to take in all points."""
        deadline, pause = time.monotonic() + self.settle, 0.1
        while True:
            points = self.points(target, product_id=product.pk)
            if len(points) < len(light_curve):
                self._require(target, label, product)
            if len(points) >= len(light_curve) or time.monotonic() > deadline:
                return differences(light_curve, points)
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _require(self, target: Target, label: str, product: Product) -> None:
        """See that a product is still there: a run that began later may have replaced it."""
        if product.pk not in {p.pk for p in self._products(target, label)}:
            raise self._overtaken(target, label)

    def _overtaken(self, target: Target, label: str) -> UnavailableError:
        return UnavailableError(
            "Another run replaced this light curve at the same time, or this user may not see it",
            f"{self.url}, target {target.name!r}, label {label!r}",
            "run again if this light curve shall stand",
        )

    def _delete(self, pk: int) -> None:
        # Twice is once: a key is never given again, and 404 says that it is gone.
        self._service.call("DELETE", f"/api/dataproducts/{pk}/", allow=(404,))

    def _lookup(self, name: str) -> Target | None:
        # The TOM's own filter finds parts of names, in any case.
        found = [
            Target(
                entry["id"],
                entry["name"],
                entry["ra"],
                entry["dec"],
                tuple(alias["name"] for alias in entry["aliases"]),
            )
            for entry in self._list("targets", {"name": name})
        ]
        exact = [target for target in found if name in (target.name, *target.aliases)]
        if len(exact) > 1:
            ids = ", ".join(f"{target.name} (id {target.id})" for target in exact)
            raise BadInputError(
                f"{len(exact)} targets have this name or alias: {ids}",
                f"{self.url}, target {name!r}",
                "merge them or rename all but one in the TOM",
            )
        return exact[0] if exact else None

    def _groups(self, names: Sequence[str]) -> list[dict[str, Any]]:
        if not names:
            return []
        known = {entry["name"]: entry["id"] for entry in self._list("groups", {})}
        if unknown := [name for name in names if name not in known]:
            raise BadInputError(
                f"The TOM's user is in no group {', '.join(unknown)}",
                self.url,
                f"choose among: {', '.join(sorted(known)) or 'none'}",
            )
        return [{"id": known[name], "name": name} for name in names]

    # Lists

    def _list(self, what: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Read a list to its end, and again if it changed in between."""
        for _ in range(self.attempts):
            page = self._page(what, {**query, "limit": PAGE_SIZE})
            entries = list(page["results"])
            while page["next"]:
                # Only its query: the address may be one that only the TOM knows, behind a proxy.
                page = self._page(what, dict(parse_qsl(urlsplit(page["next"]).query)))
                entries += page["results"]
            if len(entries) == page["count"]:
                return entries
        raise UnavailableError(f"The TOM's {what} change faster than they can be read", self.url, "run again")

    def _page(self, what: str, query: Mapping[str, Any]) -> dict[str, Any]:
        page = self._service.get(f"/api/{what}/", query)
        if not isinstance(page, dict) or not {"count", "next", "results"} <= set(page):
            raise BadInputError(
                "This is not the REST API of a TOM Toolkit",
                f"{self.url}/api/{what}/",
                f"correct the address in connection {self.tom_conn_id}",
            )
        return page

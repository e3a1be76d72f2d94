"""The REST API of TOM Toolkit 3: targets, data products and points, as types and whole lists.

The API gives back time, brightness, error, filter, telescope, instrument and source of a point, but neither
its limit nor its reduction version nor its extra columns; these travel in the same row. Deleting a product by
the API leaves its file in the TOM's media folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.tom import Product, Target, TomPoint, point_of
from tololo.hooks.rest import RestService

PAGE_SIZE = 10_000

type Lists = Literal["targets", "dataproducts", "reduceddatums", "groups"]


class TomApi:
    """Calls to one TOM.

    Parameters
    ----------
    service : `~tololo.hooks.rest.RestService`
    where : `str`
        Where its address can be corrected, for messages.
    """

    def __init__(self, service: RestService, where: str) -> None:
        self.service = service
        self.url = service.url
        self._where = where

    def count(self, what: Lists) -> int:
        """Return how many of these the user sees."""
        return int(self._page(what, {"limit": 1})["count"])

    # Targets

    def target(self, name: str) -> Target | None:
        """Return the one target with exactly this name or alias.

        Raises
        ------
        BadInputError
            If there are several.
        """
        # The TOM's own filter finds parts of names, in any case.
        found = {
            entry["id"]: Target(
                entry["id"],
                entry["name"],
                entry["ra"],
                entry["dec"],
                tuple(alias["name"] for alias in entry["aliases"]),
            )
            for entry in self._list("targets", {"name": name})
        }
        exact = [target for target in found.values() if name in (target.name, *target.aliases)]
        if len(exact) > 1:
            ids = ", ".join(f"{target.name} (id {target.id})" for target in exact)
            raise BadInputError(
                f"{len(exact)} targets have this name or alias: {ids}",
                f"{self.url}, target {name!r}",
                "merge them or rename all but one in the TOM",
            )
        return exact[0] if exact else None

    def create_target(
        self, name: str, ra: float, dec: float, *, groups: Sequence[str] = (), permissions: str = ""
    ) -> Target:
        """Make a target, once: also if another run makes it at the same time, or an answer is lost.

        Raises
        ------
        BadInputError
            If the TOM refuses it, or does not show it.
        """
        new = {"name": name, "type": "SIDEREAL", "ra": ra, "dec": dec, "epoch": 2000.0}
        new["groups"] = self._groups(groups)
        if permissions:
            new["permissions"] = permissions
        refusal: BadInputError | None = None
        try:
            self.service.call(
                "POST", "/api/targets/", happened=lambda: self.target(name) is not None, json=new
            )
        except BadInputError as error:
            refusal = error  # another run may have made it in the meantime
        if target := self.target(name):
            return target
        raise refusal or BadInputError(
            "The TOM made the target but does not show it",
            f"{self.url}, target {name!r}",
            "look at the user's permissions in the TOM",
        )

    # Data products

    def products(self, target: Target, label: str) -> list[Product]:
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

    def send(
        self,
        target: Target,
        label: str,
        product: Product,
        text: str,
        *,
        groups: Sequence[str] = (),
        happened: Callable[[], bool],
    ) -> bool:
        """Send a light curve; returns whether the TOM has said that it has taken all of it, just now."""
        ours = {"label": label, "version": product.version, "generation": product.generation}
        form: dict[str, Any] = {
            "target": target.id,
            "data_product_type": "photometry",
            "product_id": f"{label}/{target.id}/{product.reduction_version}",
            "extra_data": json.dumps({"tololo": ours}),
        }
        for number, group in enumerate(self._groups(groups)):
            form[f"groups[{number}]id"] = group["id"]
        # A TOM takes names of files of up to 100 characters, with the folder of the target before them.
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", f"{label[:40]}_{product.reduction_version}") + ".csv"
        response = self.service.call(
            "POST",
            "/api/dataproducts/",
            happened=happened,
            data=form,
            files={"file": (name, text.encode(), "text/csv")},
        )
        return response is not None and response.status_code == 201

    def delete(self, pk: int) -> None:
        """Delete a product and its points."""
        # Twice is once: a key is never given again, and 404 says that it is gone.
        self.service.call("DELETE", f"/api/dataproducts/{pk}/", allow=(404,))

    def points(self, target: Target, product_id: int | None = None) -> list[TomPoint]:
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

    # Lists

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

    def _list(self, what: Lists, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Read a list to its end, and again if it changed in between."""
        for _ in range(self.service.attempts):
            page = self._page(what, {**query, "limit": PAGE_SIZE})
            entries = list(page["results"])
            while page["next"]:
                # Only its query: the address may be one that only the TOM knows, behind a proxy.
                page = self._page(what, dict(parse_qsl(urlsplit(page["next"]).query)))
                entries += page["results"]
            if len(entries) == page["count"]:
                return entries
        raise UnavailableError(f"The TOM's {what} change faster than they can be read", self.url, "run again")

    def _page(self, what: Lists, query: Mapping[str, Any]) -> dict[str, Any]:
        page = self.service.get(f"/api/{what}/", query)
        if not isinstance(page, dict) or not {"count", "next", "results"} <= set(page):
            raise BadInputError(
                "This is not the REST API of a TOM Toolkit",
                f"{self.url}/api/{what}/",
                f"correct the address in {self._where}",
            )
        return page

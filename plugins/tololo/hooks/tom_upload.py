"""Light curves into a TOM, losing and doubling nothing.

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
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.lightcurve import LightCurve, TimeFormat
from tololo.facility.tom import Product, Target, UploadResult, differences, version_of
from tololo.hooks.tom_api import TomApi

_LABEL = re.compile(r"\S(.{0,98}\S)?")


@dataclass(frozen=True)
class Upload:
    """One light curve on its way into a TOM.

    Parameters
    ----------
    api : `~tololo.hooks.tom_api.TomApi`
    target : `~tololo.facility.tom.Target`
    light_curve : `~tololo.facility.lightcurve.LightCurve`
    label : `str`
        Tells this light curve of the target from others; products with exactly this label are replaced.
    groups : sequence of `str`, optional
        Names of the groups that shall see the product, for TOMs that keep permissions per product.
    time_format : `str`, optional
        What the TOM takes ``time`` for.
    settle : `float`, optional
        Seconds to wait for a product to get all its points, before it is taken for a broken upload.
    """

    api: TomApi
    target: Target
    light_curve: LightCurve
    label: str
    groups: Sequence[str] = ()
    time_format: TimeFormat = "mjd"
    settle: float = 10.0

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.api.url}, target {self.target.name!r}, label {self.label!r}"

    def run(self) -> UploadResult:
        """Make this the only light curve of its target and label.

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
        if not _LABEL.fullmatch(self.label):
            raise BadInputError("A label has 1 to 100 characters and no blank at its ends", self.where)
        if not len(self.light_curve):
            raise NothingToDoError("The light curve has no points", self.where)
        version = version_of(self.light_curve, self.label, self.time_format)
        status: Literal["created", "unchanged"] = "unchanged"
        products = self._products()
        product = products[-1] if products else None
        if not product or product.version != version or self._differences(product):
            generation = 1 + max((p.generation for p in products if p.version == version), default=0)
            product = self._send(Product(0, version, generation))
            status = "created"
        deleted = tuple(p.pk for p in self._products() if p.pk < product.pk)
        for pk in deleted:
            self.api.delete(pk)
        left = self._require(product)
        if kept := [pk for pk in deleted if pk in left]:
            raise UnavailableError(
                f"The TOM says that it has deleted the older product {kept[0]}, but has it still",
                self.where,
                "run again, or delete it in the TOM; until then it shows points twice",
            )
        if deleted and (wrong := self._differences(product)):
            raise UnavailableError(
                f"The older light curve is deleted, but the new one lacks points: {wrong}",
                self.where,
                "run again: it is uploaded anew",
            )
        return UploadResult(status, product.pk, product.reduction_version, len(self.light_curve), deleted)

    def _send(self, wanted: Product) -> Product:
        """Send the light curve, and return its product once every point of it has been read back."""

        def stored() -> Product | None:
            same = (p for p in self._products() if p.reduction_version == wanted.reduction_version)
            return next(same, None)

        taken = self.api.send(
            self.target,
            self.label,
            wanted,
            self.light_curve.to_csv(wanted.reduction_version, self.time_format),
            groups=self.groups,
            happened=lambda: stored() is not None,
        )
        product = stored()
        if product is None:
            raise self._overtaken()
        if not (wrong := self._differences(product)):
            return product
        if not taken:  # of whoever sent it first, it may still be at it
            raise UnavailableError(
                f"The TOM has not finished with the light curve: {wrong}",
                self.where,
                "run again later; the older light curve is untouched",
            )
        self.api.delete(product.pk)
        raise BadInputError(
            f"The TOM keeps another light curve than was sent: {wrong}",
            self.where,
            "look into the TOM's log and its processor of photometry, and whether that takes time for "
            f"{self.time_format.upper()} (time_format); the older light curve is untouched",
        )

    def _products(self) -> list[Product]:
        return self.api.products(self.target, self.label)

    def _differences(self, product: Product) -> str:
        """Compare a product with what was sent, once the TOM has had time to take in all points."""
        deadline, pause = time.monotonic() + self.settle, 0.1
        while True:
            points = self.api.points(self.target, product.pk)
            if len(points) < len(self.light_curve):
                self._require(product)
            if len(points) >= len(self.light_curve) or time.monotonic() > deadline:
                return differences(self.light_curve, points, self.time_format)
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _require(self, product: Product) -> set[int]:
        """See that a product is still there: a run that began later may have replaced it.

        Returns the keys of all that are there.
        """
        there = {p.pk for p in self._products()}
        if product.pk not in there:
            raise self._overtaken()
        return there

    def _overtaken(self) -> UnavailableError:
        return UnavailableError(
            "Another run replaced this light curve at the same time, or this user may not see it",
            self.where,
            "run again if this light curve shall stand",
        )

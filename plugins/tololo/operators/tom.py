"""The operator that publishes light curves in a TOM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.operators.task import FacilityOperator
from tololo.params import night_of

if TYPE_CHECKING:
    from airflow.sdk import Context
    from astropy.table import Table

    from tololo.facility.lightcurve import LightCurve
    from tololo.hooks.apdb import ApdbHook

MATCH_ARCSEC = 1.5
"""How far a diaObject may lie from a target of a list."""


@dataclass(frozen=True)
class NamedObject:
    """A diaObject and the name of its target."""

    name: str
    ra: float
    dec: float
    dia_object_id: int


class PublishLightCurvesOperator(FacilityOperator):
    """Upload light curves, each as the only version of its target and label.

    They come from the APDB (diaObjects, on difference images) or from the visit images (targets of a list).
    Reads the params ``source``, ``night``, ``coadd_subset``, ``template_type``, ``apdb``,
    ``selection``, ``targets``, ``tom``, ``publish`` and ``dry_run``. Returns the counts of created and
    unchanged light curves, and of points.
    """

    def work(self, context: Context) -> Any:
        """Select objects, upload, count."""
        from tololo.hooks.tom import TomHook

        params = context["params"]
        self.log.info("Light curves as they stand after night %s", night_of(context))
        label, curves = self._from_visits(params) if params["source"] == "visits" else self._from_apdb(params)
        if params["publish"] == "no" or params["dry_run"]:
            self.log.info(
                "Not published: %d light curves, %d points", len(curves), sum(len(curve) for curve in curves)
            )
            return {"targets": len(curves), "points": sum(len(curve) for curve in curves)}
        tom = TomHook(params["tom"])
        counts = {"targets": 0, "created": 0, "unchanged": 0, "points": 0}
        for curve in curves:
            target = tom.find_target(curve.target, ra=curve.ra, dec=curve.dec, create=True)
            result = tom.upload_light_curve(target, curve, label=label)
            counts["targets"] += 1
            counts[result.status] += 1
            counts["points"] += result.n_points
            self.log.info("%s: %d points, %s", curve.target, result.n_points, result.status)
            context["task_state_store"].set("progress", f"{counts['targets']} of {len(curves)} light curves")
        return counts

    def _from_apdb(self, params: Any) -> tuple[str, list[LightCurve]]:
        """Return the light curves of diaObjects: forced fluxes on difference images."""
        from tololo.facility.lightcurve import LightCurve
        from tololo.hooks.apdb import ApdbHook

        name = collections.apdb(params["coadd_subset"], params["template_type"], name=params["apdb"] or "")
        apdb = ApdbHook()
        if not apdb.config_path(name).exists():
            raise NothingToDoError(
                f"There is no APDB {name} yet", str(apdb.config_path(name)), "run difference_imaging"
            )
        curves = []
        for item in self._objects(apdb, name, params):
            rows = forced_points(apdb.light_curve(name, item.dia_object_id), item.dia_object_id)
            if rows:
                curves.append(LightCurve.from_records(item.name, item.ra, item.dec, rows))
        return name, curves

    def _from_visits(self, params: Any) -> tuple[str, list[LightCurve]]:
        """Return the light curves of targets: forced fluxes on the visit images of all nights.

        Of a night that was reduced from raws and from InstCal those from raws count.
        """
        from tololo.facility.lightcurve import LightCurve
        from tololo.hooks.butler import ButlerHook
        from tololo.hooks.visit_chains import visit_chains
        from tololo.reduction.visit_photometry import visit_light_curves

        targets = read_targets(params["targets"] or "")
        if not targets:
            raise BadInputError("There are no targets", "param targets", "write one a line: name ra dec")
        hook = ButlerHook.from_connection(params["repo"])
        with hook.open() as butler:
            chains = list(visit_chains(butler).values())
            if not chains:
                raise NothingToDoError("There are no visits", hook.repository, "run nightly_decam first")
            rows = visit_light_curves(butler, chains, targets)
        for name in (name for name, points in rows.items() if not points):
            self.log.warning("Target %s lies on no visit image", name)
        curves = [LightCurve.from_records(*target, rows[target[0]]) for target in targets if rows[target[0]]]
        return "visits", curves

    def _objects(self, apdb: ApdbHook, name: str, params: Any) -> list[NamedObject]:
        if (params["targets"] or "").strip():
            return [self._nearest(apdb, name, *target) for target in read_targets(params["targets"] or "")]
        table = apdb.objects(name)
        if not len(table):
            raise NothingToDoError(
                "The APDB holds no diaObject",
                name,
                "nothing to do, if difference_imaging has run and found nothing",
            )
        order = sorted(
            range(len(table)), key=lambda i: (-_significance(table, i), int(table["diaObjectId"][i]))
        )
        return [
            NamedObject(
                f"Tololo-{int(table['diaObjectId'][i])}",
                float(table["ra"][i]),
                float(table["dec"][i]),
                int(table["diaObjectId"][i]),
            )
            for i in order[: params["selection"]]
        ]

    @staticmethod
    def _nearest(apdb: ApdbHook, name: str, target: str, ra: float, dec: float) -> NamedObject:
        near = apdb.objects_near(name, ra, dec, MATCH_ARCSEC)
        if not len(near):
            raise BadInputError(
                f"No diaObject lies within {MATCH_ARCSEC} arcsec of target {target!r}",
                f"APDB {name}, ra {ra}, dec {dec}",
                "correct the position, or leave the target out",
            )
        return NamedObject(target, ra, dec, int(near["diaObjectId"][0]))


def read_targets(text: str) -> list[tuple[str, float, float]]:
    """Read targets, one a line: name, right ascension and declination in degrees.

    Raises
    ------
    BadInputError
        A line cannot be read; it is named.
    """
    targets = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            *name, ra, dec = words
            targets.append((" ".join(name), float(ra), float(dec)))
            if not name or not (0 <= float(ra) < 360 and -90 <= float(dec) <= 90):
                raise ValueError
        except ValueError:
            raise BadInputError(
                f"The target {line.strip()!r} cannot be read",
                f"param targets, line {number}",
                "write: name ra dec",
            ) from None
    return targets


def forced_points(table: Table, dia_object_id: int) -> list[dict[str, Any]]:
    """Return the points of a light curve: the forced flux of each visit, whether or not it was detected."""
    return [
        {**{name: row[name] for name in table.colnames}, "diaObjectId": dia_object_id}
        for row in table
        if row["kind"] == "forced" and row["psfFlux"] == row["psfFlux"] and row["psfFluxErr"] > 0
    ]


def _significance(table: Table, row: int) -> float:
    """Return how significant a diaObject is: the largest mean flux over its error in any band."""
    best = 0.0
    for column in table.colnames:
        if column.endswith("_psfFluxMean"):
            error = float(table[f"{column}Err"][row])
            value = abs(float(table[column][row]))
            if error > 0 and not math.isnan(value):
                best = max(best, value / error)
    return best

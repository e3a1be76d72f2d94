"""The light curves that a run publishes: of diaObjects or of a list of targets, from APDB or Butler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tololo.facility import collections
from tololo.facility.errors import BadInputError, NothingToDoError

if TYPE_CHECKING:
    from astropy.table import Table

    from tololo.facility.lightcurve import LightCurve

VISITS = "visits"


def light_curves(params: Mapping[str, Any], log: Any) -> tuple[str, list[LightCurve]]:
    """Return the label of a run's light curves, and these.

    Parameters
    ----------
    params : mapping
        ``source`` (``apdb`` or ``visits``), ``repo``, ``coadd_subset``, ``template_type``, ``apdb``,
        ``selection`` and ``targets`` of the DAG.
    log
        Takes names of targets that no image shows.

    Raises
    ------
    NothingToDoError
        If there is no APDB yet, nothing in it, or no image.
    BadInputError
        If the list of targets is wrong or, from visits, missing.
    """
    targets = read_targets(params["targets"] or "")
    if params["source"] == VISITS:
        if not targets:
            raise BadInputError("There are no targets", "param targets", "write one a line: name ra dec")
        return VISITS, _from_images("visit_image", targets, params, log)
    name = collections.apdb(params["coadd_subset"], params["template_type"], name=params["apdb"] or "")
    if targets:
        return name, _from_images("difference_image", targets, params, log)
    return name, _from_apdb(name, params["selection"])


def read_targets(text: str) -> list[tuple[str, float, float]]:
    """Read targets, one a line: name, right ascension and declination in degrees.

    Raises
    ------
    BadInputError
        A line cannot be read, or repeats a name; it is named.
    """
    targets: dict[str, tuple[str, float, float]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            *name, ra, dec = words
            target = " ".join(name), float(ra), float(dec)
            if not name or not (0 <= target[1] < 360 and -90 <= target[2] <= 90):
                raise ValueError
        except ValueError:
            raise BadInputError(
                f"The target {line.strip()!r} cannot be read",
                f"param targets, line {number}",
                "write: name ra dec",
            ) from None
        if target[0] in targets:
            raise BadInputError(
                f"The target {target[0]!r} is there twice", f"param targets, line {number}", "drop one"
            )
        targets[target[0]] = target
    return list(targets.values())


def _from_images(
    kind: Any, targets: list[tuple[str, float, float]], params: Mapping[str, Any], log: Any
) -> list[LightCurve]:
    """Force fluxes at the places of targets, on the images of all nights.

    Of a night that was reduced from raws and from InstCal those from raws count.
    """
    from tololo.facility.lightcurve import LightCurve
    from tololo.hooks.butler import ButlerHook
    from tololo.hooks.visit_chains import difference_chains, visit_chains
    from tololo.reduction.image_photometry import image_light_curves

    hook = ButlerHook.from_connection(params["repo"])
    with hook.open() as butler:
        if kind == "visit_image":
            chains, what = visit_chains(butler), "visits"
        else:
            chains = difference_chains(butler, params["coadd_subset"], params["template_type"])
            what = f"difference images with the template {params['coadd_subset']}/{params['template_type']}"
        if not chains:
            dag = "nightly_decam" if kind == "visit_image" else "difference_imaging"
            raise NothingToDoError(f"There are no {what}", hook.repository, f"run {dag} first")
        rows = image_light_curves(butler, kind, list(chains.values()), targets)
    for name in (name for name, points in rows.items() if not points):
        log.warning("Target %s lies on none of the %s", name, what)
    return [LightCurve.from_records(*target, rows[target[0]]) for target in targets if rows[target[0]]]


def _from_apdb(name: str, selection: int) -> list[LightCurve]:
    """Return the light curves of the most significant diaObjects: forced fluxes on difference images."""
    from tololo.facility.lightcurve import LightCurve
    from tololo.hooks.apdb import ApdbHook

    apdb = ApdbHook()
    if not apdb.config_path(name).exists():
        raise NothingToDoError(
            f"There is no APDB {name} yet", str(apdb.config_path(name)), "run difference_imaging"
        )
    table = apdb.objects(name)
    if not len(table):
        raise NothingToDoError(
            "The APDB holds no diaObject",
            name,
            "nothing to do, if difference_imaging has run and found nothing",
        )
    order = sorted(range(len(table)), key=lambda i: (-_significance(table, i), int(table["diaObjectId"][i])))
    curves = []
    for i in order[:selection]:
        number, ra, dec = int(table["diaObjectId"][i]), float(table["ra"][i]), float(table["dec"][i])
        if rows := forced_points(apdb.light_curve(name, number), number):
            curves.append(LightCurve.from_records(f"Tololo-{number}", ra, dec, rows))
    return curves


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

"""Sources whose place and light the plan gives night by night: a supernova, a variable star, an asteroid."""

from __future__ import annotations

import math

import numpy as np

from tololo.simulation.plan import Plan, PlannedSource
from tololo.simulation.sky import Ccd, draw_points, wcs_header, wcs_of
from tololo.simulation.view import View


def draw_sources(plan: Plan, chip: Ccd, views: list[View]) -> list[dict[str, object]]:
    """Draw the planned sources of a detector into its exposures; return their rows of `Truth.transients`.

    Parameters
    ----------
    plan : `Plan`
    chip : `Ccd`
    views : `list` [`View`]
        All exposures of the detector; their models are changed in place.

    Returns
    -------
    rows : `list` [`dict`]
        One for each source and exposure whose pixels it falls on, those of templates and those without light
        too. The flux is the whole one: where a template holds the source, a difference shows what it has
        gained since.
    """
    rows: list[dict[str, object]] = []
    for number, source in enumerate(plan.sources):
        if source.detector != chip.ccdnum:
            continue
        for view in views:
            ra, dec = _place(plan, chip, source, view.seen.mjd - views[0].seen.mjd)
            x, y = view.pixel(ra, dec)
            if not (0 <= x < plan.shape[1] and 0 <= y < plan.shape[0]):
                continue
            flux = dict(source.flux).get(view.seen.planned.night, 0.0)
            draw_points(
                view.model, view.psf, np.array([x]), np.array([y]), np.array([flux / view.njy_per_adu])
            )
            rows.append(
                {
                    "id": chip.ccdnum * 1000 + 900 + number,
                    "kind": source.kind,
                    "visit": view.seen.visit,
                    "detector": chip.ccdnum,
                    "band": view.seen.planned.band,
                    "ra": ra,
                    "dec": dec,
                    "x": x,
                    "y": y,
                    "flux": flux,
                    "snr": math.nan,
                    "snr_science": math.nan,
                    "galaxy": -1,
                }
            )
    return rows


def _place(plan: Plan, chip: Ccd, source: PlannedSource, days: float) -> tuple[float, float]:
    """Return where a source is, so many days after the first exposure: RA and Dec, degrees."""
    ra, dec = (float(value) for value in wcs_of(wcs_header(chip, plan)).all_pix2world(source.x, source.y, 0))
    east, north = (speed * days / 3600 for speed in source.motion)
    return ra + east / math.cos(math.radians(dec)), dec + north

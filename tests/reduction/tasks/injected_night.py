"""A simulated night of InstCal with injected sources, its template and its difference images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from astropy.wcs import WCS

from tololo.facility import collections
from tololo.facility.configuration import INCLUDE
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap, footprint_of
from tololo.hooks.butler import ButlerHook
from tololo.hooks.injection import InjectionHook
from tololo.reduction.formats.instcal import read_instcal
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.plan import Plan, PlannedExposure

from .injected import run, scattered, write

TEMPLATE_NIGHT, NIGHT, DETECTOR, SHAPE = 20190309, 20190312, 28, (768, 768)
VISITS = collections.chain("instcal_injected", NIGHT)
DIFFERENCES = collections.chain("diff_instcal_injected", NIGHT, "2019", "meanclip")
TEMPLATE = collections.coadd("2019", "meanclip")
FULL = 901
"""Id of a source that fills its pixels."""


@dataclass
class Night:
    repository: Path
    visit: int


def science_wcs(images: Path) -> tuple[int, WCS]:
    """Return the visit of NIGHT and its WCS."""
    (exposure,) = (exposure for exposure in find_instcal(images).triples if exposure.day_obs == NIGHT)
    (ccd,) = exposure.detectors
    return exposure.expnum, read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, DETECTOR).wcs


def build(folder: Path) -> Night:
    """Make a template of three visits, and a night after it, with and without injected sources."""
    plan = Plan(
        exposures=tuple(PlannedExposure(n) for n in (TEMPLATE_NIGHT,) * 3 + (NIGHT,)),
        detectors=(DETECTOR,),
        shape=SHAPE,
        stars_per_deg2=30000.0,
        galaxies=5,
        transients=0,
        dither=5.0,
    )
    truth = simulate_nights(folder / "nights", plan=plan, seed=4)
    repository = folder / "repository"
    bootstrap(
        BootstrapPlan(
            repository=str(repository),
            skymaps=yaml.safe_load((INCLUDE / "configs" / "skymaps.yaml").read_text()),
            footprint=footprint_of(str(truth.reference)),
            refcats={"gaia_dr2": str(truth.reference)},
        )
    )
    ButlerHook(repository).ingest_instcal(truth.images)
    visit, wcs = science_wcs(truth.images)
    random = np.random.default_rng(3)
    x, y = scattered(SHAPE, 70, random)
    mag = random.uniform(18.5, 24.5, len(x))
    mag[0] = 12.0
    ra, dec = wcs.all_pix2world(x, y, 0)
    number = np.arange(1, len(x) + 1)
    number[0] = FULL
    InjectionHook(repository).ingest(write(folder / "ring.csv", ra, dec, mag, ID=number))
    old = [collections.REFCATS, f"{TEMPLATE_NIGHT}/instcal/raw"]
    new = [collections.REFCATS, f"{NIGHT}/instcal/raw"]
    run(repository, "nightly_decam.yaml#instcal", old, f"{TEMPLATE_NIGHT}/instcal")
    run(repository, "nightly_decam.yaml#instcal", new, f"{NIGHT}/instcal")
    where = "skymap = 'decam_rings'"
    run(repository, "template_coadds.yaml#coadd", [f"{TEMPLATE_NIGHT}/instcal", "skymaps"], TEMPLATE, where)
    run(repository, "nightly_decam.yaml#inject_instcal", ["injection/ring", *new], VISITS)
    inputs = [TEMPLATE, VISITS, "skymaps"]
    run(repository, "difference_imaging.yaml#difference", inputs, DIFFERENCES, where)
    return Night(repository, visit)

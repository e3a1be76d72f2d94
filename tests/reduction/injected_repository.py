"""A repository of simulated nights differenced with injected sources, to train and to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from reduction.tasks.injected import run, write
from tololo.facility import collections
from tololo.facility.configuration import INCLUDE
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap, footprint_of
from tololo.hooks.butler import ButlerHook
from tololo.hooks.injection import InjectionHook
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.plan import Plan
from tololo.simulation.truth import Truth

TEMPLATE = collections.coadd("2019", "meanclip")
CATALOGUE = "grid"


@dataclass
class InjectedNights:
    """The repository, and the chains of the difference images with injected sources."""

    repository: Path
    chains: list[str]


def places(truth: Truth, spacing: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose where to inject: on a loose grid, a third of it beside galaxies, a tenth on stars.

    Transients shine in galaxies and variable stars on themselves: a model that only saw empty sky would take
    light below a source for a sign of an artefact. ``spacing`` is in arcsec.
    """
    step = spacing / 3600
    found = []
    for detector in sorted(set(truth.stars["detector"].tolist())):
        stars = truth.stars[truth.stars["detector"] == detector]
        squeeze = np.cos(np.radians(np.median(stars["dec"])))
        ra, dec = np.meshgrid(
            np.arange(stars["ra"].min(), stars["ra"].max(), step / squeeze),
            np.arange(stars["dec"].min(), stars["dec"].max(), step),
        )
        ra, dec = ra.ravel(), dec.ravel()
        ra = ra + random.uniform(-0.3, 0.3, ra.size) * step / squeeze
        dec = dec + random.uniform(-0.3, 0.3, dec.size) * step
        faint = stars[(stars["g"] > 17) & (stars["g"] < 21)]
        galaxies = truth.galaxies[truth.galaxies["detector"] == detector]
        for n, hosts, reach in ((ra.size // 3, galaxies, 1.0), (ra.size // 10, faint, 0.0)):
            if not len(hosts):
                continue
            # Each takes the place of the node next to it, so that sources stay apart.
            for row in random.permutation(len(hosts))[:n]:
                node = int(np.argmin(np.hypot((ra - hosts["ra"][row]) * squeeze, dec - hosts["dec"][row])))
                ra[node] = hosts["ra"][row] + reach * random.normal(0, 0.5) / 3600 / squeeze
                dec[node] = hosts["dec"][row] + reach * random.normal(0, 0.5) / 3600
        found.append(np.column_stack([ra, dec]))
    sky = np.concatenate(found)
    return sky[:, 0], sky[:, 1]


def make(folder: Path, plan: Plan, seed: int, spacing: float = 16.0) -> InjectedNights:
    """Simulate, reduce, and difference the plan's science nights with injected sources."""
    random = np.random.default_rng(seed)
    truth = simulate_nights(folder / "nights", plan=plan, seed=seed)
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
    ra, dec = places(truth, spacing, random)
    mag = random.uniform(18.5, 24.5, ra.size)
    InjectionHook(repository).ingest(
        write(folder / f"{CATALOGUE}.csv", ra, dec, mag, ID=np.arange(1, ra.size + 1))
    )
    nights = {planned.night: planned.science for planned in plan.exposures}
    for night in nights:
        raws = [collections.REFCATS, f"{night}/instcal/raw"]
        run(repository, "nightly_decam.yaml#instcal", raws, f"{night}/instcal")
    where = "skymap = 'decam_rings'"
    old = [f"{night}/instcal" for night, science in nights.items() if not science]
    run(repository, "template_coadds.yaml#warp,coadd", [*old, "skymaps"], TEMPLATE, where)
    chains = []
    for night in (night for night, science in nights.items() if science):
        inputs = [TEMPLATE, f"injection/{CATALOGUE}", f"{night}/instcal", "skymaps"]
        chains.append(collections.chain("diff_instcal_injected", night, "2019", "meanclip"))
        run(repository, "injection.yaml#difference", inputs, chains[-1], where)
    return InjectedNights(repository, chains)


def of_dates(template: int, science: int, **others: object) -> Plan:
    """Make a plan of a night of templates and some science nights after it, without transients of its own."""
    nights = {20190305: template}
    return Plan.of_nights(
        nights,
        {20190402 + 3 * n: 1 for n in range(science)},
        transients=0,
        **others,  # type: ignore[arg-type]
    )

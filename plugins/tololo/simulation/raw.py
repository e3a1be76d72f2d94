"""Simulate nights of DECam as raw files, with their truth beside them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack

from tololo.simulation.folder import is_finished, whole_folder
from tololo.simulation.raw_camera import Chip, make_chip
from tololo.simulation.raw_cards import raw_primary
from tololo.simulation.raw_crosstalk import add_leaks, crosstalk_table, draw_leaks
from tololo.simulation.raw_detector import (
    Conditions,
    DetectorTask,
    DetectorTruth,
    part_path,
    simulate_detector,
)
from tololo.simulation.raw_frames import normalisation
from tololo.simulation.raw_plan import RawPlan
from tololo.simulation.raw_reference import ps1_catalogue
from tololo.simulation.raw_schedule import RawExposure, schedule
from tololo.simulation.raw_stars import read_field, stars_on
from tololo.simulation.raw_truth import REFERENCE_PS1, RawTruth
from tololo.simulation.raw_view import FieldPsf, draw_trail
from tololo.simulation.truth import (
    REFERENCE,
    draw_variability,
    make_galaxies,
    make_stars,
    numbered,
    reference_catalogue,
)


def simulate_raw_nights(
    folder: Path | str, plan: RawPlan | None = None, seed: int = 1, *, processes: int = 1
) -> RawTruth:
    """Write raws of simulated nights, reference catalogues and the truth.

    Parameters
    ----------
    folder : `pathlib.Path` or `str`
        Made whole or not at all: it is written beside and renamed. Where it holds the same plan and seed
        already, nothing is done; where it holds another simulation, that is replaced.
    plan : `RawPlan`, optional
    seed : `int`, optional
        The same plan and seed give the same pixels.
    processes : `int`, optional
        How many detectors are simulated at a time; each takes some 40 MB per science exposure.

    Returns
    -------
    truth : `RawTruth`

    Raises
    ------
    BadInputError
        If the plan cannot be carried out, or the folder holds something that is no simulation.
    """
    plan = plan or RawPlan()
    plan.check()
    folder = Path(folder).absolute()
    digest = plan.digest(seed)
    if not is_finished(folder, digest):
        exposures = schedule(plan, np.random.default_rng([seed, 0]))
        with whole_folder(folder, digest, seed) as partial:
            _write(partial, plan, seed, exposures, processes)
    return RawTruth.read(folder)


def _write(folder: Path, plan: RawPlan, seed: int, exposures: list[RawExposure], processes: int) -> None:
    random = np.random.default_rng([seed, 1])
    chips = [make_chip(plan, seed, number) for number in sorted(set(plan.detectors))]
    field = read_field(plan) if plan.refcat else None
    stars = numbered(
        [
            make_stars(plan.sky, chip.true, random) if field is None else stars_on(field, plan, chip, random)
            for chip in chips
        ]
    )
    galaxies = numbered([make_galaxies(plan.sky, chip.true, random) for chip in chips])
    science = [exposure for exposure in exposures if exposure.kind == "object"]
    factor = draw_variability(stars, len(science), random)
    conditions = tuple(_conditions(plan, exposure, chips, seed) for exposure in exposures)
    (folder / "parts").mkdir()
    tasks = [
        DetectorTask(
            folder=folder,
            plan=plan,
            seed=seed,
            number=chip.ccd.id,
            exposures=tuple(exposures),
            conditions=conditions,
            stars=stars[np.asarray(stars["detector"]) == chip.ccd.id],
            galaxies=galaxies[np.asarray(galaxies["detector"]) == chip.ccd.id],
            factor=factor[np.asarray(stars["detector"]) == chip.ccd.id],
            norm=normalisation(chips, plan.bands),
        )
        for chip in chips
    ]
    found = list(_run(tasks, processes))
    leaks = draw_leaks(plan, chips, seed)
    (folder / "exposures").mkdir()
    for exposure in exposures:
        if exposure.kind == "object":
            add_leaks(folder, plan, seed, exposure, chips, leaks)
        _join(folder, plan, exposure)
    shutil.rmtree(folder / "parts")
    (folder / REFERENCE).parent.mkdir()
    reference_catalogue(stars, plan.reference_limit, random).write(folder / REFERENCE)
    (folder / REFERENCE_PS1).parent.mkdir()
    listed = ps1_catalogue(stars, plan.reference_limit + 1, np.random.default_rng([seed, 3]))
    listed.write(folder / REFERENCE_PS1)
    truth = RawTruth(
        folder=folder,
        stars=stars,
        galaxies=galaxies,
        transients=Table([row for part in found for row in part.transients]),
        exposures=_exposure_table(plan, science),
        calibrations=_calibration_table(exposures, conditions),
        amplifiers=_amplifier_table(chips),
        crosstalk=crosstalk_table(chips, leaks),
        views=Table([row for part in found for row in part.views]),
    )
    truth.write()
    if science:
        sources = vstack([part.sources for part in found], metadata_conflicts="silent")
        sources.write(folder / "truth" / "sources.parquet")


def _run(tasks: list[DetectorTask], processes: int) -> Iterator[DetectorTruth]:
    if processes == 1 or len(tasks) == 1:
        yield from map(simulate_detector, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=context) as pool:
        yield from pool.map(simulate_detector, tasks)


def _conditions(plan: RawPlan, exposure: RawExposure, chips: list[Chip], seed: int) -> Conditions:
    random = np.random.default_rng([seed, 2, exposure.seen.visit])
    psf = FieldPsf.draw(random, exposure.seen.fwhm)
    crossed = exposure.kind == "object" and random.random() < plan.trails
    trail = draw_trail(chips, random) if crossed else None
    return Conditions(psf, trail, plan.flat_level * float(random.uniform(0.93, 1.07)))


def _join(folder: Path, plan: RawPlan, exposure: RawExposure) -> None:
    """Put a file together of its HDUs, spoilt as its fault says."""
    fault = exposure.fault
    missing = None
    if fault is not None and fault.kind == "missing_detector":
        missing = fault.detector if fault.detector is not None else plan.detectors[0]
    kept = [number for number in sorted(set(plan.detectors)) if number != missing]
    path = folder / "exposures" / exposure.name
    fits.PrimaryHDU(header=raw_primary(plan, exposure, len(kept))).writeto(path)
    with path.open("ab") as file:
        for number in kept:
            file.write(part_path(folder, exposure, number).read_bytes())
    if fault is not None and fault.kind == "truncated":
        os.truncate(path, path.stat().st_size * 2 // 3)


def _exposure_table(plan: RawPlan, science: list[RawExposure]) -> Table:
    return Table(
        [
            exposure.seen.row
            | {
                "image": exposure.name,
                "ra": exposure.seen.ra,
                "dec": exposure.seen.dec,
                "header_ra": exposure.header_ra,
                "header_dec": exposure.header_dec,
                "turn": exposure.turn,
                "transparency_x": exposure.transparency_slope[0],
                "transparency_y": exposure.transparency_slope[1],
                "sky_x": exposure.sky_slope[0],
                "sky_y": exposure.sky_slope[1],
                "caldat": exposure.caldat,
                "object": plan.object_name,
                "fault": _fault_name(exposure),
            }
            for exposure in science
        ]
    )


def _calibration_table(exposures: list[RawExposure], conditions: tuple[Conditions, ...]) -> Table:
    return Table(
        [
            {
                "visit": exposure.seen.visit,
                "night": exposure.seen.planned.night,
                "planned": exposure.night.night,
                "obstype": exposure.kind,
                "band": exposure.seen.planned.band,
                "mjd_utc": exposure.seen.mjd,
                "exptime": exposure.seen.planned.exptime,
                "level": condition.level if exposure.kind == "dome flat" else 0.0,
                "caldat": exposure.caldat,
                "image": exposure.name,
                "fault": _fault_name(exposure),
            }
            for exposure, condition in zip(exposures, conditions, strict=True)
            if exposure.kind != "object"
        ]
    )


def _amplifier_table(chips: list[Chip]) -> Table:
    names = (
        "header_gain",
        "gain",
        "header_read_noise",
        "read_noise",
        "header_saturation",
        "full_well",
        "level",
        "crosstalk",
    )
    return Table(
        [
            {"detector": chip.ccd.id, "name": chip.ccd.name, "amplifier": amplifier.name}
            | {name: getattr(amplifier, name) for name in names}
            for chip in chips
            for amplifier in chip.amplifiers
        ]
    )


def _fault_name(exposure: RawExposure) -> str:
    return exposure.fault.kind if exposure.fault is not None else "none"

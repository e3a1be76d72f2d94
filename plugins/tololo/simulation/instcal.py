"""Simulate nights of DECam as InstCal files, with their truth beside them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from tololo.facility.errors import BadInputError
from tololo.simulation.cards import Observation, begin_of, detector_header, primary_header, visit_of
from tololo.simulation.courses import draw_sources
from tololo.simulation.detector import Frame, draw_defects, expose
from tololo.simulation.faults import spoil
from tololo.simulation.folder import is_finished, whole_folder
from tololo.simulation.plan import Plan, PlannedExposure
from tololo.simulation.sky import PIXEL_SCALE, Ccd, ccd
from tololo.simulation.transients import choose_places, plant, variable_rows
from tololo.simulation.truth import (
    REFERENCE,
    Truth,
    draw_variability,
    make_galaxies,
    make_stars,
    numbered,
    reference_catalogue,
)
from tololo.simulation.view import View, make_view

type Floats = NDArray[np.float64]

# AB magnitude of 1 ADU/s above the atmosphere's mean, extinction per airmass, and sky in ADU/s: typical of
# real exposures.
_ZERO_POINT = {"g": 24.95, "r": 25.2, "i": 25.1, "z": 24.9}
_EXTINCTION = {"g": 0.18, "r": 0.09, "i": 0.06, "z": 0.06}
_SKY = {"g": 1.2, "r": 3.5, "i": 8.0, "z": 18.0}
_IMAGE_STEP = 0.05  # ADU; a hundredth of the faintest noise
_WEIGHT_STEP = 1e-3  # of the median weight


def simulate_nights(folder: Path | str, *, plan: Plan | None = None, seed: int = 1) -> Truth:
    """Write InstCal triples of simulated nights, a reference catalogue and the truth.

    Parameters
    ----------
    folder : `pathlib.Path` or `str`
        Made whole or not at all: it is written beside and renamed. Where it holds the same plan and seed
        already, nothing is done; where it holds another simulation, that is replaced.
    plan : `Plan`, optional
        Defaults to the demo's.
    seed : `int`, optional
        The same plan and seed give the same pixels.

    Returns
    -------
    truth : `Truth`

    Raises
    ------
    BadInputError
        If the plan cannot be carried out, or the folder holds something that is no simulation.
    """
    plan = plan or Plan()
    plan.check()
    folder = Path(folder).absolute()
    digest = plan.digest(seed)
    if not is_finished(folder, digest):
        with whole_folder(folder, digest, seed) as partial:
            (partial / "exposures").mkdir()
            truth = _write(partial, plan, seed)
            for fault in plan.faults:
                spoil(truth.images, fault)
    return Truth.read(folder)


def _write(folder: Path, plan: Plan, seed: int) -> Truth:
    random = np.random.default_rng([seed, 0])
    observations = _observe(plan, random)
    chips = [ccd(number) for number in sorted(plan.detectors)]
    stars = numbered([make_stars(plan, chip, random) for chip in chips])
    galaxies = numbered([make_galaxies(plan, chip, random) for chip in chips])
    variable = draw_variability(stars, len(observations), random)
    for seen in observations:
        for product in ("ooi", "oow", "ood"):
            path = folder / "exposures" / seen.name(product)
            fits.PrimaryHDU(header=primary_header(seen, product, len(chips))).writeto(path)
    rows: list[dict[str, object]] = []
    for chip in chips:
        mine = [table[np.asarray(table["detector"]) == chip.ccdnum] for table in (stars, galaxies)]
        own = np.random.default_rng([seed, chip.ccdnum])
        rows += _detector(folder, plan, chip, observations, mine[0], mine[1], variable, own)
    (folder / REFERENCE).parent.mkdir()
    reference_catalogue(stars, plan.reference_limit, random).write(folder / REFERENCE)
    exposures = Table([seen.row | {"image": seen.name("ooi")} for seen in observations])
    truth = Truth(folder, stars, galaxies, Table(rows) if rows else Table(), exposures)
    truth.write()
    return truth


def _observe(plan: Plan, random: np.random.Generator) -> list[Observation]:
    observations: list[Observation] = []
    count: dict[int, int] = {}
    for planned in sorted(plan.exposures, key=lambda exposure: exposure.night):
        number = count[planned.night] = count.get(planned.night, -1) + 1
        east, north = random.uniform(-1, 1, 2) * plan.dither * PIXEL_SCALE / 3600
        transparency = float(random.uniform(0.85, 1.0))
        fwhm = float(random.uniform(*plan.seeing))
        brightness = float(random.uniform(0.8, 1.4))
        draft = Observation(
            visit=visit_of(len(observations)),
            planned=planned,
            begin=begin_of(planned, number),
            ra=plan.ra + east / math.cos(math.radians(plan.dec)),
            dec=plan.dec + north,
            fwhm=fwhm,
            zero_point=0.0,
            header_zero_point=0.0,
            transparency=transparency,
            sky=_of_band(_SKY, planned) * planned.exptime * brightness,
        )
        zero_point = (
            _of_band(_ZERO_POINT, planned)
            - _of_band(_EXTINCTION, planned) * (draft.airmass - 1)
            + 2.5 * math.log10(planned.exptime * transparency)
        )
        header = zero_point + float(random.normal(0, 0.06))
        observations.append(
            Observation(**{**vars(draft), "zero_point": zero_point, "header_zero_point": header})
        )
    return observations


def _of_band(values: dict[str, float], planned: PlannedExposure) -> float:
    if planned.band not in values:
        raise BadInputError(
            f"The simulator knows no band {planned.band!r}",
            "plan, exposures",
            f"choose among {', '.join(values)}",
        )
    return values[planned.band]


def _detector(
    folder: Path,
    plan: Plan,
    chip: Ccd,
    observations: list[Observation],
    stars: Table,
    galaxies: Table,
    variable: Floats,
    random: np.random.Generator,
) -> list[dict[str, object]]:
    """Render a detector in all exposures, append it to their files, return its rows of transients."""
    factor = variable[np.asarray(stars["id"]) - 1]
    views = [
        make_view(plan, chip, seen, stars, factor[:, number], galaxies, random)
        for number, seen in enumerate(observations)
    ]
    defects = draw_defects(plan, random)
    places = choose_places(plan, chip, stars, galaxies, [view.wcs for view in views], defects.mask, random)
    rows = plant(plan, chip, views, places, galaxies, random)
    rows += variable_rows(chip, views, stars, factor)
    rows += draw_sources(plan, chip, views)
    for view in views:
        spared = np.array([(row["x"], row["y"]) for row in rows if row["visit"] == view.seen.visit], float)
        if not view.seen.planned.science:
            spared = (
                np.stack(view.wcs.all_world2pix(places["ra"], places["dec"], 0), 1) if len(places) else spared
            )
        frame = expose(
            view.model, chip, defects, plan, view.seen.planned.exptime, spared.reshape(-1, 2), random
        )
        _append(folder, view, chip, frame)
    return rows


def _append(folder: Path, view: View, chip: Ccd, frame: Frame) -> None:
    blank = (frame.dq == 0) & (np.abs(view.model - view.seen.sky) < 0.05 * view.seen.sky)
    sky = float(np.median(frame.image[blank])) if blank.any() else view.seen.sky
    noise = math.sqrt(sky / chip.gain + (chip.read_noise / chip.gain) ** 2)
    header = detector_header(view.seen, chip, view.header, sky, noise, view.psf.fwhm[0])
    step = _WEIGHT_STEP * float(np.median(frame.weight[frame.weight > 0]))
    planes: tuple[tuple[str, NDArray[np.float32] | NDArray[np.int32], dict[str, float]], ...] = (
        ("ooi", frame.image, {"quantize_level": -_IMAGE_STEP, "quantize_method": 1}),
        # This dithering keeps zeros what they are.
        ("oow", frame.weight, {"quantize_level": -step, "quantize_method": 2}),
        ("ood", frame.dq, {}),
    )
    for product, plane, options in planes:
        hdu = fits.CompImageHDU(
            plane, header, name=chip.name, compression_type="RICE_1", dither_seed=chip.ccdnum, **options
        )
        with fits.open(folder / "exposures" / view.seen.name(product), mode="append") as hdus:
            hdus.append(hdu)

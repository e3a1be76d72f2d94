"""All exposures of one CCD: its light, its raws as parts of files to be, and its rows of the truth."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from numpy.typing import NDArray

from tololo.simulation.raw_camera import Chip, make_chip
from tololo.simulation.raw_cards import raw_detector_header
from tololo.simulation.raw_frames import draw_frames
from tololo.simulation.raw_plan import RawPlan
from tololo.simulation.raw_readout import Events, collect, draw_levels, fill_wells, read_out, strike
from tololo.simulation.raw_schedule import RawExposure
from tololo.simulation.raw_truth import frames_path, psf_terms, write_events
from tololo.simulation.raw_view import FieldPsf, Trail, add_trail, make_raw_view
from tololo.simulation.sky import Psf
from tololo.simulation.transients import choose_places, plant, variable_rows
from tololo.simulation.view import View

type Floats = NDArray[np.float64]
type Floats32 = NDArray[np.float32]
type Row = dict[str, object]

_READOUT = 20.0
"""Seconds that a pixel waits to be read, on average and with the erasure, while cosmic rays fall."""

_BLOCK = 2880


@dataclass(frozen=True)
class Conditions:
    """What an exposure has beyond its plan, on all CCDs: PSF, trail, level of a flat (e-)."""

    psf: FieldPsf
    trail: Trail | None
    level: float


@dataclass(frozen=True)
class DetectorTask:
    """What is needed to simulate one CCD.

    ``stars`` and ``galaxies`` are those of this detector; ``factor`` is how much brighter than on average
    its stars are in each science exposure, (stars, exposures); ``norm`` normalises its flat field by band.
    """

    folder: Path
    plan: RawPlan
    seed: int
    number: int
    exposures: tuple[RawExposure, ...]
    conditions: tuple[Conditions, ...]
    stars: Table
    galaxies: Table
    factor: Floats
    norm: dict[str, float]


@dataclass(frozen=True)
class DetectorTruth:
    """Rows of the truth that one CCD contributes."""

    transients: list[Row]
    views: list[Row]
    sources: Table


def part_path(folder: Path, exposure: RawExposure, detector: int) -> Path:
    """Return where the HDU of a detector waits for the file of its exposure to be put together."""
    return folder / "parts" / f"{exposure.seen.visit}_{detector:02d}"


def simulate_detector(task: DetectorTask) -> DetectorTruth:
    """Simulate one CCD in all exposures: write HDUs, frames and events, return rows of the truth."""
    plan, exposures = task.plan, task.exposures
    chip = make_chip(plan, task.seed, task.number)
    frames, response, defects = draw_frames(plan, chip, task.norm, task.seed)
    frames.write(frames_path(task.folder, chip.ccd.id))
    random = np.random.default_rng([task.seed, chip.ccd.id, 2])
    views: dict[int, View] = {}
    sources: list[Table] = []
    for exposure, conditions in zip(exposures, task.conditions, strict=True):
        if exposure.kind == "object":
            psf = conditions.psf.on(chip)
            factor = task.factor[:, len(views)]
            view, found = make_raw_view(plan, chip, exposure, psf, task.stars, factor, task.galaxies)
            views[exposure.seen.visit] = view
            sources.append(found)
    rows, places = _transients(task, chip, list(views.values()), frames.defects, random)
    view_rows: list[Row] = []
    for number, (exposure, conditions) in enumerate(zip(exposures, task.conditions, strict=True)):
        own = np.random.default_rng([task.seed, chip.ccd.id, 3, number])
        size = chip.shape[0] * chip.shape[1] / 1e6
        hits = int(own.poisson(plan.cosmic_rays * size * (exposure.seen.planned.exptime + _READOUT) / 100))
        spared = np.empty((0, 2))
        if exposure.kind == "zero":
            electrons = np.zeros(chip.shape, np.float32)
        elif exposure.kind == "dome flat":
            light = np.full(chip.shape, conditions.level, np.float32)
            electrons = collect(light, response[exposure.seen.planned.band], own)
        else:
            view = views.pop(exposure.seen.visit)
            if len(places):
                spared = np.stack(view.wcs.all_world2pix(places["ra"], places["dec"], 0), 1)
            view_rows.append(_view_row(chip, view, conditions.trail))
            electrons = collect(np.asarray(view.model, np.float32), response[exposure.seen.planned.band], own)
        pixels, charge = strike(electrons, hits, spared, own)
        full, bled = fill_wells(electrons, chip)
        levels = draw_levels(chip, own)
        raw = read_out(electrons, chip, frames.bias, defects, levels, own)
        write_events(
            task.folder, exposure.seen.visit, chip.ccd.id, Events(pixels, charge, full, bled, levels)
        )
        header = raw_detector_header(plan, exposure, chip)
        part_path(task.folder, exposure, chip.ccd.id).write_bytes(hdu_bytes(raw, header))
    return DetectorTruth(rows, view_rows, vstack(sources) if sources else Table())


def _transients(
    task: DetectorTask, chip: Chip, views: list[View], bad: NDArray[np.bool_], random: np.random.Generator
) -> tuple[list[Row], Table]:
    if not views:
        return [], Table()
    sky = task.plan.sky
    poor = {e.seen.visit for e in task.exposures if e.fault is not None and e.fault.kind == "clouded"}
    wcs = [view.wcs for view in views]
    places = choose_places(sky, chip.true, task.stars, task.galaxies, wcs, bad, random)
    rows = plant(sky, chip.true, views, places, task.galaxies, random, poor)
    return rows + variable_rows(chip.true, views, task.stars, task.factor), places


def _view_row(chip: Chip, view: View, trail: Trail | None) -> Row:
    """Draw the satellite and return the row of `RawTruth.views`."""
    cards = "\n".join(str(card).rstrip() for card in view.header.cards)
    row: Row = {"visit": view.seen.visit, "detector": chip.ccd.id, "wcs": cards} | psf_terms(view.psf)
    line, sigma, peak = (np.nan, np.nan, np.nan), np.nan, np.nan
    if trail is not None:
        width = _sigma(view.psf)
        crossing = trail.on(chip)
        if add_trail(view.model, *crossing, width, trail.peak):
            line, sigma, peak = crossing, width, trail.peak
    names = ("trail_a", "trail_b", "trail_c", "trail_sigma", "trail_peak")
    return row | dict(zip(names, (*line, sigma, peak), strict=True))


def _sigma(psf: Psf) -> float:
    return psf.fwhm[0] / 2.355


def hdu_bytes(raw: NDArray[np.uint16], header: fits.Header) -> bytes:
    """Return a compressed HDU as the bytes that stand in a file."""
    hdu = fits.CompImageHDU(raw, header, compression_type="RICE_1")
    file = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
    return file.getvalue()[_BLOCK:]


def read_pixels(part: bytes) -> NDArray[np.uint16]:
    """Return the pixels of what `hdu_bytes` made."""
    file = BytesIO()
    fits.PrimaryHDU().writeto(file)
    with fits.open(BytesIO(file.getvalue() + part)) as hdus:
        return np.asarray(hdus[1].data, np.uint16)

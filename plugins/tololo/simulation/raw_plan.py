"""What to simulate as raw nights: exposures, detectors, content of the sky, and what goes wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tololo.facility.errors import BadInputError
from tololo.facility.nights import parse_night
from tololo.reduction.instrument.detectors import HEIGHT, WIDTH, detector
from tololo.reduction.kernels.calibration import GAIA_TO_DECAM
from tololo.simulation.plan import Plan, PlannedExposure

VERSION = 2
"""Raised whenever the same plan and seed would give other files."""

SMALLEST = 128
"""Least height of a CCD and width of an amplifier, pixels."""

type Kind = Literal["zero", "dome flat", "object"]
type RawFaultKind = Literal["clouded", "truncated", "missing_detector", "unknown_filter", "wrong_pointing"]


@dataclass(frozen=True)
class RawNight:
    """The exposures of one night.

    Attributes
    ----------
    night : `int`
        YYYYMMDD, ``day_obs`` of its science exposures.
    zeros : `int`
        Biases; 0 for a night without.
    flats, objects : `int`
        Dome flats and science exposures of each band; 0 for a night without.
    bands : `tuple` [`str`, ...]
    exptime : `float`
        Of the science exposures, seconds.
    transients : `bool`
        Whether transients shine (no: a night for templates).
    calibrations : `str`
        When biases and flats are taken: ``afternoon`` before; ``morning`` after, still of the same
        ``day_obs``; ``late``, after 12 h UTC, which is the next ``day_obs`` though the archive's calendar
        date (DTCALDAT) is still this night's.
    seeing : `float`, optional
        Arcsec; drawn from the plan's range unless given.
    """

    night: int
    zeros: int = 5
    flats: int = 5
    objects: int = 2
    bands: tuple[str, ...] = ("r",)
    exptime: float = 90.0
    transients: bool = False
    calibrations: Literal["afternoon", "morning", "late"] = "afternoon"
    seeing: float | None = None


@dataclass(frozen=True)
class RawFault:
    """Something that goes wrong with one exposure.

    Attributes
    ----------
    kind : `str`
        ``clouded`` (transparency of ``transparency`` and uneven over the field), ``truncated`` (the file
        loses its last third), ``missing_detector``, ``unknown_filter``, ``wrong_pointing`` (TELRA, TELDEC and
        the WCS are off by ``arcsec`` in Dec).
    night : `int`
    number : `int`
        Which exposure of that kind in the night, in time order from 0.
    obstype : `str`
        ``zero``, ``dome flat`` or ``object``.
    detector : `int`, optional
        Which one is missing; the plan's first unless given.
    transparency, arcsec : `float`
    """

    kind: RawFaultKind
    night: int
    number: int = 0
    obstype: Kind = "object"
    detector: int | None = None
    transparency: float = 0.2
    arcsec: float = 600.0


@dataclass(frozen=True)
class RawPlan:
    """Parameters of a simulation of raw nights.

    Attributes
    ----------
    nights : `tuple` [`RawNight`, ...]
    detectors : `tuple` [`int`, ...]
        CCDNUM, any of the 62.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the light-sensitive part, its lower left corner that of the CCD. Smaller ones have the
        same prescan, overscan and postscan, and sections that fit.
    ra, dec : `float`
        Field, degrees ICRS.
    dither : `float`
        Largest offset of an exposure along each axis, pixels.
    object_name : `str`
        OBJECT of the science exposures.
    stars_per_deg2, galaxies, transients, snr, variable_fraction, seeing, cosmic_rays, reference_limit
        As in `~tololo.simulation.plan.Plan`; galaxies and transients are those of each detector.
    bad_columns, bad_pixels : `int`
        Per detector.
    refcat : `str`
        Folder with a reference catalogue to take the stars from (Gaia's tables or shards, and PS1's if
        there); generated where empty.
    pointing_error, turn : `float`
        Scatter of the header's pointing (arcsec per axis) and turn (degrees) against the truth.
    crosstalk : `float`
        Typical share of one amplifier's signal that the other one of its CCD gets.
    neighbour_crosstalk : `float`
        The same of CCDs whose numbers follow one another, in science exposures.
    color_term : `float`
        By how much the camera sees stars fainter than the bands of the truth say, mag per mag of BP - RP
        beyond `COLOR_PIVOT`.
    centred_crpix : `bool`
        Write CRPIX as real files of 2020 have it, less by 1030 and 2023 than that of the assembled CCD; those
        of 2013 have the latter.
    flat_level : `float`
        Dome flats, electrons.
    trails : `float`
        Share of the science exposures that a satellite crosses.
    faults : `tuple` [`RawFault`, ...]
    """

    nights: tuple[RawNight, ...] = (RawNight(20190305), RawNight(20190402, transients=True))
    detectors: tuple[int, ...] = (28, 35)
    shape: tuple[int, int] = (HEIGHT, WIDTH)
    ra: float = 186.75
    dec: float = -11.5
    dither: float = 15.0
    object_name: str = "tololo field"
    stars_per_deg2: float = 18000.0
    galaxies: int = 150
    transients: int = 24
    snr: tuple[float, float] = (11.0, 90.0)
    variable_fraction: float = 0.0
    seeing: tuple[float, float] = (0.8, 1.3)
    cosmic_rays: float = 25.0
    bad_columns: int = 4
    bad_pixels: int = 200
    reference_limit: float = 21.0
    refcat: str = ""
    pointing_error: float = 3.0
    turn: float = 0.01
    crosstalk: float = 5e-4
    neighbour_crosstalk: float = 6e-5
    color_term: float = 0.01
    centred_crpix: bool = False
    flat_level: float = 60000.0
    trails: float = 0.25
    faults: tuple[RawFault, ...] = field(default=())

    @property
    def bands(self) -> tuple[str, ...]:
        """All bands of the nights."""
        return tuple(sorted({band for night in self.nights for band in night.bands}))

    @property
    def sky(self) -> Plan:
        """The plan of the sky, for what draws stars, galaxies and transients."""
        return Plan(
            exposures=tuple(
                PlannedExposure(night.night, band, night.transients, night.exptime)
                for night in self.nights
                for band in night.bands
            ),
            detectors=self.detectors,
            shape=self.shape,
            origin=(0, 0),
            ra=self.ra,
            dec=self.dec,
            dither=self.dither,
            stars_per_deg2=self.stars_per_deg2,
            galaxies=self.galaxies,
            transients=self.transients,
            snr=self.snr,
            variable_fraction=self.variable_fraction,
            seeing=self.seeing,
            cosmic_rays=self.cosmic_rays,
            bad_columns=self.bad_columns,
            bad_pixels=self.bad_pixels,
            reference_limit=self.reference_limit,
        )

    def digest(self, seed: int) -> str:
        """Return a short name of this plan with this seed; it changes when anything of them does."""
        content = json.dumps(["raw", VERSION, seed, asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def check(self) -> None:
        """Raise `BadInputError` if the plan cannot be carried out."""
        if not self.nights or not self.detectors:
            raise BadInputError("The plan has no night or no detector", "plan", "name at least one of each")
        for number in self.detectors:
            detector(number)
        ny, nx = self.shape
        if not (SMALLEST <= ny <= HEIGHT and 2 * SMALLEST <= nx <= WIDTH and nx % 2 == 0):
            raise BadInputError(
                f"A CCD cannot be {ny} x {nx} pixels",
                "plan, shape",
                f"give {SMALLEST} to {HEIGHT} rows and an even number of {2 * SMALLEST} to {WIDTH} columns",
            )
        nights = [parse_night(night.night) for night in self.nights]
        if len(set(nights)) < len(nights):
            raise BadInputError("A night is planned twice", f"plan, nights {nights}", "name each night once")
        for band in self.bands:
            if band not in GAIA_TO_DECAM:
                raise BadInputError(
                    f"The simulator knows no band {band!r}",
                    "plan, nights",
                    f"choose among {', '.join(GAIA_TO_DECAM)}",
                )
        if self.refcat and not Path(self.refcat).exists():
            raise BadInputError(
                "The reference catalogue does not exist", self.refcat, "name a folder of tables"
            )
        for fault in self.faults:
            self._check_fault(fault)

    def _check_fault(self, fault: RawFault) -> None:
        night = next((night for night in self.nights if night.night == fault.night), None)
        there = 0
        if night is not None:
            bands = len(night.bands)
            there = {
                "zero": night.zeros,
                "dome flat": bands * night.flats,
                "object": bands * night.objects,
            }[fault.obstype]
        if not 0 <= fault.number < there:
            raise BadInputError(
                f"There is no {fault.obstype} {fault.number} to spoil in night {fault.night}",
                "plan, faults",
                f"the plan has {there} of them; count from 0",
            )
        if fault.kind == "clouded" and fault.obstype != "object":
            raise BadInputError("Only a science exposure can be clouded", "plan, faults", "choose an object")
        if fault.detector is not None and fault.detector not in self.detectors:
            raise BadInputError(
                f"Detector {fault.detector} cannot be missing: it is not planned",
                "plan, faults",
                f"choose among {self.detectors}",
            )

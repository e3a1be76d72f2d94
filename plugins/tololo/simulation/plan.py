"""What to simulate: exposures, detectors, content of the sky, faults, in one small object with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tololo.facility.errors import BadInputError
from tololo.facility.nights import parse_night

VERSION = 2
"""Raised whenever the same plan and seed would give other files."""

type FaultKind = Literal[
    "truncated", "missing_weight", "missing_mask", "unknown_filter", "not_decam", "wrong_wcs"
]


@dataclass(frozen=True)
class PlannedExposure:
    """One exposure: night (YYYYMMDD), band, whether transients shine in it, and its length in seconds."""

    night: int
    band: str = "r"
    science: bool = False
    exptime: float = 90.0


@dataclass(frozen=True)
class PlannedSource:
    """A point source with a course of its own; nothing else in the sky is told to keep away from it.

    Attributes
    ----------
    kind : `str`
        What the truth calls it, such as ``supernova``.
    detector : `int`
    x, y : `float`
        Zero-based pixel of the detector at the plan's pointing, in the first exposure.
    flux : `tuple` [`tuple` [`int`, `float`], ...]
        Night and flux, nJy, in whatever band; dark in nights that are not named.
    motion : `tuple` [`float`, `float`]
        Eastwards and northwards on the sky, arcsec a day.
    """

    kind: str
    detector: int
    x: float
    y: float
    flux: tuple[tuple[int, float], ...]
    motion: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Fault:
    """Something to spoil after writing.

    Attributes
    ----------
    kind : `str`
        ``truncated`` (image file loses its last third), ``missing_weight``, ``missing_mask``,
        ``unknown_filter``, ``not_decam``, ``wrong_wcs``.
    exposure : `int`
        Which exposure, counted in time order from 0.
    pixels : `float`
        Shift of a wrong WCS along x.
    """

    kind: FaultKind
    exposure: int = 0
    pixels: float = 3.0


@dataclass(frozen=True)
class Plan:
    """Parameters of a simulation; the defaults are the ones of `make demo`.

    Attributes
    ----------
    exposures : `tuple` [`PlannedExposure`, ...]
    detectors : `tuple` [`int`, ...]
        CCDNUM of each; see `tololo.simulation.sky.CCDS` for those whose geometry is known.
    shape : `tuple` [`int`, `int`]
        (ny, nx) of the piece of each CCD.
    origin : `tuple` [`int`, `int`]
        (y, x) of its first pixel on the CCD, zero-based.
    ra, dec : `float`
        Where the telescope points, degrees ICRS.
    dither : `float`
        Largest offset of an exposure along each axis, pixels.
    stars_per_deg2 : `float`
        Stars brighter than G = 21; fainter ones are added in proportion.
    galaxies, transients : `int`
        Per detector.
    snr : `tuple` [`float`, `float`]
        Range of the transients' expected signal to noise on the difference image, in the exposure that is
        worst for it.
    variable_fraction : `float`
        Share of the stars that vary by some tenths of a magnitude.
    seeing : `tuple` [`float`, `float`]
        Range of the FWHM, arcsec.
    cosmic_rays : `float`
        Per 1000 x 1000 pixels and 100 s.
    bad_columns, bad_pixels : `int`
        Per detector, the same in all its exposures.
    reference_limit : `float`
        Faintest G of the reference catalogue.
    faults : `tuple` [`Fault`, ...]
    sources : `tuple` [`PlannedSource`, ...]
        In exposures of InstCal files only.
    """

    exposures: tuple[PlannedExposure, ...] = (
        PlannedExposure(20190305),
        PlannedExposure(20190305),
        PlannedExposure(20190309),
        PlannedExposure(20190402, science=True),
        PlannedExposure(20190405, science=True),
    )
    detectors: tuple[int, ...] = (28, 35)
    shape: tuple[int, int] = (1024, 1024)
    origin: tuple[int, int] = (1536, 512)
    ra: float = 186.75
    dec: float = -11.5
    dither: float = 15.0
    stars_per_deg2: float = 18000.0
    galaxies: int = 120
    transients: int = 24
    snr: tuple[float, float] = (11.0, 90.0)
    variable_fraction: float = 0.0
    seeing: tuple[float, float] = (0.8, 1.3)
    cosmic_rays: float = 25.0
    bad_columns: int = 2
    bad_pixels: int = 40
    reference_limit: float = 21.0
    faults: tuple[Fault, ...] = ()
    sources: tuple[PlannedSource, ...] = ()

    @classmethod
    def of_nights(
        cls,
        template: Mapping[int, int],
        science: Mapping[int, int],
        bands: tuple[str, ...] = ("r",),
        **others: Any,
    ) -> Plan:
        """Make a plan from the number of exposures per band of each night.

        Parameters
        ----------
        template, science : mapping
            Night (YYYYMMDD) to exposures per band.
        bands : `tuple` [`str`, ...]
        **others
            Further fields of `Plan`.
        """
        exposures = [
            PlannedExposure(parse_night(night), band, is_science)
            for nights, is_science in ((template, False), (science, True))
            for night, number in nights.items()
            for band in bands
            for _ in range(number)
        ]
        return replace(
            cls(), exposures=tuple(sorted(exposures, key=lambda e: (e.night, e.science))), **others
        )

    def digest(self, seed: int) -> str:
        """Return a short name of this plan with this seed; it changes when anything of them does."""
        content = json.dumps([VERSION, seed, asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def check(self) -> None:
        """Raise `BadInputError` if the plan cannot be carried out."""
        if not self.exposures or not self.detectors:
            raise BadInputError(
                "The plan has no exposure or no detector", "plan", "name at least one of each"
            )
        if min(self.shape) < 256:
            raise BadInputError(
                "The detectors are too small", f"plan, shape {self.shape}", "give at least 256 x 256"
            )
        for exposure in self.exposures:
            parse_night(exposure.night)
        for fault in self.faults:
            if not 0 <= fault.exposure < len(self.exposures):
                raise BadInputError(
                    f"There is no exposure {fault.exposure} to spoil",
                    "plan, faults",
                    "count exposures from 0",
                )

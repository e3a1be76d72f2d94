"""A folder that the demo is given: what exposures it has, of which nights, and what stars they cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tololo.reduction.formats.instcal import InstcalDetector
    from tololo.reduction.formats.raw_exposure import RawExposure

type Covers = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]
"""Which of some positions (ra, dec in degrees) an image covers."""

MARGIN = 20
"""Pixels from the edge of an image where a star is not counted as covered."""


@dataclass(frozen=True)
class Sighting:
    """A science exposure: its band, its night, and what its detectors cover."""

    band: str
    night: int
    covers: tuple[Covers, ...]


@dataclass(frozen=True)
class DemoData:
    """What a folder holds.

    Attributes
    ----------
    source : `str`
        ``raw`` or ``instcal``.
    sightings : `tuple` [`Sighting`, ...]
        The science exposures.
    notes : `tuple` [`str`, ...]
        What is not used, and why.
    lenders : `tuple` [`int`, ...]
        Nights with biases and flats, which others may borrow.
    """

    source: str
    sightings: tuple[Sighting, ...]
    notes: tuple[str, ...]
    lenders: tuple[int, ...] = ()

    def covered_stars(self, refcat: Path, number: int = 5) -> str:
        """Choose the reference stars that most exposures cover, brighter first; one a line: name ra dec."""
        import numpy as np

        from tololo.reduction.formats.refcat import read_refcat

        stars = read_refcat(refcat)
        ra, dec = np.degrees(np.asarray(stars["coord_ra"])), np.degrees(np.asarray(stars["coord_dec"]))
        covered = np.zeros(len(stars), dtype=int)
        for sighting in self.sightings:
            for covers in sighting.covers:
                covered += covers(ra, dec)
        order = np.lexsort((-np.asarray(stars["phot_g_mean_flux"], dtype=float), -covered))
        chosen = [index for index in order[:number] if covered[index] > 0]
        return "\n".join(
            f"Gaia-DR2-{int(stars['id'][index])} {ra[index]:.7f} {dec[index]:.7f}" for index in chosen
        )


def look_at(folder: Path) -> DemoData:
    """Look what a folder holds: raws, or InstCal files if there are no science raws.

    Raises
    ------
    BadInputError
        If it holds neither, or an InstCal file has something wrong.
    """
    from tololo.facility.bad_exposures import exclusions
    from tololo.reduction.formats.instcal_search import find_instcal
    from tololo.reduction.formats.raw_search import find_raws
    from tololo.reduction.instrument.filters import band_of

    raws = find_raws(folder, exclusions())
    science = [exposure for exposure in raws.exposures if exposure.observation_type == "science"]
    if science:
        notes = [f"ignored: {one}" for one in raws.ignored]
        notes += [f"excluded: {one}" for one in raws.excluded]
        notes += [f"cannot be taken: {error}" for error in raws.rejected]
        kinds = {(one.night, one.observation_type) for one in raws.exposures}
        lenders = {night for night, kind in kinds if {(night, "zero"), (night, "dome flat")} <= kinds}
        sightings = [
            Sighting(
                band_of(one.physical_filter),
                one.night,
                tuple(_raw_covers(one, ccd) for ccd in one.detectors),
            )
            for one in science
        ]
        return DemoData("raw", tuple(sightings), tuple(notes), tuple(sorted(lenders)))
    search = find_instcal(folder)
    notes = [f"ignored: {one}" for one in search.ignored]
    notes += [f"superseded: {one}" for one in search.superseded]
    sightings = [
        Sighting(one.band, one.day_obs, tuple(map(_instcal_covers, one.detectors))) for one in search.triples
    ]
    return DemoData("instcal", tuple(sightings), tuple(notes))


def _raw_covers(exposure: RawExposure, detector: int) -> Covers:
    import numpy as np

    from tololo.reduction.instrument.pointing import nominal_region

    def covers(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
        if exposure.ra is None or exposure.dec is None:
            return np.zeros(ra.shape, bool)
        region = nominal_region(detector, exposure.ra, exposure.dec, padding=-MARGIN)
        return np.asarray(region.contains(np.radians(ra), np.radians(dec)), dtype=bool)

    return covers


def _instcal_covers(detector: InstcalDetector) -> Covers:
    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS

    def covers(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
        ny, nx = detector.shape
        wcs = WCS(fits.Header(detector.wcs_header))
        center = wcs.all_pix2world([[nx / 2, ny / 2]], 0)[0]
        inside = np.hypot((ra - center[0]) * np.cos(np.radians(dec)), dec - center[1]) < 0.5
        near = np.flatnonzero(inside)
        if near.size:
            x, y = wcs.all_world2pix(ra[near], dec[near], 0, quiet=True)
            inside[near] = (x > MARGIN) & (x < nx - MARGIN) & (y > MARGIN) & (y < ny - MARGIN)
        return np.asarray(inside, dtype=bool)

    return covers

"""What the demo works on: a simulation, or InstCal files of which each band's newest night is science."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError

if TYPE_CHECKING:
    from tololo.reduction.formats.instcal import InstcalExposure


@dataclass(frozen=True)
class DemoPlan:
    """Nights of the demo and what each is for.

    ``band_nights`` lists the nights of each band, oldest first; the last one is science, the others make the
    template. ``truth`` is the folder of a simulation's truth, `None` for real data. ``targets`` lists stars,
    one a line (name ra dec), whose light curves on the visit images are published too.
    """

    folder: Path
    refcat: Path
    subset: str
    band_nights: dict[str, tuple[str, ...]]
    science: dict[str, tuple[str, ...]]
    description: str
    truth: Path | None = None
    n_targets: int = 20
    targets: str = ""

    @property
    def template_type(self) -> str:
        """How templates are combined."""
        return facility().template_type

    @property
    def nights(self) -> list[str]:
        """All nights, in order."""
        return sorted({night for nights in self.band_nights.values() for night in nights})

    @property
    def science_nights(self) -> list[str]:
        """Nights that are difference-imaged, in order."""
        return sorted({night for nights in self.science.values() for night in nights})

    @property
    def template_nights(self) -> list[str]:
        """Nights that make templates, in order."""
        return sorted({night for band in self.science for night in self._before(band)})

    @property
    def template_where(self) -> str:
        """Data query of the template's visits, band by band."""
        return _query({band: self._before(band) for band in self.science})

    @property
    def science_where(self) -> str:
        """Data query of the science visits, band by band."""
        return _query(self.science)

    def _before(self, band: str) -> tuple[str, ...]:
        return tuple(night for night in self.band_nights[band] if night not in self.science[band])


def _query(nights: dict[str, tuple[str, ...]]) -> str:
    return " OR ".join(
        f"(band = '{band}' AND visit.day_obs IN ({', '.join(chosen)}))"
        for band, chosen in sorted(nights.items())
    )


def simulate(folder: Path) -> DemoPlan:
    """Write the simulation, unless it is there, and plan its nights."""
    from tololo.simulation.instcal import simulate_nights

    truth = simulate_nights(folder)
    nights: dict[str, set[str]] = {}
    science: dict[str, set[str]] = {}
    for exposure in truth.exposures:
        band, night = str(exposure["band"]), str(exposure["night"])
        nights.setdefault(band, set()).add(night)
        if exposure["science"]:
            science.setdefault(band, set()).add(night)
    n_transients = len(set(truth.transients["id"].tolist()))
    return DemoPlan(
        folder=truth.images,
        refcat=truth.reference,
        subset=facility().template_subset,
        band_nights={band: tuple(sorted(value)) for band, value in nights.items()},
        science={band: tuple(sorted(value)) for band, value in science.items()},
        description=f"Simulated {len(truth.exposures)} exposures with {n_transients} transients in {folder}",
        truth=folder,
        n_targets=10,
    )


def plan_data(folder: Path, refcat: str) -> DemoPlan:
    """Plan the nights of a folder of InstCal files.

    Parameters
    ----------
    folder : `pathlib.Path`
        Searched at any depth, by header.
    refcat : `str`
        Folder of reference stars; by default ``gaia`` in the folder or beside it.

    Raises
    ------
    BadInputError
        The folder holds nothing usable, there are no reference stars, or no band has two nights.
    """
    from tololo.reduction.formats.instcal_search import find_instcal

    folder = folder.expanduser().resolve()
    search = find_instcal(folder)
    for ignored in search.ignored:
        print(f"  ignored: {ignored}")
    for loser in search.superseded:
        print(f"  superseded: {loser}")
    nights: dict[str, set[str]] = {}
    for exposure in search.triples:
        nights.setdefault(exposure.band, set()).add(str(exposure.day_obs))
    band_nights = {band: tuple(sorted(value)) for band, value in sorted(nights.items())}
    science = {band: value[-1:] for band, value in band_nights.items() if len(value) > 1}
    for band in sorted(set(band_nights) - set(science)):
        print(f"  band {band} has one night only: its visits are calibrated, but nothing can be subtracted")
    if not science:
        raise BadInputError(
            "No band has exposures of two nights, so there is no template to subtract",
            str(folder),
            "add exposures of the same field from another night",
        )
    stars = _reference_stars(folder, refcat)
    return DemoPlan(
        folder=folder,
        refcat=stars,
        subset=re.sub(r"[^A-Za-z0-9]+", "_", folder.name).strip("_") or "data",
        band_nights=band_nights,
        science=science,
        description=f"{len(search.triples)} exposures of {len(nights)} bands in {folder}",
        targets=_covered_stars(search.triples, stars),
    )


def _covered_stars(
    exposures: Sequence[InstcalExposure], refcat: Path, number: int = 5, margin: int = 20
) -> str:
    """Choose the reference stars that most exposures cover, brighter first; one a line: name ra dec."""
    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS

    from tololo.reduction.formats.refcat import read_refcat

    stars = read_refcat(refcat)
    ra, dec = np.degrees(np.asarray(stars["coord_ra"])), np.degrees(np.asarray(stars["coord_dec"]))
    covered = np.zeros(len(stars), dtype=int)
    for detector in (detector for exposure in exposures for detector in exposure.detectors):
        ny, nx = detector.shape
        wcs = WCS(fits.Header(detector.wcs_header))
        center = wcs.all_pix2world([[nx / 2, ny / 2]], 0)[0]
        near = np.hypot((ra - center[0]) * np.cos(np.radians(dec)), dec - center[1]) < 0.5
        x, y = wcs.all_world2pix(ra[near], dec[near], 0, quiet=True) if near.any() else (ra[near], dec[near])
        inside = (x > margin) & (x < nx - margin) & (y > margin) & (y < ny - margin)
        covered[np.flatnonzero(near)[inside]] += 1
    order = np.lexsort((-np.asarray(stars["phot_g_mean_flux"], dtype=float), -covered))
    chosen = [index for index in order[:number] if covered[index] > 0]
    return "\n".join(
        f"Gaia-DR2-{int(stars['id'][index])} {ra[index]:.7f} {dec[index]:.7f}" for index in chosen
    )


def _reference_stars(folder: Path, refcat: str) -> Path:
    candidates = [Path(refcat).expanduser()] if refcat else [folder / "gaia", folder.parent / "gaia"]
    for candidate in candidates:
        if candidate.exists():
            return candidate.resolve()
    raise BadInputError(
        "There are no reference stars", " or ".join(str(path) for path in candidates), "give REFCAT=<folder>"
    )

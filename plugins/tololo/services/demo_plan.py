"""What the demo works on: a simulation, or exposures of which each band's newest night is science."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError


@dataclass(frozen=True)
class DemoPlan:
    """Nights of the demo and what each is for.

    ``band_nights`` lists the nights of each band, oldest first; the last one is science, the others make the
    template. ``source`` is that of `nightly_decam`; ``first`` are nights whose calibrations other nights may
    borrow, be it that they have nothing else. ``calibrations`` is a folder of curated calibrations, that of
    the facility where empty. ``truth`` is the folder of a simulation's truth, `None` for
    real data. ``targets`` lists stars, one a line (name ra dec), whose light curves on the visit images are
    published too. ``datasets`` is the manager's configuration of datasets of frames that are reduced and
    published, `None` for none.
    """

    folder: Path
    refcat: Path
    subset: str
    band_nights: dict[str, tuple[str, ...]]
    science: dict[str, tuple[str, ...]]
    description: str
    source: str = "raw"
    first: tuple[str, ...] = ()
    calibrations: str = ""
    truth: Path | None = None
    n_targets: int = 20
    targets: str = ""
    datasets: Path | None = None

    @property
    def template_type(self) -> str:
        """How templates are combined."""
        return facility().template_type

    @property
    def refcats(self) -> str:
        """Reference catalogues: that of positions, and one of magnitudes if there is a ``ps1`` beside it."""
        better = self.refcat.parent / "ps1"
        return f"{facility().refcat}={self.refcat}" + (f", ps1={better}" if better.is_dir() else "")

    @property
    def proc_type(self) -> str:
        """What the collections of the visits are called after."""
        return {"raw": "drp", "instcal": "instcal"}[self.source]

    @property
    def nights(self) -> list[str]:
        """All nights with visits, in order."""
        return sorted({night for nights in self.band_nights.values() for night in nights})

    @property
    def rounds(self) -> list[list[str]]:
        """All nights, in groups: those that others may borrow from come first."""
        later = [night for night in self.nights if night not in self.first]
        return [nights for nights in (sorted(self.first), later) if nights]

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
    from tololo.services.demo_datasets import simulate_datasets
    from tololo.simulation.raw import simulate_raw_nights
    from tololo.simulation.raw_plan import RawNight, RawPlan

    nights = (RawNight(20190305, objects=3), RawNight(20190402, objects=2, transients=True))
    plan = RawPlan(nights=nights)
    truth = simulate_raw_nights(folder, plan, processes=os.cpu_count() or 1)
    n_transients = len(set(truth.transients["id"].tolist()))
    return DemoPlan(
        folder=truth.images,
        refcat=truth.reference,
        subset=facility().template_subset,
        band_nights=_by_band((str(row["band"]), row["night"]) for row in truth.exposures),
        science=_by_band((str(row["band"]), row["night"]) for row in truth.exposures if row["science"]),
        description=f"Simulated raws: {len(truth.calibrations)} biases and dome flats and "
        f"{len(truth.exposures)} science exposures of {len(plan.detectors)} CCDs, "
        f"with {n_transients} transients, in {folder}",
        calibrations=str(truth.curated),
        truth=folder,
        n_targets=10,
        datasets=simulate_datasets(folder.parent / "simulated_datasets"),
    )


def plan_data(folder: Path, refcat: str) -> DemoPlan:
    """Plan the nights of a folder of raws, or of InstCal files if it has no raws.

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
    from tololo.services.demo_data import look_at

    folder = folder.expanduser().resolve()
    data = look_at(folder)
    for note in data.notes:
        print(f"  {note}")
    band_nights = _by_band((sighting.band, sighting.night) for sighting in data.sightings)
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
        description=f"{len(data.sightings)} exposures ({data.source}) of {len(band_nights)} bands "
        f"in {folder}",
        source=data.source,
        first=tuple(str(night) for night in data.lenders),
        calibrations=_beside(folder, "curated"),
        targets=data.covered_stars(stars),
    )


def _by_band(exposures: Iterable[tuple[str, int | str]]) -> dict[str, tuple[str, ...]]:
    """Return the nights of each band, of exposures by band and night."""
    nights: dict[str, set[str]] = {}
    for band, night in exposures:
        nights.setdefault(band, set()).add(str(night))
    return {band: tuple(sorted(value)) for band, value in sorted(nights.items())}


def _reference_stars(folder: Path, refcat: str) -> Path:
    found = str(Path(refcat).expanduser()) if refcat else _beside(folder, "gaia")
    if not found or not Path(found).exists():
        where = found or f"{folder / 'gaia'} or {folder.parent / 'gaia'}"
        raise BadInputError("There are no reference stars", where, "give REFCAT=<folder>")
    return Path(found).resolve()


def _beside(folder: Path, name: str) -> str:
    """Return a folder of that name in the data or beside it; empty if there is none."""
    return next((str(path) for path in (folder / name, folder.parent / name) if path.is_dir()), "")

"""The truth of a simulation of raw nights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from tololo.simulation.raw_frames import Frames
from tololo.simulation.raw_readout import Events
from tololo.simulation.sky import Psf, wcs_of
from tololo.simulation.truth import TABLES, Truth

REFERENCE_PS1 = Path("ps1", "chunk-00000.fits")
RAW_TABLES = (*TABLES, "calibrations", "amplifiers", "crosstalk", "views")
CURATED = Path("curated")

_TERMS = (("fwhm", 4), ("g1", 3), ("g2", 3))


@dataclass(frozen=True)
class RawTruth(Truth):
    """What was put into the raws.

    Attributes
    ----------
    folder : `pathlib.Path`
        Holds ``exposures/`` (raws), ``gaia/`` and ``ps1/`` (reference catalogues), ``curated/`` (the camera's
        crosstalk, as `repo_bootstrap` takes it), ``truth/`` (tables as ECSV; the stars' pixels as Parquet;
        frames of the detectors as FITS; events of the exposures as NPZ).
    stars, galaxies, transients : `astropy.table.Table`
        As in `Truth`.
    exposures : `astropy.table.Table`
        Science exposures: the columns of `Truth` (``zero_point`` is the AB magnitude of 1 electron, where the
        flat field is 1 and for stars of the colour term's pivot; ``sky`` in electrons at the centre of the
        field), ra, dec, header_ra, header_dec, turn (degrees), transparency_x, transparency_y, sky_x, sky_y
        (changes per 225 mm of the focal plane), caldat, object, fault.
    calibrations : `astropy.table.Table`
        Biases and flats: visit, night (``day_obs``), planned (night), obstype, band, mjd_utc, exptime, level
        (of flats, electrons), caldat, image, fault.
    amplifiers : `astropy.table.Table`
        detector, name, amplifier, header_gain, gain (e-/ADU), header_read_noise, read_noise (e-),
        header_saturation (ADU), full_well (e-), level (ADU), crosstalk (share of the other amplifier's
        signal).
    crosstalk : `astropy.table.Table`
        victim, source (CCD and amplifier, such as ``28A``), share of the source's signal (ADU above the
        overscan) that the victim gets; both within and between CCDs.
    views : `astropy.table.Table`
        visit, detector, wcs (cards), terms of the PSF (pixels; see `~tololo.simulation.sky.Psf`), trail_a,
        trail_b, trail_c (line of a satellite, NaN without), trail_sigma (pixels), trail_peak (e-).
    """

    calibrations: Table
    amplifiers: Table
    crosstalk: Table
    views: Table

    @classmethod
    def read(cls, folder: Path) -> RawTruth:
        """Read the tables of a finished simulation."""
        return cls(folder, **{name: Table.read(folder / "truth" / f"{name}.ecsv") for name in RAW_TABLES})

    def write(self) -> None:
        """Write the tables into the folder."""
        (self.folder / "truth").mkdir(parents=True, exist_ok=True)
        for name in RAW_TABLES:
            getattr(self, name).write(self.folder / "truth" / f"{name}.ecsv", overwrite=True)
        coefficients: dict[str, dict[str, float]] = {}
        for row in self.crosstalk:
            coefficients.setdefault(str(row["victim"]), {})[str(row["source"])] = float(row["share"])
        version = {"source": "simulation", "coefficients": coefficients}
        self.curated.mkdir(exist_ok=True)
        (self.curated / "crosstalk.yaml").write_text(yaml.safe_dump({"versions": [version]}))

    def sources(self, visit: int | None = None, detector: int | None = None) -> Table:
        """Return where the stars are: id, visit, detector, x, y (zero-based pixels), electrons (expected).

        Electrons are those of a flat field of 1; the colour term is in them.
        """
        table = Table.read(self.folder / "truth" / "sources.parquet")
        keep = np.ones(len(table), bool)
        for name, value in (("visit", visit), ("detector", detector)):
            if value is not None:
                keep &= np.asarray(table[name]) == value
        return table[keep]

    @property
    def curated(self) -> Path:
        """Folder of curated calibrations: what would be known of the camera."""
        return self.folder / CURATED

    @property
    def reference_ps1(self) -> Path:
        """Reference catalogue as PS1's, a FITS table with the columns of LSST's shards."""
        return self.folder / REFERENCE_PS1

    def frames(self, detector: int) -> Frames:
        """Return bias, flats and defects of a detector."""
        return Frames.read(frames_path(self.folder, detector))

    def events(self, visit: int, detector: int) -> Events:
        """Return what happened to single pixels of a detector in an exposure."""
        with np.load(events_path(self.folder, visit, detector)) as arrays:
            return Events(**{name: arrays[name] for name in Events.__dataclass_fields__})

    def wcs(self, visit: int, detector: int) -> WCS:
        """Return the true WCS of a detector in a science exposure: zero-based pixels to ICRS."""
        return wcs_of(fits.Header.fromstring(str(self._view(visit, detector)["wcs"]), sep="\n"))

    def psf(self, visit: int, detector: int) -> Psf:
        """Return the true PSF of a detector in a science exposure."""
        row = self._view(visit, detector)
        terms = {name: tuple(float(row[f"{name}_{k}"]) for k in range(n)) for name, n in _TERMS}
        return Psf(**terms)  # type: ignore[arg-type]

    def _view(self, visit: int, detector: int) -> Table.Row:
        rows = (np.asarray(self.views["visit"]) == visit) & (np.asarray(self.views["detector"]) == detector)
        return self.views[int(np.flatnonzero(rows)[0])]


def psf_terms(psf: Psf) -> dict[str, float]:
    """Return the columns of `RawTruth.views` that hold a PSF."""
    return {f"{name}_{k}": getattr(psf, name)[k] for name, n in _TERMS for k in range(n)}


def frames_path(folder: Path, detector: int) -> Path:
    """Return where the frames of a detector are kept."""
    return folder / "truth" / "detectors" / f"{detector:02d}.fits.fz"


def events_path(folder: Path, visit: int, detector: int) -> Path:
    """Return where the events of a detector in an exposure are kept."""
    return folder / "truth" / "events" / f"{visit}_{detector:02d}.npz"


def write_events(folder: Path, visit: int, detector: int, events: Events) -> None:
    """Write the events of a detector in an exposure."""
    path = events_path(folder, visit, detector)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **vars(events))

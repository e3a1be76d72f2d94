"""What each side of `make bench NAME=night` has made, held against the truth."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from lsst.images import VisitImage
from night_field import DETECTOR, Field
from night_peers import MATCHED
from night_quality import (
    EDGE,
    STAMP,
    Bools,
    Floats,
    Stars,
    blank_pulls,
    cosmic_rays,
    detection,
    nearest,
    photometry,
    places,
    psf_residuals,
)
from numpy.typing import NDArray
from scipy import ndimage

from tololo.reduction.formats.images import planes_of
from tololo.reduction.formats.masks import BIT, UNUSABLE
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.references import References

type Scores = dict[str, dict[str, Any]]
"""Figures by step."""


@dataclass(frozen=True)
class Truth:
    """What was put into the CCD, in the form that scoring needs.

    ``usable`` says which stars photometry is judged by; ``galaxies`` are x, y and reach; ``hurt`` are pixels
    of defects and of full wells; ``noise`` that of the sky, e-.
    """

    field: Field
    stars: Stars
    magnitude: Floats
    usable: Bools
    galaxies: tuple[Floats, Floats, Floats]
    charge: NDArray[np.float32]
    hurt: Bools
    noise: float
    shape: tuple[int, int]
    references: References

    @classmethod
    def of(cls, field: Field) -> Truth:
        """Gather it from the tables of the simulation."""
        truth, visit = field.truth, field.visit
        raw, (exposure,), table = field.raw, truth.exposures, truth.sources(visit, DETECTOR)
        read_noise = np.mean([amplifier.read_noise for amplifier in raw.amplifiers])
        noise = float(np.sqrt(exposure["sky"] + read_noise**2))
        x, y, electrons = (np.asarray(table[name], float) for name in ("x", "y", "electrons"))
        stars = Stars.on(x, y, electrons, truth.psf(visit, DETECTOR), noise, raw.shape)
        wcs, events = truth.wcs(visit, DETECTOR), truth.events(visit, DETECTOR)
        galaxies = truth.galaxies
        at = wcs.all_world2pix(np.asarray(galaxies["ra"]), np.asarray(galaxies["dec"]), 0)
        charge = np.zeros(raw.shape, np.float32)
        charge[tuple(events.cosmic_rays.T)] = events.charge
        hurt = truth.frames(DETECTOR).defects.copy()
        for pixels in (events.saturated, events.bled):
            hurt[tuple(pixels.T)] = True
        rows, columns = np.nonzero(hurt)
        ny, nx = raw.shape
        inside = (x > EDGE) & (x < nx - EDGE) & (y > EDGE) & (y < ny - EDGE)
        spoilt = nearest(x, y, columns.astype(float), rows.astype(float))[0] < 2 * field.fwhm
        return cls(
            field,
            stars,
            float(exposure["zero_point"]) - 2.5 * np.log10(electrons),
            stars.lonely() & inside & ~spoilt,
            (at[0], at[1], 6 + 3 * np.asarray(galaxies["radius"]) / 0.2623),
            charge,
            ndimage.binary_dilation(hurt, iterations=2),
            noise,
            raw.shape,
            field.references(),
        )

    @property
    def possible(self) -> Bools:
        """Tell which reference stars are on the CCD."""
        x, y = self.field.truth.wcs(self.field.visit, DETECTOR).all_world2pix(
            self.references.ra, self.references.dec, 0
        )
        ny, nx = self.shape
        return np.asarray((x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5))

    def score_places(self, x: Floats, y: Floats, wcs: WCS, matched: int) -> dict[str, Any]:
        """Judge an astrometric solution."""
        true = self.field.truth.wcs(self.field.visit, DETECTOR)
        possible = int(self.possible.sum())
        yields = {"matched": matched, "possible": possible, "match_yield": round(matched / possible, 4)}
        return yields | places(x, y, wcs, true, self.stars, self.usable, self.shape)

    def score_stars(self, x: Floats, y: Floats, magnitudes: dict[str, Floats]) -> dict[str, Any]:
        """Judge detections and their calibrated magnitudes of several kinds."""
        result = detection(x, y, self.stars, self.galaxies, self.shape)
        for name, magnitude in magnitudes.items():
            result[name] = photometry(x, y, magnitude, self.stars, self.magnitude, self.usable)
        return result

    def score_psf(self, model: Any) -> dict[str, Any]:
        """Judge a PSF model."""
        return psf_residuals(model, self.field.truth.psf(self.field.visit, DETECTOR), self.shape)

    def score_rays(self, mask: Bools) -> dict[str, Any]:
        """Judge a mask of cosmic rays, away from defects and saturated stars."""
        return cosmic_rays(mask, self.charge, self.noise, ~self.hurt)


def score_ours(truth: Truth, steps: dict[str, str]) -> Scores:
    """Judge what the quantum has written; ``steps`` names the steps that the figures go to."""
    outputs = truth.field.outputs
    (path,) = outputs.glob("visit_image/**/*.fits")
    (table,) = outputs.glob("single_visit_star/**/*.parq")
    stars, image = Table.read(table), VisitImage.read(str(path))
    planes, psf = planes_of(image), from_piff(image.psf)
    x, y = (np.asarray(stars[name], float) for name in ("x", "y"))
    with fits.open(path) as hdus:
        wcs = WCS(hdus["IMAGE"].header)

    def stamp(at_x: float, at_y: float) -> Floats:
        return _cut(psf.kernel(at_x, at_y))

    with np.errstate(invalid="ignore", divide="ignore"):
        magnitudes = {
            name: 31.4 - 2.5 * np.log10(np.asarray(stars[f"{name}Flux"], float))
            for name in ("psf", "ap", "kron")
        }
    matched = len(set(np.asarray(stars["refId"])[np.asarray(stars["refId"]) > 0]))
    everything = (
        np.concatenate([truth.stars.x, truth.galaxies[0]]),
        np.concatenate([truth.stars.y, truth.galaxies[1]]),
    )
    return {
        steps["stars"]: truth.score_stars(x, y, magnitudes),
        steps["psf"]: truth.score_psf(stamp),
        steps["astrometry"]: truth.score_places(x, y, wcs, matched),
        steps["rays"]: truth.score_rays((planes.bits & BIT["COSMIC_RAY"]) != 0),
        steps["isr"]: blank_pulls(planes.image, planes.variance, (planes.bits & UNUSABLE) != 0, *everything),
        steps["write"]: {"bytes": path.stat().st_size},
    }


def score_peers(truth: Truth, folder: Path, steps: dict[str, str]) -> dict[str, Scores]:
    """Judge what the peers have left in their folder, as far as they have; by peer and step."""
    found: dict[str, Scores] = {}
    if (folder / "mask.fits").exists():
        struck = (fits.getdata(folder / "mask.fits") & 2) != 0
        found["astroscrappy"] = {steps["rays"]: truth.score_rays(struck)}
    for peer, name in (("source-extractor", "image.ldac"), (MATCHED, "matched.ldac")):
        if (folder / name).exists():
            found[peer] = {steps["stars"]: _score_extracted(truth, _ldac(folder / name))}
    if (folder / "image.psf").exists():
        found["psfex"] = {steps["psf"]: truth.score_psf(PsfexModel.read(folder / "image.psf"))}
    for table in folder.glob("matches*.ldac"):  # scamp gives the name a number
        sources, wcs, matches = (
            _ldac(folder / "image.ldac"),
            read_head(folder / "image.head"),
            _ldac(table),
        )
        _, number = np.unique(matches["SOURCE_NUMBER"], return_counts=True)
        x, y = (np.asarray(sources[f"{axis}WIN_IMAGE"], float) - 1 for axis in "XY")
        found["scamp"] = {steps["astrometry"]: truth.score_places(x, y, wcs, int((number > 1).sum()))}
    packed = [folder / f"{name}.fits.fz" for name in ("image", "weight", "mask")]
    if all(path.exists() for path in packed):
        found["fpack"] = {steps["write"]: {"bytes": sum(path.stat().st_size for path in packed)}}
    return found


def _score_extracted(truth: Truth, sources: Table) -> dict[str, Any]:
    """Judge source-extractor's catalogue, calibrated with the same reference stars."""
    x, y = (np.asarray(sources[f"{axis}WIN_IMAGE"], float) - 1 for axis in "XY")
    wcs = truth.field.truth.wcs(truth.field.visit, DETECTOR)
    references = truth.references
    ref_x, ref_y = wcs.all_world2pix(references.ra, references.dec, 0)
    distance, row = nearest(ref_x, ref_y, x, y)
    clean = np.asarray(sources["FLAGS"])[row] == 0 if len(sources) else np.zeros(len(ref_x), bool)
    bright = np.isfinite(references.magnitude) & (references.error < 0.03) & (distance < 2) & clean
    fluxes = {"auto": np.asarray(sources["FLUX_AUTO"], float)}
    fluxes["ap"] = np.asarray(sources["FLUX_APER"], float)[:, 1]
    magnitudes = {}
    for name, flux in fluxes.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            raw = -2.5 * np.log10(flux)
        magnitudes[name] = raw + np.nanmedian(references.magnitude[bright] - raw[row[bright]])
    return truth.score_stars(x, y, magnitudes)


@dataclass(frozen=True)
class PsfexModel:
    """A PSF as psfex writes it: polynomials of degree 2 in x and y for each pixel of a grid of its own."""

    coefficients: Floats
    zero: tuple[float, float]
    scale: tuple[float, float]
    step: float

    @classmethod
    def read(cls, path: Path) -> PsfexModel:
        """Read a ``.psf`` file."""
        with fits.open(path) as hdus:
            header, data = hdus[1].header, np.asarray(hdus[1].data["PSF_MASK"][0], float)
        zero, scale = (
            (float(header[f"{card}1"]), float(header[f"{card}2"])) for card in ("POLZERO", "POLSCAL")
        )
        return cls(data, zero, scale, float(header["PSF_SAMP"]))

    def __call__(self, x: float, y: float) -> Floats:
        """Return the PSF at a zero-based position on `STAMP` x `STAMP` pixels of the detector."""
        u, v = (
            (at + 1 - zero) / scale for at, zero, scale in zip((x, y), self.zero, self.scale, strict=True)
        )
        terms = np.array([1, u, u * u, v, u * v, v * v])
        grid = np.tensordot(terms, self.coefficients, 1)
        at = grid.shape[0] // 2 + (np.arange(STAMP) - STAMP // 2) / self.step
        return np.asarray(ndimage.map_coordinates(grid, np.meshgrid(at, at, indexing="ij"), order=5))


def read_head(path: Path) -> WCS:
    """Read the solution that scamp writes, whose comments are not all ASCII."""
    lines = path.read_text(errors="replace").splitlines()
    kept = [line for line in lines if not line.startswith(("HISTORY", "COMMENT", "END"))]
    return WCS(fits.Header.fromstring("\n".join(kept), sep="\n"))


def _cut(stamp: Floats) -> Floats:
    """Cut a centred stamp to `STAMP`, or surround it with nothing."""
    size = stamp.shape[0]
    if size < STAMP:
        return np.pad(stamp, (STAMP - size) // 2)
    first = (size - STAMP) // 2
    return stamp[first : first + STAMP, first : first + STAMP]


def _ldac(path: Path) -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # formats for display that FITS does not know
        with fits.open(path) as hdus:
            return Table(hdus["LDAC_OBJECTS"].data)

"""The peers of `make bench NAME=night`: the field's own programs on the same raw, masters and stars."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np
from astropy.io import fits
from astropy.table import Table
from night_field import Field
from night_warm import WarmProcess
from numpy.typing import NDArray

from tololo.reduction.formats.instcal_cards import wcs_cards
from tololo.reduction.formats.masks import BIT
from tololo.reduction.references import References

PACKAGES = ("astroscrappy==1.3.0", "ccdproc==2.5.1")
PROGRAMS = {
    "funpack": "libcfitsio-bin",
    "source-extractor": "source-extractor",
    "psfex": "psfex",
    "scamp": "scamp",
    "fpack": "libcfitsio-bin",
}
"""Program and the Debian package that it is in."""

PIXELS = {"ISR": "ccdproc", "cosmic rays": "astroscrappy", "files": "astropy.io.fits"}
"""What the warm process does, and with which package."""

MATCHED = "source-extractor, matched filter"
REFERENCES = "references.ldac"
APERTURES = (6, 10, 16)
VIGNETTE = 35
SIGMAS = 4.0

COLUMNS = (
    "X_IMAGE Y_IMAGE XWIN_IMAGE YWIN_IMAGE ERRAWIN_IMAGE ERRBWIN_IMAGE ERRTHETAWIN_IMAGE FLUX_AUTO "
    f"FLUXERR_AUTO FLUX_APER({len(APERTURES)}) FLUXERR_APER({len(APERTURES)}) FLUX_RADIUS ELONGATION "
    "SNR_WIN FLAGS"
)
PYRAMID = "CONV NORM\n1 2 1\n2 4 2\n1 2 1\n"
EXTRACT = (
    "-c /dev/null -PARAMETERS_NAME {columns} -FILTER_NAME {filter} -CATALOG_NAME {out} "
    f"-CATALOG_TYPE FITS_LDAC -PHOT_APERTURES {','.join(map(str, APERTURES))} -GAIN 1 "
    "-SATUR_LEVEL {saturation:.0f} -WEIGHT_TYPE MAP_WEIGHT -WEIGHT_IMAGE weight.fits "
    "-MEMORY_PIXSTACK 2000000 -VERBOSE_TYPE QUIET -DETECT_THRESH {threshold:.3f} -ANALYSIS_THRESH 1.5 "
    "-DETECT_MINAREA {area}"
)
PSFEX = (
    f"-c /dev/null -BASIS_TYPE PIXEL_AUTO -PSF_SIZE {VIGNETTE},{VIGNETTE} -PSF_SAMPLING 0.0 "
    "-PSFVAR_DEGREES 2 -PSFVAR_KEYS X_IMAGE,Y_IMAGE -PSFVAR_GROUPS 1,1 -SAMPLE_MINSN 30 -CHECKPLOT_DEV NULL "
    "-CHECKPLOT_TYPE NONE -CHECKIMAGE_TYPE NONE -WRITE_XML N -VERBOSE_TYPE QUIET -NTHREADS 1"
)
SCAMP = (
    "-c /dev/null -ASTREF_CATALOG FILE -ASTREFCAT_NAME references.ldac -ASTREFCENT_KEYS X_WORLD,Y_WORLD "
    "-ASTREFERR_KEYS ERRA_WORLD,ERRB_WORLD,ERRTHETA_WORLD -ASTREFMAG_KEY MAG -ASTREFMAGERR_KEY MAGERR "
    "-ASTREFOBSDATE_KEY OBSDATE -DISTORT_DEGREES 3 -CHECKPLOT_DEV NULL -CHECKPLOT_TYPE NONE -WRITE_XML N "
    "-NTHREADS 1 -SOLVE_PHOTOM N -POSITION_MAXERR 1.0 -POSANGLE_MAXERR 2.0 -CROSSID_RADIUS 2.0 "
    "-VERBOSE_TYPE QUIET"
)
CHAIN = ("funpack", *PIXELS.values(), "source-extractor", "psfex", "scamp", "fpack")
"""What makes of a raw what our quantum makes of it; `MATCHED` is beside it."""

CALLS = {
    "ccdproc": "subtract_overscan, subtract_bias, gain_correct, create_deviation, flat_correct",
    "astroscrappy": "detect_cosmics(niter=4, sepmed=True)",
    "astropy.io.fits": "read raw.fits; write image.fits, weight.fits, mask.fits",
}
COMMANDS = {
    "funpack": "-O raw.fits {raw}",
    "source-extractor": "image.fits " + EXTRACT,
    MATCHED: "image.fits " + EXTRACT,
    "psfex": f"image.ldac {PSFEX}",
    "scamp": f"image.ldac {SCAMP}",
    "fpack": "image.fits weight.fits mask.fits",
}


class Peers:
    """The peers at work in a folder.

    Parameters
    ----------
    folder : `pathlib.Path`
        For what they read, write and are installed into.
    field : `Field`
        What they reduce.

    Attributes
    ----------
    left_out : `dict` [`str`, `str`]
        Why peers are not there.
    """

    def __init__(self, folder: Path, field: Field) -> None:
        folder.mkdir()
        self.folder, self.field = folder, field
        self.left_out: dict[str, str] = {}
        self._programs: dict[str, str] = {}
        self._pixels: WarmProcess | None = None
        self._write_inputs()
        self._install()

    def close(self) -> None:
        """End the warm process."""
        if self._pixels:
            self._pixels.close()

    def run(self) -> Iterator[tuple[str, float, float]]:
        """Reduce the raw once.

        Yields
        ------
        name, cpu, wall : `str`, `float`, `float`
            Of each peer in turn; those that are not there or fail, and what needs their results, are left
            out.
        """
        for old in (*self.folder.glob("*.fits"), *self.folder.glob("*.fz"), *self.folder.glob("*.ldac")):
            if old.name != REFERENCES:
                old.unlink()
        if "funpack" not in self._programs:
            return
        yield "funpack", *self._execute("funpack")
        if self._pixels is None:
            return
        for step, (cpu, wall) in self._pixels.ask().items():
            yield PIXELS[step], cpu, wall
        for name in ("source-extractor", "psfex", "scamp", "fpack", MATCHED):
            needed = (name, "source-extractor") if name in ("psfex", "scamp") else (name,)
            if not all(program(other) in self._programs for other in needed):
                continue
            try:
                spent = self._execute(name)
            except RuntimeError as error:
                self.left_out[name] = str(error)
                del self._programs[program(name)]
            else:
                yield name, *spent

    def more(self) -> None:
        """Let scamp tell which stars it has matched, which is not counted."""
        if "scamp" in self._programs and (self.folder / "image.head").exists():
            self._execute("scamp", "-FULLOUTCAT_TYPE FITS_LDAC -FULLOUTCAT_NAME matches.ldac")

    def command(self, name: str) -> str:
        """Return a peer's command line."""
        if name in PIXELS.values():
            return CALLS[name]
        kernel = gaussian(self.field.fwhm)
        matched = name == MATCHED
        arguments = COMMANDS[name].format(
            raw=self.field.path,
            columns="plain.param" if matched else "stamps.param",
            filter="matched.conv" if matched else "pyramid.conv",
            out="matched.ldac" if matched else "image.ldac",
            saturation=self.saturation,
            # Smoothing lowers the noise by this factor, and the threshold counts in that of single pixels.
            threshold=SIGMAS * math.sqrt(float((kernel**2).sum())) if matched else 1.5,
            area=1 if matched else 5,
        )
        return f"{program(name)} {arguments}"

    @property
    def saturation(self) -> float:
        """Electrons above the sky's zero that every pixel can tell from a full well."""
        raw = self.field.raw
        full = [(a.saturation - float(np.median(raw.pixels[a.overscan]))) * a.gain for a in raw.amplifiers]
        return 0.9 * min(full)  # the flat field changes it from pixel to pixel

    def _execute(self, name: str, more: str = "") -> tuple[float, float]:
        arguments = [self._programs[program(name)], *self.command(name).split()[1:], *more.split()]
        log = self.folder / "programs.log"
        options = {"cwd": self.folder, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        code, cpu, wall = measure.cost(lambda: measure.run(arguments, log, **options))
        if code:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"{name} has ended with {code}:\n{tail}")
        return cpu, wall

    def _install(self) -> None:
        for name, package in PROGRAMS.items():
            if path := measure.debian(name, package):
                self._programs[name] = path
            else:
                self.left_out[name] = f"it is not there and cannot be installed (Debian: {package})"
        try:
            python = make_environment(self.folder / "environment")
        except subprocess.CalledProcessError as error:
            why = f"it cannot be installed from PyPI: {error.stderr.decode(errors='replace').strip()[-300:]}"
            self.left_out |= dict.fromkeys(("ccdproc", "astroscrappy"), why)
            return
        self._pixels = WarmProcess(
            [str(python), str(Path(__file__).with_name("night_pixels.py")), str(self.folder)],
            self.folder / "pixels.log",
            {**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def _write_inputs(self) -> None:
        """Write masters, header and reference stars, and how source-extractor is to look for sources."""
        raw, (bias, flat) = self.field.raw, self.field.masters()
        both = raw.amplifiers
        np.savez(
            self.folder / "arrays.npz",
            bias=bias.image,
            flat=flat.image,
            defects=((bias.bits | flat.bits) & (BIT["BAD"] | BIT["NO_DATA"])) != 0,
            saturation=self.saturation,
            amplifiers=[(a.gain, a.read_noise, a.saturation) for a in both],
            rows=[(a.data[0].start, a.data[0].stop) for a in both],
            columns=[(a.data[1].start, a.data[1].stop) for a in both],
            overscan=[(a.overscan[1].start, a.overscan[1].stop) for a in both],
            target=[(a.target[1].start, a.target[1].stop) for a in both],
        )
        cards = fits.Header(wcs_cards(dict(raw.header), str(self.field.path)))
        cards["EXPTIME"] = float(raw.header["EXPTIME"])
        cards.totextfile(self.folder / "header.txt")
        write_ldac(self.folder / REFERENCES, self.field.references(), self.field.year, cards)
        columns = "\n".join(COLUMNS.split())
        (self.folder / "plain.param").write_text(f"{columns}\n")
        (self.folder / "stamps.param").write_text(f"{columns}\nVIGNET({VIGNETTE},{VIGNETTE})\n")
        (self.folder / "pyramid.conv").write_text(PYRAMID)
        lines = (" ".join(f"{value:.6f}" for value in line) for line in gaussian(self.field.fwhm))
        (self.folder / "matched.conv").write_text("\n".join(["CONV NORM", *lines, ""]))


def program(name: str) -> str:
    """Return the program of a peer, such as ``source-extractor`` of `MATCHED`."""
    return name.partition(",")[0]


def make_environment(folder: Path) -> Path:
    """Install ccdproc and astroscrappy into an environment of their own; return its Python."""
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    for command in (
        [*uv, "venv", "-q", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "-q", "--python", str(python), *PACKAGES],
    ):
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return python


def gaussian(fwhm: float, size: int = 9) -> NDArray[np.float64]:
    """Return a Gaussian of unit sum on so many pixels."""
    axis = np.arange(size) - size // 2
    profile = np.exp(-4 * math.log(2) * np.square(axis / fwhm))
    return np.asarray(np.outer(profile, profile) / profile.sum() ** 2)


def write_ldac(path: Path, references: References, year: float, cards: fits.Header) -> None:
    """Write reference stars as scamp reads them."""
    number = len(references)
    known = np.isfinite(references.magnitude)
    table = Table(
        {
            "X_WORLD": references.ra,
            "Y_WORLD": references.dec,
            "ERRA_WORLD": references.place_error / 3600,
            "ERRB_WORLD": references.place_error / 3600,
            "ERRTHETA_WORLD": np.zeros(number),
            "MAG": np.where(known, references.magnitude, references.brightness),
            "MAGERR": np.where(known, references.error, 0.1),
            "OBSDATE": np.full(number, year),
        }
    )
    text = cards.tostring(endcard=True, padding=True)
    header = fits.Column("Field Header Card", f"{len(text)}A", array=np.array([text]))
    field = fits.BinTableHDU.from_columns([header], name="LDAC_IMHEAD")
    fits.HDUList([fits.PrimaryHDU(), field, fits.BinTableHDU(table, name="LDAC_OBJECTS")]).writeto(path)

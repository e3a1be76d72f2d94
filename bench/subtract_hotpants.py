"""hotpants on the pair of `make bench NAME=subtract`, where a binary is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import numpy as np
import subtract_pair
from astropy.io import fits
from subtract_scores import score

LEVELS = "-tu 59000 -tl -500 -iu 59000 -il -500"
OPTIONS = f"{LEVELS} -c t -n i -v 0 -r 10 -rss 15 -nsx 8 -nsy 16 -ng 3 4 0.7 2 1.5 2 3.0"


class Hotpants:
    """The pair in files, and the program.

    Parameters
    ----------
    path : `str`
        The binary.
    folder : `pathlib.Path`
        For files.
    pair : `subtract_pair.Pair`
    """

    def __init__(self, path: str, folder: Path, pair: subtract_pair.Pair) -> None:
        self._path, self._folder, self._pair = path, folder, pair
        planes = {
            "sci": pair.science,
            "tmpl": pair.template,
            "in": np.sqrt(pair.science_variance),
            "tn": np.sqrt(pair.template_variance),
            "mask": (pair.science_bad | pair.template_bad).astype(np.int16),
        }
        for name, plane in planes.items():
            fits.PrimaryHDU(plane).writeto(folder / f"{name}.fits")

    def run(self) -> tuple[str, float, float]:
        """Run it; return the command, processor and wall seconds."""
        for name in ("d", "n"):
            (self._folder / f"{name}.fits").unlink(missing_ok=True)
        files = {"-inim": "sci", "-tmplim": "tmpl", "-outim": "d", "-oni": "n", "-ini": "in", "-tni": "tn"}
        files |= {"-tmi": "mask", "-imi": "mask"}
        command = [self._path]
        for option, name in files.items():
            command += [option, str(self._folder / f"{name}.fits")]
        code, cpu, wall = measure.cost(
            lambda: measure.run([*command, *OPTIONS.split()], self._folder / "hotpants.log")
        )
        if code or not (self._folder / "d.fits").exists():
            raise RuntimeError(f"hotpants has ended with {code}; see {self._folder / 'hotpants.log'}")
        return f"hotpants {OPTIONS}", cpu, wall

    def worth(self) -> dict[str, Any]:
        """Score its last difference."""
        difference, noise = (fits.getdata(self._folder / f"{name}.fits") for name in ("d", "n"))
        bad = (np.abs(difference) < 1.1e-30) | ~(noise > 0) | self._pair.science_bad | self._pair.template_bad
        ny, nx = difference.shape
        psf = subtract_pair.model(subtract_pair.SCIENCE_FWHM).kernel(nx / 2, ny / 2)
        return score(difference, noise**2, bad, psf, self._pair.stars, self._pair.transients)

"""Simulated datasets with their configuration."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import Table

from tololo.simulation.timeseries import SeriesPlan, SeriesTruth, simulate_series

SMALL = SeriesPlan(n_frames=8, shape=(320, 320), n_stars=140, clouds={3: 0.8}, variables=2)
"""A minute's light curve: enough frames and stars for every step of a reduction."""


def make_dataset(root: Path, plan: SeriesPlan = SMALL, seed: int = 1, **photometry: Any) -> SeriesTruth:
    """Simulate a dataset and configure it."""
    truth = simulate_series(root, plan, seed)
    configure(truth, plan, **photometry)
    return truth


def configure(truth: SeriesTruth, plan: SeriesPlan = SMALL, label: str = "", **photometry: Any) -> None:
    """Write the configuration of a dataset; a key that is `None` is left out."""
    keys = {"aperture_arcsec": 2.5, "reference_catalog": str(truth.reference), **photometry}
    content = {
        "target": {"name": plan.target, "RA": str(plan.ra), "Dec": str(plan.dec)},
        "photometry": {key: value for key, value in keys.items() if value is not None},
        "tom": {"upload": False, "data_label": label},
    }
    (truth.folder / "reduction_config.yaml").write_text(yaml.safe_dump(content))


def files(folder: Path) -> list[Path]:
    """Return the frames of a dataset, by name."""
    return sorted(folder.glob("*.fits"))


def copied(folder: Path, to: Path, names: list[str] | None = None) -> Path:
    """Copy configuration and frames of a dataset, all or some."""
    to.mkdir(parents=True, exist_ok=True)
    for path in files(folder):
        if names is None or path.name in names:
            shutil.copy2(path, to / path.name)
    shutil.copy2(folder / "reduction_config.yaml", to / "reduction_config.yaml")
    return to


def edit(path: Path, drop: tuple[str, ...] = (), **cards: Any) -> None:
    """Change cards of a frame's science image (those that are `None` go), and drop HDUs."""
    with fits.open(path) as hdus:
        kept = fits.HDUList([hdu.copy() for hdu in hdus if hdu.name not in drop])
    for key, value in cards.items():
        name = key.replace("_", "-")
        if value is None:
            del kept["SCI"].header[name]
        else:
            kept["SCI"].header[name] = value
    kept.writeto(path, overwrite=True)


def residuals(table: Table, truth: SeriesTruth, star: int = 0) -> np.ndarray:
    """Return measured less true magnitudes of a star of the truth, row by row, by the frame's name."""
    rows = [list(truth.frames["image_id"]).index(name) for name in table["image_id"]]
    return np.asarray(table["magnitude"], float) - truth.magnitude[rows, star]

"""Catalogues to inject, and the pipelines that read them, for the tests of both kinds of exposures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.pipe.base import Pipeline
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from numpy.typing import NDArray

from tololo.facility.configuration import INCLUDE

PIPELINES = f"{INCLUDE}/pipelines/embedded"


def scattered(
    shape: tuple[int, int], spacing: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of a grid whose nodes are moved at random, so that none is on another."""
    ny, nx = shape
    y, x = np.mgrid[spacing // 2 : ny - spacing // 4 : spacing, spacing // 2 : nx - spacing // 4 : spacing]
    moved = random.uniform(-spacing / 4, spacing / 4, (2, x.size))
    return x.ravel() + moved[0], y.ravel() + moved[1]


def write(path: Path, ra: Any, dec: Any, mag: Any, band: str = "r", **more: Any) -> Path:
    """Write a catalogue as proc-decam's users have them."""
    columns = {"RA": ra, "DEC": dec, "MAG": mag, "BAND": np.full(len(mag), band)}
    Table(columns | more).write(path, format="ascii.csv", overwrite=True)
    return path


def run(repository: Path, pipeline: str, inputs: list[str], output: str, where: str = "") -> None:
    """Run a pipeline, or a subset of one, in this process."""
    with SimplePipelineExecutor.prep_butler(str(repository), inputs, output) as butler:
        executor = SimplePipelineExecutor.from_pipeline(
            Pipeline.from_uri(f"{PIPELINES}/{pipeline}"), where=where, butler=butler
        )
        executor.run(register_dataset_types=True)

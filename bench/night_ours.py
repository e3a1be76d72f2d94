"""Our side of `make bench NAME=night`: a warm process that runs one quantum as a worker of the site does.

For each line on its input it runs the quantum whose command line it was given, and answers with a line of
JSON: processor and wall seconds of the whole, and of its steps.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

READ_RAW, READ_BIAS, READ_FLAT, WRITE = "read raw", "read bias", "read flat", "write visit_image"
ISR, COSMIC_RAYS = "ISR", "cosmic rays"
BACKGROUND, DETECTION, PSF, PHOTOMETRY = "background", "detection", "PSF", "photometry"
ASTROMETRY, ZERO_POINT, TABLES, REST = "astrometry", "zero point", "write tables", "the rest of the quantum"


def _read(_: Any, ref: Any) -> str:
    name = (ref[0] if isinstance(ref, list) else ref).datasetType.name
    return {"raw": READ_RAW, "bias": READ_BIAS, "flat": READ_FLAT}.get(name, ASTROMETRY)


def _read_later(handle: Any, **_: Any) -> str:
    return _read(None, handle.ref)


def _write(_: Any, values: Any, ref: Any) -> str:
    return WRITE if ref.datasetType.name == "visit_image" else TABLES


FUNCTIONS: dict[str, str | Callable[..., str]] = {
    "lsst.pipe.base:QuantumContext.get": _read,
    "lsst.pipe.base:QuantumContext.put": _write,
    "lsst.daf.butler:DeferredDatasetHandle.get": _read_later,
    "tololo.reduction.references:references_on": ASTROMETRY,
    "tololo.reduction.isr:correct": ISR,
    "tololo.reduction.measurement:seeing_among_cosmic_rays": COSMIC_RAYS,
    "tololo.reduction.kernels.cosmic_rays:find_cosmic_rays": COSMIC_RAYS,
    "tololo.reduction.kernels.background:*": BACKGROUND,
    "tololo.reduction.kernels.detection:*": DETECTION,
    "tololo.reduction.kernels.psffit:*": PSF,
    "tololo.reduction.kernels.field_fit:*": PHOTOMETRY,
    "tololo.reduction.kernels.photometry:*": PHOTOMETRY,
    "tololo.reduction.kernels.kron:*": PHOTOMETRY,
    "tololo.reduction.astrometry:recognise": ASTROMETRY,
    "tololo.reduction.astrometry:solve": ASTROMETRY,
    "tololo.reduction.calibrate:zero_point_of": ZERO_POINT,
    "tololo.reduction.kernels.color_terms:fit_color_term": ZERO_POINT,
}
"""What belongs to which step: ``module:function`` (``*`` for all public ones that are not compiled), and the
step or what finds it from the arguments.

Choosing the reference stars counts as astrometry, as scamp does it itself, and the first look at the seeing,
which cosmic rays are told from stars by, as theirs.
"""


class Stopwatch:
    """Seconds by step; what is called within a step is that step's."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._busy = False

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Count the time of a block for a step."""
        if self._busy:
            yield
            return
        self._busy = True
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.setdefault(step, [0.0, 0.0])
            spent[0] += time.process_time() - cpu
            spent[1] += time.perf_counter() - wall
            self._busy = False

    def watch(self, name: str, step: str | Callable[..., str]) -> None:
        """Count the time of a function from now on, whatever name a module of the reduction has for it."""
        for owner, last in resolve(name):
            self._replace(owner, last, step)

    def _replace(self, owner: Any, last: str, step: str | Callable[..., str]) -> None:
        function = getattr(owner, last)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.measure(step(*arguments, **options) if callable(step) else step):
                return function(*arguments, **options)

        setattr(owner, last, timed)
        for key, other in list(sys.modules.items()):
            if key.startswith("tololo.reduction"):
                for local, value in list(vars(other).items()):
                    if value is function:
                        setattr(other, local, timed)


def resolve(name: str) -> list[tuple[Any, str]]:
    """Return the modules or classes that hold functions, and the functions' names in them."""
    module, _, path = name.partition(":")
    owner: Any = importlib.import_module(module)
    if path == "*":
        # Compiled functions are of another type: others that are compiled call them, past any wrapper.
        return [
            (owner, name)
            for name, value in vars(owner).items()
            if isinstance(value, FunctionType) and value.__module__ == module and not name.startswith("_")
        ]
    *outer, last = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return [(owner, last)]


def main(command: str, outputs: Path, log: Path) -> None:
    """Run the quantum once for each line of input."""
    answers = os.fdopen(os.dup(1), "w")
    from tololo.engine import warm
    from tololo.engine.local.worker import perform

    warm.up()
    for step in warm.steps():
        step()
    stopwatch = Stopwatch()
    importlib.import_module("tololo.reduction.formats.raw_formatter")
    for name, label in FUNCTIONS.items():
        stopwatch.watch(name, label)
    for _ in sys.stdin:
        for folder in outputs.iterdir():  # what an earlier run has written; else there would be nothing to do
            if not folder.name.endswith(("_config", "packages")):
                shutil.rmtree(folder)
        stopwatch.seconds.clear()
        cpu, wall = time.process_time(), time.perf_counter()
        answer = perform([command], log)
        whole = [time.process_time() - cpu, time.perf_counter() - wall]
        rest = [
            total - sum(part)
            for total, part in zip(whole, zip(*stopwatch.seconds.values(), strict=True), strict=True)
        ]
        answers.write(
            json.dumps({"exit": answer["exit"], "whole": whole, "steps": stopwatch.seconds | {REST: rest}})
        )
        answers.write("\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

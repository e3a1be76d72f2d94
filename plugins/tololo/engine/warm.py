"""What a warm process holds, and how a forked one takes leave of its parent."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from tololo.engine import recall

FIRST = (
    "lsst.daf.butler.direct_butler",
    "lsst.daf.butler.cli.butler",
    "lsst.daf.butler.cli.cmd",
    "lsst.daf.butler.datastores.fileDatastore",
    "lsst.daf.butler.formatters.json",
    "lsst.daf.butler.formatters.logs",
    "lsst.daf.butler.formatters.packages",
    "lsst.daf.butler.formatters.yaml",
    "lsst.daf.butler.registry.collections.synthIntKey",
    "lsst.daf.butler.registry.datasets.byDimensions",
    "lsst.daf.butler.registry.dimensions.static",
    "lsst.pipe.base.formatters.pexConfig",
    "lsst.pipe.base.all_dimensions_quantum_graph_builder",
    "lsst.pipe.base.quantum_graph.aggregator",
    "lsst.pipe.base.cli.cmd",
    "lsst.ctrl.mpexec.cli.pipetask",
    "lsst.ctrl.mpexec.cli.cmd",
    "lsst.ctrl.bps.drivers",
    "jsonschema",
    "tololo.engine.aggregation",
    "tololo.engine.driver",
    "tololo.engine.judgement",
    "tololo.engine.local.clustering",
    "tololo.engine.local.service",
    "tololo.engine.questions",
    "tololo.engine.submission",
)
"""What the first step of any run needs."""

KEPT_FROM_CHILDREN: list[int] = []
"""File descriptors that a forked process closes: locks that its parent holds."""

_log = logging.getLogger("tololo.warm")
_PACKAGE = Path(__file__).parents[1]


def up() -> None:
    """Import what the first step of any run needs."""
    global _loaded  # noqa: PLW0603
    _loaded = _fingerprint()
    # A pool of threads does not live through a fork, and a new one spins while it waits. One thread for each
    # process is what pipetask asks for as well.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    for name in FIRST:
        importlib.import_module(name)
    recall.remember()


def steps() -> Iterator[Callable[[], Any]]:
    """Give what else is worth holding, in small steps to be taken when nobody waits.

    Yields
    ------
    step : callable
        Imports one module of tasks, or loads one compiled kernel from numba's cache on disk (no kernel is
        compiled for it: only what an earlier process has left there).
    """
    from tololo.reduction import kernels, tasks

    for package in (tasks, kernels):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield _importer(module.name)
    for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
        for dispatcher in list(vars(sys.modules[module.name]).values()):
            for signature in _cached_signatures(dispatcher):
                yield _compiler(dispatcher, signature)
    yield recall.threads


def has_changed() -> bool:
    """Tell whether the code on disk is another than the one that `up` has imported."""
    return _fingerprint() != _loaded


def detach(log: str, title: str) -> None:
    """Make a forked process stand on its own: session, files, signals, and its name in lists of processes."""
    os.setsid()
    setproctitle(f"tololo {title}")
    for number in KEPT_FROM_CHILDREN:
        with contextlib.suppress(OSError):
            os.close(number)
    KEPT_FROM_CHILDREN.clear()
    # A notebook or a test puts something else in their place.
    sys.stdout, sys.stderr = sys.__stdout__ or sys.stdout, sys.__stderr__ or sys.stderr
    write_to(log)
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def write_to(log: str) -> None:
    """Send this process's output to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def become(log: str, environment: dict[str, str], folder: str) -> None:
    """Make a forked process what a fresh one with this environment would be."""
    detach(log, f"driver {folder}")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path in reversed(environment.get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(0, path)


def leave(code: int) -> None:
    """End a forked process without the parent's exit handlers."""
    logging.shutdown()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _fingerprint() -> tuple[int, int]:
    times = [path.stat().st_mtime_ns for path in _PACKAGE.rglob("*.py")]
    return len(times), max(times)


_loaded: tuple[int, int] = (0, 0)


def _importer(name: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(name)


def _compiler(dispatcher: Any, signature: Any) -> Callable[[], Any]:
    return lambda: dispatcher.compile(signature)


def _cached_signatures(dispatcher: Any) -> list[Any]:
    """List the signatures of a numba function that lie compiled on disk for this processor."""
    try:
        cache = dispatcher._cache
        index = cache._cache_file._load_index()
        magic = dispatcher.targetctx.codegen().magic_tuple()
    except AttributeError:
        return []  # no numba function, or another release of numba: it is loaded at its first call
    return [key[0] for key in index if key[1] == magic]

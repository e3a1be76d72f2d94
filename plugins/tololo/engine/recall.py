"""What the middleware looks up anew for every run or quantum, and a warm process remembers.

Nothing here changes an answer: it is bound to the content of the file that it comes from, or to what cannot
change while a process lives.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG_PATH = "DAF_BUTLER_CONFIG_PATH"
"""Where this names folders of further defaults, no configuration is remembered."""


def remember() -> None:
    """Let the middleware remember, in this process and in those that it forks."""
    packages: Any = importlib.import_module("lsst.utils.packages")
    butler: Any = importlib.import_module("lsst.daf.butler")
    # Every run records the installed packages three times; what is imported cannot change any more.
    packages.packages_distributions = functools.cache(packages.packages_distributions)
    packages._get_python_package_version = _versions(packages._get_python_package_version)
    packages.Packages.fromSystem()
    packages.getAllPythonDistributions()  # remembers by itself
    butler.DimensionUniverse()  # there is one of each version
    # A third of what a quantum costs is to read and merge the ten YAML files behind each butler.yaml.
    butler.ButlerConfig.__init__ = _configurations(butler.ButlerConfig.__init__)
    butler.Config._Config__initFromYaml = _resources(butler.Config._Config__initFromYaml)
    butler.ConfigSubset.__init__ = _subsets(butler.ConfigSubset.__init__)


def threads() -> None:
    """Find the libraries with threads once: every job limits them, and looks for them first."""
    importlib.import_module("threadpoolctl").ThreadpoolController()


def _versions(find: Callable[..., str | None]) -> Callable[..., str | None]:
    known: dict[str, str] = {}

    @functools.wraps(find)
    def version(name: str, namespace: str, dist_names: list[str], packages: dict[str, str]) -> str | None:
        if name not in known:
            if (found := find(name, namespace, dist_names, packages)) is None:
                return None  # it may be imported later
            known[name] = found
        packages[name] = known[name]
        return known[name]

    return version


def _resources(read: Callable[..., Any]) -> Callable[..., Any]:
    """Parse the defaults that are a part of an installed package once."""
    known: dict[str, bytes] = {}

    @functools.wraps(read)
    def init(self: Any, stream: Any) -> Any:
        name = getattr(stream, "name", "")
        if not str(name).startswith("resource://"):
            return read(self, stream)
        if name not in known:
            read(self, stream)
            known[name] = pickle.dumps(self._data)
        self._data = pickle.loads(known[name])
        return self

    return init


def _subsets(read: Callable[..., None]) -> Callable[..., None]:
    """Merge a part of a configuration with its defaults once."""
    known: dict[tuple[Any, ...], bytes] = {}

    @functools.wraps(read)
    def init(
        self: Any,
        other: Any = None,
        validate: bool = True,
        mergeDefaults: bool = True,
        searchPaths: Any = None,
    ) -> None:
        if searchPaths or not mergeDefaults or CONFIG_PATH in os.environ or not hasattr(other, "_data"):
            read(self, other, validate, mergeDefaults, searchPaths)
            return
        key = (type(self), validate, pickle.dumps(other._data))
        if key not in known:
            read(self, other, validate, mergeDefaults)
            known[key] = pickle.dumps(vars(self))
        vars(self).update(pickle.loads(known[key]))

    return init


def _configurations(read: Callable[..., None]) -> Callable[..., None]:
    known: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(read)
    def init(self: Any, other: Any = None, searchPaths: Any = None, without_datastore: bool = False) -> None:
        content = None if searchPaths or CONFIG_PATH in os.environ else _content(other)
        if content is None:
            read(self, other, searchPaths, without_datastore)
            return
        key = (*content, without_datastore)
        if key not in known:
            read(self, other, None, without_datastore)
            known.clear()  # a process works in one repository at a time
            known[key] = type(self)(self)
        else:
            read(self, known[key])  # copies it

    return init


def _content(other: Any) -> tuple[str, bytes] | None:
    """Return path and content of a local configuration that says all by itself."""
    if not isinstance(other, str | os.PathLike):
        return None
    path = Path(os.fspath(other))
    try:
        if path.is_dir():
            path /= "butler.yaml"
        content = path.read_bytes()
    except OSError:
        return None  # an alias, an address, or an error that is not ours to tell
    return None if b"include" in content else (str(path), content)

"""What a warm process remembers is what the middleware would find."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lsst.daf.butler import ButlerConfig, Config
from lsst.daf.butler.datastore import DatastoreConfig
from lsst.daf.butler.registry import RegistryConfig
from lsst.utils import packages

from tololo.engine import recall
from tololo.simulation.drill import make_drill_repository

type Remembered = Callable[..., Any]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recall") / "repository"
    make_drill_repository(root, detectors=1)
    return root


@pytest.fixture(scope="module")
def remembered() -> Iterator[Remembered]:
    """Do something in another process, which remembers."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=recall.remember) as pool:
        yield lambda task, *arguments: pool.apply_async(task, arguments).get(120)


def configurations(repository: Path) -> list[dict[str, Any]]:
    """Read a configuration, spoil what was returned, read it again, change the file, read it again."""
    first = ButlerConfig(str(repository))
    found = [first.toDict()]
    first["datastore", "root"] = "spoiled"
    del first["registry"]
    found.append(ButlerConfig(repository / "butler.yaml").toDict())
    found.append(ButlerConfig(repository).toDict())
    text = (repository / "butler.yaml").read_text()
    (repository / "butler.yaml").write_text(text.replace("gen3.sqlite3", "other.sqlite3"))
    found.append(ButlerConfig(str(repository)).toDict())
    (repository / "butler.yaml").write_text(text)
    return found


def test_a_configuration_is_the_one_in_the_file(repository: Path, remembered: Remembered) -> None:
    plain = configurations(repository)
    assert plain[0] != plain[-1]
    assert remembered(configurations, repository) == plain


def parts(repository: Path) -> list[dict[str, Any]]:
    """Read parts of two configurations, and spoil what was returned in between."""
    found = []
    for root in ("<butlerRoot>", "/elsewhere", "<butlerRoot>"):
        config = ButlerConfig(str(repository))
        config["datastore", "root"] = root
        for kind in (DatastoreConfig, RegistryConfig):
            part = kind(config)
            found.append(part.toDict())
            part["cls"] = "spoiled"
    with pytest.raises(KeyError):
        DatastoreConfig({"datastore": {"root": "there is no class"}}, mergeDefaults=False)
    return found


def test_a_part_of_a_configuration_is_that_of_its_whole(repository: Path, remembered: Remembered) -> None:
    plain = parts(repository)
    assert plain[0] == plain[4] != plain[2]
    assert remembered(parts, repository) == plain


def configuration_folder(repository: Path) -> str:
    ButlerConfig(str(repository))
    return str(ButlerConfig(str(repository)).configDir)


def test_it_knows_where_it_comes_from(repository: Path, remembered: Remembered) -> None:
    assert remembered(configuration_folder, repository) == str(ButlerConfig(str(repository)).configDir)


def with_an_include(folder: Path) -> list[str]:
    found = []
    for level in ("one", "two"):
        (folder / "root.yaml").write_text(f"root: {level}\n")
        found.append(ButlerConfig(folder / "butler.yaml")["datastore", "root"])
    return found


def test_a_configuration_in_several_files_is_not_remembered(tmp_path: Path, remembered: Remembered) -> None:
    (tmp_path / "butler.yaml").write_text("datastore: !include root.yaml\n")
    assert remembered(with_an_include, tmp_path) == ["one", "two"]


def missing(repository: Path) -> str:
    with pytest.raises(FileNotFoundError) as error:
        ButlerConfig(str(repository / "nowhere"))
    return str(error.value)


def test_a_missing_one_is_told_as_ever(repository: Path, remembered: Remembered) -> None:
    assert remembered(missing, repository) == missing(repository)


def resource() -> list[dict[str, Any]]:
    name = "resource://lsst.daf.butler/configs/datastores/fileDatastore.yaml"
    first = Config(name)
    found = [first.toDict()]
    first["datastore", "cls"] = "spoiled"
    return [*found, Config(name).toDict()]


def test_defaults_of_the_packages_are_those_of_the_packages(remembered: Remembered) -> None:
    first, second = remembered(resource)
    assert first == second == resource()[0]


def versions(folder: Path) -> dict[str, str]:
    """Import a module that is on no list of installed packages when they have been looked at once."""
    packages.getPythonPackages()
    (folder / "latecomer.py").write_text("__version__ = '7.5'\n")
    sys.path.insert(0, str(folder))
    importlib.import_module("latecomer")
    return packages.getPythonPackages()


def test_packages_that_are_imported_later_are_found(tmp_path: Path, remembered: Remembered) -> None:
    found = remembered(versions, tmp_path)
    assert found["latecomer"] == "7.5"
    assert found["numpy"] == np.__version__

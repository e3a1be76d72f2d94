"""A repository keeps alert packets as the files that they are, also one that was made without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from lsst.daf.butler import Butler, Config, DatasetType

from tololo.hooks.bootstrap import BootstrapPlan, create
from tololo.reduction.alerts import pack
from tololo.reduction.formats.alert_packets import STORAGE_CLASS, AlertPackets, configure


def without(root: Path) -> None:
    """Make a repository that has never heard of alerts."""
    create(BootstrapPlan(str(root)))
    path = root / "butler.yaml"
    content = yaml.safe_load(path.read_text())
    del content["storageClasses"]
    del content["datastore"]["formatters"][STORAGE_CLASS]
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("is_old", [False, True])
def test_packets_are_stored_as_they_are(tmp_path: Path, is_old: bool) -> None:
    root = tmp_path / "repository"
    if is_old:
        without(root)
    assert create(BootstrapPlan(str(root))) is not is_old
    packets = pack([])
    with Butler.from_config(str(root), writeable=True, run="r") as butler:
        butler.registry.registerDatasetType(
            DatasetType("alert_packets", (), STORAGE_CLASS, universe=butler.dimensions)
        )
        path = Path(butler.getURI(butler.put(packets, "alert_packets")).ospath)
    assert path.suffix == ".avro"
    assert path.read_bytes() == packets.content
    with Butler.from_config(str(root)) as butler:
        assert butler.get("alert_packets", collections="r") == packets


def test_a_repository_that_knows_them_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    create(BootstrapPlan(str(root)))
    before = (root / "butler.yaml").stat()
    create(BootstrapPlan(str(root)))
    after = (root / "butler.yaml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in root.glob(".*")] == []


def test_what_else_a_repository_is_told_stays(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    without(root)
    path = root / "butler.yaml"
    before = yaml.safe_load(path.read_text())
    create(BootstrapPlan(str(root)))
    after = yaml.safe_load(path.read_text())
    assert after.pop("storageClasses").keys() == {STORAGE_CLASS}
    del after["datastore"]["formatters"][STORAGE_CLASS]
    assert after == before


def test_a_configuration_is_changed_once() -> None:
    config = Config()
    assert [configure(config), configure(config)] == [True, False]


def test_a_file_that_is_no_avro_says_so() -> None:
    with pytest.raises(ValueError, match="header"):
        AlertPackets(b"something else").records()

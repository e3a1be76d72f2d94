from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.hooks import imports
from tololo.hooks.curation import CurationHook

from .curated import CALIB, NEW, OLD, build, build_empty, content, die, files, in_process, snapshot

CHAIN = "DECam/calib"
BUTLER = str(Path(sys.executable).with_name("butler"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A repository with biases in two stretches, its export, and an empty repository."""
    folder = tmp_path_factory.mktemp("made")
    source = CurationHook(build(folder / "source"))
    source.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    source.decertify(CALIB, "bias", "20190405", "detector = 2")
    source.certify("20190416/calib/bias", ["bias"], [NEW], "20190416..")
    source.write_chain(CHAIN, (), ["20190416/calib/bias", CALIB, "refcats"])
    source.export_calibrations(folder / "export", [CHAIN])
    return Path(source.repository), folder / "export", build_empty(folder / "target")


@pytest.fixture
def source(made: tuple[Path, Path, Path], tmp_path: Path) -> CurationHook:
    return CurationHook(shutil.copytree(made[0], tmp_path / "source"))


@pytest.fixture
def export(made: tuple[Path, Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "export"))


@pytest.fixture
def target(made: tuple[Path, Path, Path], tmp_path: Path) -> CurationHook:
    return CurationHook(shutil.copytree(made[2], tmp_path / "target"))


def test_an_export_is_written_once_and_verified(source: CurationHook, tmp_path: Path) -> None:
    folder = tmp_path / "carry" / "biases"
    planned = source.export_calibrations(folder, [CHAIN], dry_run=True)
    assert (planned.datasets, planned.files, planned.new) == (6, 6, True)
    assert not folder.parent.exists()
    report = source.export_calibrations(folder, [CHAIN])
    assert report == planned
    assert report.certifications == {"20190416/calib/bias": 3, CALIB: 4}
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert checked.stdout.count(": OK") == 6
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    assert source.export_calibrations(folder, [CHAIN]).new is False
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    assert [path.name for path in folder.parent.iterdir()] == ["biases"]


def test_a_killed_export_leaves_nothing_under_its_name(
    source: CurationHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("tololo.hooks.exports.checksum", die)
        process = in_process(lambda: source.export_calibrations(tmp_path / "e", [CHAIN]))
        process.join(120)
    assert (process.exitcode, (tmp_path / "e").exists()) == (9, False)
    assert source.export_calibrations(tmp_path / "e", [CHAIN]).new is True
    assert not (tmp_path / "e.new").exists()


def test_a_folder_with_something_else_is_refused(source: CurationHook, export: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(BadInputError, match="no export"):
        source.export_calibrations(tmp_path / "full", [CHAIN])
    before = files(export)
    with pytest.raises(BadInputError, match=r"another export.*3 are no longer.*name a new folder"):
        source.export_calibrations(export, [CALIB])
    source.certify(CALIB, ["bias"], [NEW], "20190405", "detector = 2")
    with pytest.raises(BadInputError, match=r"another export: 1 certifications are not in it"):
        source.export_calibrations(export, [CHAIN])
    assert files(export) == before
    with pytest.raises(NothingToDoError, match="of flat"):
        source.export_calibrations(tmp_path / "flats", [CHAIN], ["flat"])
    assert not (tmp_path / "flats").exists()


@pytest.mark.parametrize("how", ["copy", "direct"])
def test_import_twice_is_once(source: CurationHook, export: Path, target: CurationHook, how: str) -> None:
    before = snapshot(target.repository)
    planned = target.import_calibrations(export, how=how, dry_run=True)
    assert snapshot(target.repository) == before
    report = target.import_calibrations(export, how=how)
    assert (report.copied, report.known, report.certified) == (6, 0, {"20190416/calib/bias": 3, CALIB: 4})
    assert (planned.copied, planned.bytes, planned.certified) == (
        report.copied,
        report.bytes,
        report.certified,
    )
    assert content(target.repository)["associations"] == content(source.repository)["associations"]
    after = content(target.repository), files(Path(target.repository))
    again = target.import_calibrations(export, how=how)
    assert (again.copied, again.known, set((again.certified or {}).values())) == (0, 6, {0})
    assert (content(target.repository), files(Path(target.repository))) == after
    with target.open() as butler:
        got = butler.get("bias", instrument="DECam", detector=2, collections=NEW)
    assert got == {"level": 2, "run": NEW}


def test_a_chain_keeps_its_children(export: Path, target: CurationHook) -> None:
    target.write_chain(CHAIN, (), ["skymaps"])
    target.import_calibrations(export)
    children = content(target.repository)["collections"][CHAIN][1]
    assert children == ("20190416/calib/bias", CALIB, "refcats", "skymaps")


def test_the_middleware_reads_ours_and_we_read_its(
    source: CurationHook, export: Path, target: CurationHook, tmp_path: Path
) -> None:
    theirs = str(tmp_path / "theirs")
    subprocess.run(
        [BUTLER, "export-calibs", source.repository, theirs, CHAIN, "--transfer", "copy"],
        check=True,
        capture_output=True,
    )
    assert target.import_calibrations(theirs).copied == 6
    other = build_empty(tmp_path / "other")
    subprocess.run(
        [BUTLER, "import", str(other), str(export), "--transfer", "copy"], check=True, capture_output=True
    )
    assert content(other) == content(target.repository)
    assert CurationHook(other).import_calibrations(export).known == 6


@pytest.mark.parametrize("place", ["check_copies", "certify_pairs", "write_chains"])
def test_a_killed_import_is_completed(
    source: CurationHook, export: Path, target: CurationHook, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(imports, place)

    def die_if_it_counts(*arguments: Any, **options: Any) -> Any:
        if options.get("dry_run"):
            return original(*arguments, **options)
        return die()

    with monkeypatch.context() as patched:
        patched.setattr(imports, place, die_if_it_counts)
        process = in_process(lambda: target.import_calibrations(export))
        process.join(120)
    assert process.exitcode == 9
    report = target.import_calibrations(export)
    assert report.copied == (6 if place == "check_copies" else 0)
    assert content(target.repository)["associations"] == content(source.repository)["associations"]
    assert CHAIN in target.collections()


def test_a_spoilt_export_is_refused_and_nothing_is_written(export: Path, target: CurationHook) -> None:
    before = snapshot(target.repository)
    victim = next(export.rglob("bias_*.yaml"))
    whole, index = victim.read_bytes(), (export / "export.yaml").read_text()
    for spoil, says in (
        (
            lambda: victim.write_bytes(whole[::-1]),
            rf"{victim.name} of the export is spoilt.*SHA256SUMS, line",
        ),
        (victim.unlink, rf"{victim.name} of the export is missing"),
        (
            lambda: (export / "export.yaml").write_text(index[: len(index) // 2]),
            r"cannot be read.*export\.yaml",
        ),
        (lambda: (export / "export.yaml").write_text("version: 99.0.0\ndata: []\n"), "99.0.0"),
        ((export / "export.yaml").unlink, "no export"),
    ):
        spoil()
        with pytest.raises(BadInputError, match=says):
            target.import_calibrations(export)
        victim.write_bytes(whole)
        (export / "export.yaml").write_text(index)
    assert snapshot(target.repository) == before
    with pytest.raises(BadInputError, match="no export"):
        target.import_calibrations(export / "nowhere")
    with pytest.raises(BadInputError, match="'move' is not a way to copy"):
        target.import_calibrations(export, how="move")


def test_an_overlap_and_a_repository_that_does_not_fit_are_refused(
    export: Path, target: CurationHook, tmp_path: Path
) -> None:
    target.import_calibrations(export)
    target.decertify(CALIB, "bias", "..")
    target.certify(CALIB, ["bias"], [NEW], "20190402", "detector = 1")
    before = snapshot(target.repository)
    with pytest.raises(BadInputError, match=rf"detector 1.*{NEW}.*20190402"):
        target.import_calibrations(export)
    assert snapshot(target.repository) == before
    Butler.makeRepo(str(tmp_path / "bare"))
    with pytest.raises(BadInputError, match="no instrument DECam"):
        CurationHook(tmp_path / "bare").import_calibrations(export)
    other = CurationHook(build(tmp_path / "other"))
    with pytest.raises(BadInputError, match="another dataset bias of detector 1"):
        other.import_calibrations(export)

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tololo.facility.errors import BadInputError
from tololo.hooks.curation import CurationHook

from .curated import CALIB, NEW, OLD, build, in_process, snapshot

WORK: dict[str, Callable[[CurationHook, Path], Any]] = {
    "register_dataset_type": lambda hook, _: hook.register_dataset_type("dark", ["detector"], "DataFrame"),
    "ingest_files": lambda hook, folder: hook.ingest_files(
        "bias", "mine", folder / "list.csv", transfer="copy"
    ),
    "associate": lambda hook, _: hook.associate("tag", ["bias"], [OLD]),
    "disassociate": lambda hook, _: hook.disassociate("marked", ["bias"]),
    "certify": lambda hook, _: hook.certify("other", ["bias"], [OLD], "20190401"),
    "register_curated": lambda hook, folder: hook.register_curated(folder / "files"),
    "decertify": lambda hook, _: hook.decertify(CALIB, "bias", ".."),
    "write_chain": lambda hook, _: hook.write_chain("20190401/bias"),
    "prune": lambda hook, _: hook.prune([NEW], unlink=True),
    "transfer_datasets": lambda hook, folder: hook.transfer_datasets(
        CurationHook(folder / "other"), ["bias"], [OLD]
    ),
    "import_calibrations": lambda hook, folder: hook.import_calibrations(folder / "export"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository, another one, an export of that, and a table of files."""
    folder = tmp_path_factory.mktemp("made")
    hook = CurationHook(build(folder / "repo"))
    hook.certify(CALIB, ["bias"], [NEW], "20190401")
    hook.associate("marked", ["bias"], [NEW])
    other = CurationHook(build(folder / "other"))
    other.certify(CALIB, ["bias"], [NEW], "20200401")
    other.export_calibrations(folder / "export", [CALIB])
    (folder / "files").mkdir()
    (folder / "files" / "crosstalk.yaml").write_text(
        "versions:\n- {source: me, coefficients: {28A: {28B: 1.0e-4}}}\n"
    )
    (folder / "a.yaml").write_text("level: 7\n")
    (folder / "list.csv").write_text("file,detector\na.yaml,7\n")
    return folder


@pytest.fixture
def shared(made: Path) -> Iterator[Path]:
    """A copy that everyone may read, and write to unless a test forbids it."""
    folder = Path(tempfile.mkdtemp(prefix="tololo-shared-"))
    shutil.copytree(made, folder, dirs_exist_ok=True)
    permit(folder, 0o777)
    yield folder
    permit(folder, 0o777)
    shutil.rmtree(folder)


def permit(folder: Path, mode: int) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def refused(work: Callable[[], Any]) -> None:
    """Work in another process, as a user without rights, and be refused with a clear word."""

    def attempt() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            work()
        except BadInputError as error:
            os._exit(0 if "cannot be written to" in str(error) and "What to do" in str(error) else 2)
        os._exit(1)

    process = in_process(attempt)
    process.join(120)
    assert process.exitcode == 0


def load(hook: CurationHook, folder: Path) -> None:
    """Load what a user without rights may not read."""
    hook.certify(CALIB, ["bias"], [NEW], "20190401", dry_run=True)
    hook.ingest_files("bias", "mine", folder / "list.csv", transfer="copy", dry_run=True)
    hook.prune([NEW], unlink=True, dry_run=True)
    hook.register_curated(folder / "files", dry_run=True)


def test_a_repository_that_cannot_be_written_to_is_told(shared: Path) -> None:
    hook = CurationHook(shared / "repo")
    load(hook, shared)
    permit(shared, 0o555)
    before = snapshot(shared)
    for work in WORK.values():
        refused(lambda work=work: work(hook, shared))
    assert snapshot(shared) == before


def test_a_folder_of_it_that_cannot_be_written_to_is_told(shared: Path) -> None:
    hook = CurationHook(shared / "repo")
    load(hook, shared)
    before = snapshot(shared)
    run = Path(hook.repository) / NEW
    permit(run, 0o555)
    refused(lambda: hook.ingest_files("bias", NEW, shared / "list.csv", transfer="copy"))
    refused(lambda: hook.prune([NEW], unlink=True))
    assert snapshot(shared) == before


@pytest.mark.parametrize("name", WORK)
def test_a_repository_that_is_not_there_is_told(made: Path, name: str, tmp_path: Path) -> None:
    hook = CurationHook(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match=r"no Butler repository.*nowhere.*repo_bootstrap"):
        WORK[name](hook, made)
    assert not (tmp_path / "nowhere").exists()


def test_a_dataset_type_is_registered_once(made: Path, tmp_path: Path) -> None:
    hook = CurationHook(shutil.copytree(made / "repo", tmp_path / "repo"))
    dark: tuple[Any, ...] = ("dark", ["instrument", "detector"], "StructuredDataDict")
    before = snapshot(hook.repository)
    assert hook.register_dataset_type(*dark, is_calibration=True, dry_run=True) is True
    assert snapshot(hook.repository) == before
    assert hook.register_dataset_type(*dark, is_calibration=True) is True
    assert hook.register_dataset_type("dark", ["detector"], dark[2], is_calibration=True) is False
    after = snapshot(hook.repository)
    for change, says in (
        ({}, r"another form: StructuredDataDict of instrument, detector \(calibration\), not"),
        ({"name": "dark*"}, r"dark\*"),
        ({"dimensions": ["detektor"]}, r"no dimension 'detektor'.*detector"),
        ({"storage_class": "Dictionary"}, "no storage class 'Dictionary'"),
    ):
        asked = dict(zip(("name", "dimensions", "storage_class"), dark, strict=True)) | change
        with pytest.raises(BadInputError, match=says):
            hook.register_dataset_type(**asked)
    assert snapshot(hook.repository) == after

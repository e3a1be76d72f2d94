from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from astropy.table import Table
from lsst.daf.butler import Butler

from tololo.facility.errors import BadInputError
from tololo.hooks.curation import CurationHook

from .curated import content, die, in_process, snapshot

RUN = "DECam/bias/nominal"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files and the table that lists them."""
    files = tmp_path / "files"
    files.mkdir()
    for detector in range(10, 15):
        (files / f"b{detector}.yaml").write_text(f"level: {detector}\n")
    write(files, [(f"b{detector}.yaml", detector) for detector in range(10, 15)])
    return files


def write(folder: Path, rows: list[tuple[Any, ...]], names: tuple[str, ...] = ("file", "detector")) -> Path:
    path = folder / "list.ecsv"
    Table(rows=rows, names=names).write(path, overwrite=True)
    return path


@pytest.mark.parametrize("transfer", ["direct", "symlink", "hardlink", "copy"])
def test_twice_is_once(hook: CurationHook, folder: Path, transfer: str) -> None:
    before = sorted((path, path.read_bytes()) for path in folder.iterdir())
    for ingested, known in ((5, 0), (0, 5)):
        report = hook.ingest_files("bias", RUN, folder / "list.ecsv", transfer=transfer)
        assert (report.ingested, report.known, report.files) == (ingested, known, ingested)
        after = content(hook.repository)
    assert len([run for _, run in after["datasets"] if run == RUN]) == 5
    with hook.open() as butler:
        assert butler.get("bias", instrument="DECam", detector=12, collections=RUN) == {"level": 12}
    assert sorted((path, path.read_bytes()) for path in folder.iterdir()) == before


def test_more_rows_are_added_and_a_killed_ingest_is_completed(
    hook: CurationHook, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lsst.daf.butler.datastores.fileDatastore import FileDatastore

    write(folder, [("b10.yaml", 10), ("b11.yaml", 11)])
    hook.ingest_files("bias", RUN, folder / "list.ecsv", transfer="copy")
    write(folder, [(f"b{detector}.yaml", detector) for detector in range(10, 15)])
    with monkeypatch.context() as patched:
        patched.setattr(FileDatastore, "_register_datasets", die)
        process = in_process(lambda: hook.ingest_files("bias", RUN, folder / "list.ecsv", transfer="copy"))
        process.join(120)
    assert (process.exitcode, hook.count("bias", RUN)) == (9, 2)
    report = hook.ingest_files("bias", RUN, folder / "list.ecsv", transfer="copy")
    assert (report.ingested, report.known, hook.count("bias", RUN)) == (3, 2, 5)


def test_one_file_of_several_datasets_and_values_for_all(hook: CurationHook, folder: Path) -> None:
    write(folder, [("b10.yaml", "r DECam SDSS c0002 6415.0 1480.0")], ("file", "physical_filter"))
    report = hook.ingest_files("flat", RUN, folder / "list.ecsv", common={"detector": "7"})
    assert (report.ingested, report.files) == (1, 1)
    write(folder, [("b10.yaml", 8), ("b10.yaml", 9)])
    report = hook.ingest_files("bias", RUN, folder / "list.ecsv")
    assert (report.ingested, report.files) == (2, 1)
    with hook.open() as butler:
        assert butler.get("bias", instrument="DECam", detector=9, collections=RUN) == {"level": 10}


def test_a_dry_run_checks_and_writes_nothing(hook: CurationHook, folder: Path) -> None:
    before = snapshot(hook.repository)
    assert hook.ingest_files("bias", RUN, folder / "list.ecsv", dry_run=True).ingested == 5
    write(folder, [("b10.yaml", 10), ("absent.yaml", 11)])
    with pytest.raises(BadInputError, match=r"absent\.yaml.*row 2"):
        hook.ingest_files("bias", RUN, folder / "list.ecsv", dry_run=True)
    assert snapshot(hook.repository) == before


@pytest.mark.parametrize("transfer", ["direct", "copy"])
def test_another_file_in_the_place_is_refused(hook: CurationHook, folder: Path, transfer: str) -> None:
    hook.ingest_files("bias", RUN, folder / "list.ecsv", transfer=transfer)
    before = snapshot(hook.repository)
    (folder / "newer.yaml").write_text("level: 99\n")
    write(folder, [("b10.yaml", 10), ("newer.yaml", 11), ("b12.yaml", 20)])
    with pytest.raises(BadInputError, match=r"detector 11 is there from another file.*newer\.yaml"):
        hook.ingest_files("bias", RUN, folder / "list.ecsv", transfer=transfer)
    assert snapshot(hook.repository) == before


def test_a_bad_row_is_named_and_nothing_is_ingested(hook: CurationHook, folder: Path) -> None:
    before = snapshot(hook.repository)
    usual = ("file", "detector")
    for rows, columns, says in (
        ([("b10.yaml", 10), ("gone.yaml", 11)], usual, r"gone\.yaml.*row 2"),
        ([("b10.yaml", 10), ("b11.yaml", 10)], usual, "Rows 1 and 2 are the same"),
        ([("b10.yaml", 10), ("b11.yaml", 99)], usual, r"'detector': 99.*row 2"),
        ([("b10.yaml", "S29")], usual, r"S29.*row 1"),
        ([("b10.yaml", 10)], ("file", "ccd"), "'ccd' is no dimension of bias"),
        ([("b10.yaml", "DECam")], ("file", "instrument"), "'detector' of bias is missing"),
        ([(10, "b10.yaml")], ("detector", "file"), "'file' is no dimension"),
    ):
        write(folder, rows, columns)
        with pytest.raises(BadInputError, match=says) as caught:
            hook.ingest_files("bias", RUN, folder / "list.ecsv")
        assert "list.ecsv" in str(caught.value)
    assert snapshot(hook.repository) == before


def test_bad_names_and_tables_are_refused(hook: CurationHook, folder: Path) -> None:
    before = snapshot(hook.repository)
    good: dict[str, Any] = {"dataset_type": "bias", "run": RUN, "table": folder / "list.ecsv"}
    (folder / "empty.csv").write_text("file,detector\n")
    (folder / "garbage.ecsv").write_text("# %ECSV 1.0\nnot: [a table\n")
    (folder / "thesis.doc").write_bytes(b"\x00\x01\x02")
    for change, says in (
        ({"run": "DECam/bias*"}, r"'bias\*'"),
        ({"run": "refcats"}, "is a CHAINED, not a RUN"),
        ({"dataset_type": "biass"}, "no dataset type 'biass'.*bias"),
        ({"transfer": "move"}, "'move' is not a way to ingest.*direct"),
        ({"formatter": "lsst.nowhere.Formatter"}, r"no formatter 'lsst\.nowhere"),
        ({"table": folder / "nowhere.ecsv"}, r"no such table.*nowhere\.ecsv"),
        ({"table": folder / "empty.csv"}, r"empty.*empty\.csv"),
        ({"table": folder / "garbage.ecsv"}, r"cannot be read.*garbage\.ecsv"),
        ({"table": folder / "thesis.doc"}, r"cannot be read.*thesis\.doc"),
    ):
        with pytest.raises(BadInputError, match=says):
            hook.ingest_files(**(good | change))
    assert snapshot(hook.repository) == before


def test_the_file_in_the_repository_is_the_one_that_was_given(hook: CurationHook, folder: Path) -> None:
    hook.ingest_files("bias", RUN, folder / "list.ecsv", transfer="direct")
    with Butler.from_config(hook.repository) as butler:
        for ref in butler.query_datasets("bias", RUN):
            assert butler.getURI(ref).ospath == str(folder / f"b{ref.dataId['detector']}.yaml")

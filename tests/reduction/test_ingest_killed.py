"""An ingest of raws that is killed before any one of its side effects, and run again."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lsst.daf.butler import Butler
from sqlalchemy import event
from sqlalchemy.engine import Engine

from reduction.raw_files import EVENING, NIGHT, write_raw
from tololo.facility.collections import RAW_RUN
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.hooks.butler import ButlerHook
from tololo.reduction import ingest_raw
from tololo.reduction.formats.raw_search import find_raws

EXPOSURES = 4
CCDS = (2, 35)
FILE_EVENTS = ("os.rename", "os.remove", "os.link", "os.mkdir", "shutil.copyfile", "shutil.move")
READS = ("SELECT", "PRAGMA", "BEGIN", "SAVEPOINT", "RELEASE", "EXPLAIN")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty") / "repo"
    bootstrap(BootstrapPlan(str(folder)), ["create", "instrument"])
    return folder


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raws") / "files"
    write_raw(folder, 841_001, "dome flat", datetime(2019, 4, 1, 19, 30, tzinfo=UTC), CCDS)
    write_raw(folder, 841_002, "zero", datetime(2019, 4, 1, 20, 0, tzinfo=UTC), CCDS)
    for number in (3, 4):
        write_raw(folder, 841_000 + number, when=EVENING + timedelta(minutes=number), ccds=CCDS)
    return folder


def ingest(repository: Path, folder: Path, transfer: str) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        ButlerHook(repository).ingest_raws(find_raws(folder).exposures, transfer=transfer)


def in_child(repository: Path, folder: Path, transfer: str, moment: int) -> int:
    """Ingest in a process that is killed before its moment-th side effect; return how many there were.

    Side effects are changes of the registry, their commits, and changes of files.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        count = 0

        def happens(*_: object) -> None:
            nonlocal count
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        def statement(_connection: object, _cursor: object, text: str, *_: object) -> None:
            if not text.lstrip().upper().startswith(READS):
                happens()

        def audit(name: str, arguments: tuple[object, ...]) -> None:
            written = name == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")
            if name in FILE_EVENTS or written:
                happens()

        event.listen(Engine, "before_cursor_execute", statement)
        event.listen(Engine, "commit", happens)
        sys.addaudithook(audit)
        try:
            ingest(repository, folder, transfer)
            os.write(writer, str(count).encode())
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if text:
        return int(text)
    assert os.WIFSIGNALED(status), "the ingest has failed"
    return moment


def content(repository: Path) -> list[str]:
    """Everything that the registry has to say of the night."""
    with Butler.from_config(str(repository)) as butler:
        elements = ("day_obs", "group", "exposure", "visit", "visit_definition", "visit_detector_region")
        lines = [str(r) for e in elements for r in butler.query_dimension_records(e, limit=None)]
        for info in butler.collections.query_info("*"):
            lines.append(f"{info.name} {info.type} {info.children}")
        for name in (RAW_RUN, *(f"{NIGHT}/{kind}/raw" for kind in ("bias", "flat", "drp"))):
            lines += [f"{name} {ref}" for ref in butler.query_datasets("raw", name, limit=None)]
    return sorted(lines)


def stored(repository: Path) -> Counter[bytes]:
    return Counter(path.read_bytes() for path in (repository / "DECam").rglob("*") if path.is_file())


def used(repository: Path) -> Counter[bytes]:
    """What the files have in them that the repository refers to."""
    with Butler.from_config(str(repository)) as butler:
        uris = {butler.getURI(ref) for ref in butler.query_datasets("raw", RAW_RUN, limit=None)}
        return Counter(Path(uri.ospath).read_bytes() for uri in uris)


def try_all(empty: Path, raws: Path, folder: Path, transfer: str, every: int) -> None:
    """Kill before each ``every``-th side effect, and run again."""
    wanted = Counter(path.read_bytes() for path in raws.iterdir())
    whole = shutil.copytree(empty, folder / "whole")
    total = in_child(whole, shutil.copytree(raws, folder / "moved"), transfer, -1)
    assert total > 20
    expected = content(whole)
    for moment in range(0, total, every):
        repository = shutil.copytree(empty, folder / f"repo{moment}")
        files = shutil.copytree(raws, folder / f"files{moment}")
        assert in_child(repository, files, transfer, moment) == moment
        there = stored(repository) + Counter(path.read_bytes() for path in files.iterdir())
        assert there.keys() >= wanted.keys(), f"moment {moment}: something is lost"
        with Butler.from_config(str(repository)) as butler:
            begun = RAW_RUN in butler.collections.query("*") and [*butler.registry.queryDatasetTypes("raw")]
            known = butler.query_datasets("raw", RAW_RUN, explain=False) if begun else []
            of_each = Counter(ref.dataId["exposure"] for ref in known)
            assert set(of_each.values()) <= {len(CCDS)}, f"moment {moment}: a part of an exposure"
            for ref in known:
                butler.get(ref)
        ingest(repository, files, transfer)
        assert content(repository) == expected, f"moment {moment}"
        assert used(repository) == wanted
        assert len(list(files.iterdir())) == (0 if transfer == "move" else EXPOSURES)
        shutil.rmtree(repository)


@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_killed_at_some_moments(
    empty: Path, raws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: str
) -> None:
    monkeypatch.setattr(ingest_raw, "EXPOSURES_AT_ONCE", 2)
    try_all(empty, raws, tmp_path, transfer, 29)


@pytest.mark.long
@pytest.mark.parametrize("transfer", ["direct", "symlink", "copy", "move"])
def test_killed_at_every_moment(
    empty: Path, raws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: str
) -> None:
    monkeypatch.setattr(ingest_raw, "EXPOSURES_AT_ONCE", 2)
    try_all(empty, raws, tmp_path, transfer, 1)

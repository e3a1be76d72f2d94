from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler
from lsst.resources import ResourcePath

from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.hooks import calibration_transfer
from tololo.hooks import transfer as module
from tololo.hooks.curation import CurationHook

from .curated import CALIB, NEW, OLD, build, build_empty, content, die, files, in_process, snapshot

CHAIN = "DECam/calib"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A repository with biases that are valid in three stretches, and an empty one."""
    folder = tmp_path_factory.mktemp("made")
    source = CurationHook(build(folder / "source"))
    source.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    source.decertify(CALIB, "bias", "20190405", "detector = 2")
    source.certify("20190416/calib/bias", ["bias"], [NEW], "20190416..")
    source.write_chain(CHAIN, (), ["20190416/calib/bias", CALIB, "refcats"])
    return Path(source.repository), build_empty(folder / "target")


@pytest.fixture
def hooks(made: tuple[Path, Path], tmp_path: Path) -> tuple[CurationHook, CurationHook]:
    source, target = (shutil.copytree(path, tmp_path / path.name) for path in made)
    return CurationHook(source), CurationHook(target)


def ranges(hook: CurationHook) -> set[tuple[Any, ...]]:
    return set(content(hook.repository)["associations"])


@pytest.mark.parametrize("how", ["copy", "symlink"])
def test_twice_is_once(hooks: tuple[CurationHook, CurationHook], how: str) -> None:
    source, target = hooks
    before = content(source.repository), files(Path(source.repository))
    report = target.transfer_calibrations(source, [CHAIN], how=how)
    assert (report.copied, report.known, report.files) == (6, 0, 6)
    assert report.certified == {CALIB: 4, "20190416/calib/bias": 3}
    assert report.bytes == sum(size for name, size in before[1] if "/bias/bias_" in name)
    assert ranges(target) == ranges(source)
    after = content(target.repository), files(Path(target.repository))
    assert after[0]["collections"][CHAIN] == ("CHAINED", ("20190416/calib/bias", CALIB, "refcats"))
    again = target.transfer_calibrations(source, [CHAIN], how=how)
    assert (again.copied, again.known, set((again.certified or {}).values())) == (0, 6, {0})
    assert (content(target.repository), files(Path(target.repository))) == after
    assert (content(source.repository), files(Path(source.repository))) == before
    for detector in (1, 2, 3):
        with target.open() as butler:
            got = butler.get("bias", instrument="DECam", detector=detector, collections=NEW)
        assert got == {"level": detector, "run": NEW}


def test_a_dry_run_counts_and_writes_nothing(hooks: tuple[CurationHook, CurationHook]) -> None:
    source, target = hooks
    before = snapshot(target.repository)
    planned = target.transfer_calibrations(source, [CHAIN], dry_run=True)
    assert snapshot(target.repository) == before
    done = target.transfer_calibrations(source, [CHAIN])
    assert (planned.copied, planned.files, planned.bytes, planned.certified) == (
        done.copied,
        done.files,
        done.bytes,
        done.certified,
    )


def test_what_was_added_since_is_added(hooks: tuple[CurationHook, CurationHook]) -> None:
    source, target = hooks
    target.transfer_calibrations(source, [CALIB])
    target.write_chain(CHAIN, (), ["skymaps"])
    source.certify(CALIB, ["bias"], [NEW], "20190405", "detector = 2")
    report = target.transfer_calibrations(source, [CHAIN], ["bias"])
    assert (report.copied, report.known, report.certified) == (3, 3, {CALIB: 1, "20190416/calib/bias": 3})
    assert ranges(target) == ranges(source)
    children = content(target.repository)["collections"][CHAIN][1]
    assert children == ("20190416/calib/bias", CALIB, "refcats", "skymaps")


def test_an_overlap_is_refused_before_anything_is_copied(hooks: tuple[CurationHook, CurationHook]) -> None:
    source, target = hooks
    target.transfer_datasets(source, ["bias"], [NEW])
    target.certify(CALIB, ["bias"], [NEW], "20190410", "detector = 3")
    before = snapshot(target.repository)
    for dry_run in (True, False):
        with pytest.raises(BadInputError, match=rf"1 of 4 .*detector 3.*{NEW}.*20190410"):
            target.transfer_calibrations(source, [CHAIN], dry_run=dry_run)
    assert snapshot(target.repository) == before


def test_chains_in_chains_and_collections_of_another_kind(hooks: tuple[CurationHook, CurationHook]) -> None:
    source, target = hooks
    source.write_chain("inner", (), [CALIB])
    source.write_chain("outer", (), ["inner", CHAIN, "refcats"])
    source.write_chain(CHAIN, (), ["20190416/calib/bias", "inner"], drop=True)
    target.transfer_calibrations(source, ["outer"])
    here, there = (content(hook.repository)["collections"] for hook in (target, source))
    for name in ("outer", "inner", CHAIN):
        assert here[name] == there[name]
    for name, kind in ((CALIB, "CALIBRATION"), ("inner", "CHAINED")):
        other = CurationHook(build_empty(Path(target.repository).with_name(kind.lower())))
        with other.open(writeable=True) as butler:
            butler.collections.register(name)
        before = snapshot(other.repository)
        with pytest.raises(BadInputError, match=rf"'{name}' is a RUN, not a {kind}"):
            other.transfer_calibrations(source, ["outer"])
        assert snapshot(other.repository) == before


def test_datasets_by_query(hooks: tuple[CurationHook, CurationHook]) -> None:
    source, target = hooks
    report = target.transfer_datasets(source, ["bias", "notes"], [NEW, OLD], "detector < 3")
    assert (report.copied, report.known, report.certified) == (3, 0, None)
    assert (target.counts(NEW), target.counts(OLD)) == ({"bias": 2}, {"notes": 1})
    assert target.transfer_datasets(source, ["bias"], [NEW]).copied == 1


def test_files_that_were_ingested_in_place_are_copied(
    hooks: tuple[CurationHook, CurationHook], tmp_path: Path
) -> None:
    source, target = hooks
    (tmp_path / "b.yaml").write_text("level: 50\n")
    (tmp_path / "list.csv").write_text("file,detector\nb.yaml,50\n")
    source.ingest_files("bias", "nominal", tmp_path / "list.csv")
    assert target.transfer_datasets(source, ["bias"], ["nominal"]).copied == 1
    (tmp_path / "b.yaml").unlink()
    with target.open() as butler:
        assert butler.get("bias", instrument="DECam", detector=50, collections="nominal") == {"level": 50}
    with pytest.raises(BadInputError, match=r"detector 50 is missing.*b\.yaml"):
        target.transfer_datasets(source, ["bias"], ["nominal"])


def test_a_spoilt_copy_is_not_kept(
    hooks: tuple[CurationHook, CurationHook], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = hooks
    before = content(target.repository), files(Path(target.repository))
    original = ResourcePath.mtransfer

    def spoil(transfer: str, from_to: Any, **options: Any) -> Any:
        pairs = list(from_to)
        result = original(transfer, pairs, **options)
        path = Path(pairs[0][1].ospath)
        path.write_bytes(path.read_bytes()[::-1])
        return result

    with monkeypatch.context() as patched:
        patched.setattr(ResourcePath, "mtransfer", spoil)
        with pytest.raises(UnavailableError, match="another content"):
            target.transfer_calibrations(source, [CHAIN])
    after = content(target.repository), files(Path(target.repository))
    assert (after[0]["datasets"], after[0]["associations"], after[1]) == ([], [], before[1])
    assert target.transfer_calibrations(source, [CHAIN]).copied == 6


@pytest.mark.parametrize("place", ["copy", "certify"])
def test_a_killed_transfer_is_completed(
    hooks: tuple[CurationHook, CurationHook], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lsst.daf.butler.direct_butler import DirectButler

    source, target = hooks
    original, calls = DirectButler.transfer_from, []

    def die_later(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            die()
        return original(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, "BATCH", 2)
        if place == "copy":
            patched.setattr(DirectButler, "transfer_from", die_later)
        else:
            patched.setattr(calibration_transfer, "write_chains", die)
        process = in_process(lambda: target.transfer_calibrations(source, [CHAIN]))
        process.join(120)
    assert process.exitcode == 9
    there = 4 if place == "copy" else 6
    assert len(content(target.repository)["datasets"]) == there
    report = target.transfer_calibrations(source, [CHAIN])
    assert (report.copied, report.known) == (6 - there, there)
    assert ranges(target) == ranges(source)
    assert CHAIN in target.collections()


def test_a_copy_that_was_spoilt_since_is_told(hooks: tuple[CurationHook, CurationHook]) -> None:
    source, target = hooks
    target.transfer_datasets(source, ["bias"], [OLD])
    with target.open() as butler:
        ref = butler.find_dataset("bias", instrument="DECam", detector=2, collections=OLD)
        assert ref is not None
        path = Path(butler.getURI(ref).ospath)
    path.write_bytes(path.read_bytes()[:3])
    with pytest.raises(BadInputError, match=rf"not as it should be.*{path.name} has 3 bytes"):
        target.transfer_datasets(source, ["bias"], [OLD])


def test_repositories_that_do_not_fit_are_refused(
    hooks: tuple[CurationHook, CurationHook], tmp_path: Path
) -> None:
    source, _ = hooks
    Butler.makeRepo(str(tmp_path / "bare"))
    bare = CurationHook(tmp_path / "bare")
    with pytest.raises(BadInputError, match=r"no instrument DECam.*repo_bootstrap"):
        bare.transfer_calibrations(source, [CHAIN])
    other = CurationHook(build(tmp_path / "other"))
    before = snapshot(other.repository)
    with pytest.raises(BadInputError, match=rf"another dataset bias of detector 1.*{OLD}"):
        other.transfer_datasets(source, ["bias"], [OLD])  # the same data IDs and RUN, other datasets
    assert snapshot(other.repository) == before
    for absent in (CurationHook(tmp_path / "absent"), source):
        with pytest.raises(BadInputError, match="no Butler repository"):
            CurationHook(tmp_path / "absent").transfer_datasets(absent, ["bias"], [OLD])


def test_bad_input_is_named(hooks: tuple[CurationHook, CurationHook]) -> None:
    source, target = hooks
    before = snapshot(target.repository)
    for names, types, how, says in (
        (["DECam/calibs"], [], "copy", f"no collection 'DECam/calibs'.*{CHAIN}"),
        ([OLD], [], "copy", f"'{OLD}' is a RUN, not a CALIBRATION or CHAINED"),
        ([CHAIN], ["bais"], "copy", "no dataset type 'bais'"),
        ([], [], "copy", "No collection is named"),
        ([CHAIN], [], "move", "'move' is not a way to copy"),
        ([CHAIN], [], "direct", "'direct' is not a way to copy"),
    ):
        with pytest.raises(BadInputError, match=says):
            target.transfer_calibrations(source, names, types, how=how)
    with pytest.raises(NothingToDoError, match="of flat"):
        target.transfer_calibrations(source, [CHAIN], ["flat"])
    with pytest.raises(NothingToDoError, match="detector = 62"):
        target.transfer_datasets(source, ["bias"], [OLD], "detector = 62")
    assert snapshot(target.repository) == before

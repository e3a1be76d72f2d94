from __future__ import annotations

from pathlib import Path

import pytest
from lsst.daf.butler import Butler, DatasetRef, FileDataset

from tololo.facility.errors import BadInputError
from tololo.hooks.curation import CurationHook

from .curated import CALIB, NEW, OLD, content, die, files, in_process, snapshot

CHAIN = "20190401/bias"


def ingest_in_place(hook: CurationHook, folder: Path) -> Path:
    path = folder / "observed.yaml"
    path.write_text("level: 9\n")
    with hook.open(writeable=True) as butler:
        data_id = {"instrument": "DECam", "detector": 9}
        ref = DatasetRef(butler.get_dataset_type("bias"), data_id, run=OLD)
        butler.ingest(FileDataset(str(path), [ref]), transfer="direct")
    return path


def test_twice_is_once_and_files_in_place_stay(hook: CurationHook, tmp_path: Path) -> None:
    path = ingest_in_place(hook, tmp_path)
    planned = hook.prune([OLD], dry_run=True)
    assert (planned.runs, planned.datasets, planned.files, planned.in_place) == ((OLD,), 5, 4, 1)
    assert hook.counts(OLD) == {"bias": 4, "notes": 1}
    assert hook.prune([OLD, OLD]) == planned
    after = content(hook.repository), files(Path(hook.repository))
    assert [run for _, run in after[0]["datasets"]] == [NEW] * 3
    assert len([name for name, _ in after[1] if name.endswith("yaml")]) == 4  # three biases and butler.yaml
    assert path.read_text() == "level: 9\n"
    again = hook.prune([OLD])
    assert (again.runs, again.absent, again.datasets) == ((), (OLD,), 0)
    assert (content(hook.repository), files(Path(hook.repository))) == after


def test_what_needs_a_run_is_named_and_nothing_is_removed(hook: CurationHook) -> None:
    hook.write_chain(CHAIN, None, ["refcats"])
    hook.associate("mine/good", ["bias"], [OLD], "detector = 1")
    hook.certify(CALIB, ["bias"], [OLD], "20190401..20190415")
    hook.decertify(CALIB, "bias", "20190405")
    before = snapshot(hook.repository)
    for chains in ([], [CHAIN], ["mine/good", CALIB]):
        for dry_run in (True, False):
            with pytest.raises(BadInputError) as caught:
                hook.prune([OLD, NEW], chains=chains, dry_run=dry_run)
            for name in {CHAIN, "mine/good", CALIB}:
                assert (f"{name} needs" in str(caught.value)) == (name not in chains)
    assert snapshot(hook.repository) == before
    report = hook.prune([OLD], chains=[CHAIN, "mine/good", CALIB])
    assert set(report.unlinked) == {CHAIN, "mine/good", CALIB}
    assert content(hook.repository)["collections"][CHAIN] == ("CHAINED", (NEW, "refcats"))
    assert content(hook.repository)["associations"] == []


def test_unlink_means_everywhere(hook: CurationHook) -> None:
    for chain in (CHAIN, "other"):
        hook.write_chain(chain, [OLD, NEW], ["refcats"])
    report = hook.prune([NEW], unlink=True)
    assert set(report.unlinked) == {CHAIN, "other"}
    for chain in (CHAIN, "other"):
        assert content(hook.repository)["collections"][chain] == ("CHAINED", (OLD, "refcats"))


def test_only_runs_are_pruned(hook: CurationHook) -> None:
    hook.write_chain(CHAIN, None)
    hook.certify(CALIB, ["bias"], [NEW], "20190401")
    before = snapshot(hook.repository)
    for name, kind in ((CHAIN, "CHAINED"), (CALIB, "CALIBRATION")):
        with pytest.raises(BadInputError, match=f"'{name}' is a {kind}"):
            hook.prune([OLD, name], unlink=True)
    assert snapshot(hook.repository) == before


@pytest.mark.parametrize("place", ["emptyTrash", "removeCollection"])
def test_a_killed_removal_is_completed(
    hook: CurationHook, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lsst.daf.butler.datastores.fileDatastore import FileDatastore
    from lsst.daf.butler.registry.sql_registry import SqlRegistry

    hook.write_chain(CHAIN, None)
    with monkeypatch.context() as patched:
        patched.setattr(FileDatastore if place == "emptyTrash" else SqlRegistry, place, die)
        process = in_process(lambda: hook.prune([OLD], chains=[CHAIN]))
        process.join(120)
    assert process.exitcode == 9
    with Butler.from_config(hook.repository) as butler:
        assert OLD in butler.collections.query("*")
        assert not butler.registry.queryDatasets(..., collections=OLD).any(execute=True)
    assert hook.prune([OLD], chains=[CHAIN]).runs == (OLD,)
    assert OLD not in hook.collections()
    assert not [name for name, _ in files(Path(hook.repository)) if "20260101T000000Z" in name]

"""Frames from the archive into datasets: sorted, once, and whatever goes wrong on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from real_data import REAL, needs
from tololo.engine.locks import lock_for
from tololo.facility.dataset_config import read_dataset_config
from tololo.facility.dataset_folders import frames as frames_of
from tololo.facility.dataset_folders import scan
from tololo.facility.disk import DiskError
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.lco_journal import Journal
from tololo.facility.lco_report import DownloadReport
from tololo.hooks.lco import LcoArchiveHook
from tololo.hooks.lco_download import download_frames

from .lco_archive import TOKEN, Fault, LcoArchive, a_frame

PROPOSAL = "LCO2024A-001"
START, END = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 9, tzinfo=UTC)
DATASET = "OGLE-2024-BLG-0034/sinistro/ip"
BANZAI = REAL / "lco" / "banzai_e91_sbig"


@pytest.fixture
def server() -> Iterator[LcoArchive]:
    server = LcoArchive()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


Download = Callable[..., DownloadReport]


@pytest.fixture
def hook(server: LcoArchive, monkeypatch: pytest.MonkeyPatch) -> LcoArchiveHook:
    connection = {"conn_type": "lco", "host": server.url, "password": TOKEN}
    monkeypatch.setenv("AIRFLOW_CONN_LCO_TEST", json.dumps(connection))
    return LcoArchiveHook("lco_test", timeout=(2.0, 0.5), attempts=2, backoff=0.01, patience=0.05)


@pytest.fixture
def download(hook: LcoArchiveHook, root: Path) -> Download:
    def run(**options: Any) -> DownloadReport:
        options = {"start": START, "end": END, "wait": 5.0} | options
        return download_frames(hook, root, options.pop("proposals", [PROPOSAL]), **options)

    return run


def visible(root: Path) -> list[str]:
    """Return the files that a user sees, relative to the root."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if not any(part.startswith(".") for part in path.parts))


# Sorting


def test_frames_are_sorted_into_datasets(server: LcoArchive, download: Download, root: Path) -> None:
    server.add(a_frame())
    server.add(a_frame(), instrument_id="fl12")
    server.add(
        a_frame("2010 NY65"), target_name="2010 NY65", instrument_id="sq30", primary_optical_element="w"
    )
    server.add(
        a_frame(), instrument_id="ep04", primary_optical_element="gp", filename="ogg2m001-ep04-e91.fits"
    )
    server.add(a_frame("NGC 1/2"), target_name="NGC 1/2", instrument_id="xx01")
    report = download()
    names = [stored.record["filename"] for stored in server.frames.values()]
    wanted = [
        f"{DATASET}/{names[0]}",
        f"{DATASET}/{names[1]}",
        f"2010_NY65/qhy/w/{names[2]}",
        f"OGLE-2024-BLG-0034/muscat/gp/{names[3]}",
        f"NGC_1_2/xx01/ip/{names[4]}",
    ]
    datasets = {str(Path(path).parent) for path in wanted}
    assert visible(root) == sorted(wanted + [f"{dataset}/reduction_config.yaml" for dataset in datasets])
    assert {str(Path(path).relative_to(root)) for path in report.datasets} == datasets
    assert sorted(report.configured) == sorted(report.datasets)
    assert (report.found, report.new, report.present, report.failed, report.waiting) == (5, 5, 0, {}, {})
    for stored, path in zip(server.frames.values(), wanted, strict=True):
        assert (root / path).read_bytes() == stored.content
    assert scan(root, ["sinistro", "qhy"]) == [root / "2010_NY65/qhy/w", root / DATASET]
    assert not (root / DATASET / "dataset.lock").exists()


def test_a_configuration_comes_with_the_first_frame(
    server: LcoArchive, download: Download, root: Path
) -> None:
    server.add(a_frame())
    download()
    config = read_dataset_config(root / DATASET)
    assert config.target.name == "OGLE-2024-BLG-0034"
    assert (config.target.ra, config.target.dec) == pytest.approx((262.60625, -25.508472), abs=1e-6)
    assert config.photometry.aperture_arcsec == 2.0
    assert not config.tom.upload
    (root / DATASET / "reduction_config.yaml").write_text("mine")
    server.add(a_frame())
    assert download().configured == []
    assert (root / DATASET / "reduction_config.yaml").read_text() == "mine"


def test_a_template_of_configurations_is_used(server: LcoArchive, download: Download, root: Path) -> None:
    (root / "reduction_config.yaml").write_text(
        "target: {name: x, RA: '0', Dec: '0'}\nphotometry: {aperture_arcsec: 3.5, method: psf}\n"
        "tom: {upload: true, data_label: romerea}\n"
    )
    server.add(a_frame())
    download()
    config = read_dataset_config(root / DATASET)
    assert config.target.name == "OGLE-2024-BLG-0034"
    assert (config.photometry.aperture_arcsec, config.photometry.method) == (3.5, "psf")
    assert (config.tom.upload, config.tom.data_label) == (True, "romerea")


def test_a_wrong_template_keeps_no_frame_back(server: LcoArchive, download: Download, root: Path) -> None:
    (root / "reduction_config.yaml").write_text("photometry: {aperture_arcsec: wide}\n")
    stored = server.add(a_frame())
    report = download()
    assert visible(root) == [f"{DATASET}/{stored.record['filename']}", "reduction_config.yaml"]
    (why,) = report.unconfigured.values()
    assert "'wide' is not of type 'number'" in why


@pytest.mark.parametrize(
    ("cards", "ra", "dec"),
    [
        ({"CAT-RA": "NaN", "CAT-DEC": "NaN"}, 262.6058333, -25.5086111),
        ({"CAT-RA": "N/A", "RA": 150.25, "DEC": -2.5}, 150.25, -2.5),
    ],
)
def test_without_a_catalogued_position_the_pointing_counts(
    server: LcoArchive, download: Download, root: Path, cards: dict[str, Any], ra: float, dec: float
) -> None:
    server.add(a_frame(**cards))
    download()
    target = read_dataset_config(root / DATASET).target
    assert (target.ra, target.dec) == pytest.approx((ra, dec), abs=1e-6)


@pytest.mark.parametrize("content", [b"no FITS file", a_frame(**{"CAT-RA": "N/A", "RA": "UNKNOWN"})])
def test_a_frame_without_a_position_is_kept_and_named(
    server: LcoArchive, download: Download, root: Path, content: bytes
) -> None:
    stored = server.add(content)
    report = download()
    assert visible(root) == [f"{DATASET}/{stored.record['filename']}"]
    assert list(report.unconfigured) == [str(root / DATASET)]
    server.add(content)
    server.add(a_frame())
    report = download()  # one of the next frames has it
    assert (report.configured, report.unconfigured) == ([str(root / DATASET)], {})
    assert len(frames_of(root / DATASET)) == 3


@pytest.mark.parametrize(
    "changes",
    [{"target_name": ""}, {"target_name": "N/A"}, {"primary_optical_element": None}, {"instrument_id": ""}],
)
def test_what_belongs_nowhere_is_kept_aside(
    server: LcoArchive, download: Download, root: Path, changes: dict[str, Any]
) -> None:
    name = server.add(a_frame(), **changes).record["filename"]
    server.add(a_frame())
    report = download()
    assert (root / ".unsorted" / name).exists()
    assert report.set_aside == {name: "target, instrument or filter unknown; it is in .unsorted"}
    assert (report.new, report.datasets) == (2, [str(root / DATASET)])
    (root / ".unsorted" / name).rename(root / DATASET / name)  # by hand
    again = download()
    assert (again.new, again.present, again.set_aside) == (0, 2, {})


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second file system here")
def test_a_target_may_lie_on_another_disk(server: LcoArchive, download: Download, root: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (root / "OGLE-2024-BLG-0034").symlink_to(elsewhere)
        stored = [server.add(a_frame()) for _ in range(2)]
        assert download().new == 2
        found = Path(elsewhere) / "sinistro" / "ip"
        assert [path.read_bytes() for path in frames_of(found)] == [frame.content for frame in stored]
        assert sorted(path.name for path in found.iterdir() if path.name.startswith(".")) == []
        assert download().present == 2
        assert list((root / ".incoming").iterdir()) == []


def test_no_name_leads_out_of_the_root(server: LcoArchive, download: Download, root: Path) -> None:
    server.add(a_frame(), target_name="../../outside", primary_optical_element="..")
    download()
    assert [path.name for path in root.parent.iterdir()] == ["data"]
    assert len(visible(root)) == 2
    server.add(a_frame(), filename="../evil.fits.fz")
    with pytest.raises(BadInputError, match="evil"):
        download()


def test_what_is_not_a_reduced_frame_is_not_fetched(server: LcoArchive, download: Download) -> None:
    page = [
        server.described(server.add(b"", **changes))
        for changes in ({"reduction_level": 0}, {"configuration_type": "BIAS"}, {"filename": "cat.tar.gz"})
    ]
    # a server that does not heed what it was asked for
    server.faults = [Fault("/frames/", "words", body=json.dumps({"next": None, "results": page}).encode())]
    report = download()
    assert report.new == 0
    assert [reason.split(",")[0] for reason in report.set_aside.values()] == [
        "not reduced",
        "no exposure of a target but BIAS",
        "not a FITS file",
    ]
    assert server.files_asked() == []


# Once


def test_what_is_here_is_not_fetched_again(server: LcoArchive, download: Download) -> None:
    for _ in range(3):
        server.add(a_frame())
    download()
    server.add(a_frame())
    report = download()
    assert (report.found, report.new, report.present) == (4, 1, 3)
    assert len(server.files_asked()) == 4


@pytest.mark.parametrize("how", ["unpacked", "subfolder", "gzip", "changed"])
def test_what_was_handled_here_is_here(server: LcoArchive, download: Download, root: Path, how: str) -> None:
    name = server.add(a_frame()).record["filename"]
    download()
    path = root / DATASET / name
    if how == "unpacked":
        path.rename(path.with_suffix(""))
    elif how == "subfolder":
        (path.parent / "rejected").mkdir()
        path.rename(path.parent / "rejected" / name)
    elif how == "gzip":
        path.rename(path.with_name(f"{name}.gz"))
    else:
        path.write_bytes(path.read_bytes() + b"an extension that another tool has added")
    content = path.read_bytes() if path.exists() else None
    assert download().present == 1
    assert len(server.files_asked()) == 1
    assert (path.read_bytes() if path.exists() else None) == content


@pytest.mark.parametrize("how", ["removed", "truncated"])
def test_what_was_lost_is_fetched_again(server: LcoArchive, download: Download, root: Path, how: str) -> None:
    stored = server.add(a_frame())
    download()
    path = root / DATASET / stored.record["filename"]
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(stored.content[:1000])
    assert download().new == 1
    assert path.read_bytes() == stored.content


def test_files_of_another_tool_are_adopted_or_left(
    server: LcoArchive, download: Download, root: Path
) -> None:
    same, other = server.add(a_frame()), server.add(a_frame())
    folder = root / DATASET
    folder.mkdir(parents=True)
    (folder / same.record["filename"]).write_bytes(same.content)
    (folder / other.record["filename"]).write_bytes(b"rewritten by its pipeline")
    report = download()
    assert (report.new, report.present) == (0, 1)
    assert list(report.set_aside) == [other.record["filename"]]
    assert (folder / other.record["filename"]).read_bytes() == b"rewritten by its pipeline"


def test_a_newer_version_replaces_an_unchanged_file(
    server: LcoArchive, download: Download, root: Path
) -> None:
    first, second = server.add(a_frame()), server.add(a_frame())
    download()
    changed = root / DATASET / second.record["filename"]
    changed.write_bytes(b"mine")
    first.content, second.content = a_frame(), a_frame()
    report = download()
    assert report.new == 1
    assert (root / DATASET / first.record["filename"]).read_bytes() == first.content
    assert changed.read_bytes() == b"mine"
    assert "changed or unpacked here" in report.set_aside[changed.name]


def test_the_window_begins_a_day_before_the_last_complete_one(
    server: LcoArchive, download: Download, hook: LcoArchiveHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[datetime, datetime]] = []
    listed = hook.frames
    monkeypatch.setattr(hook, "frames", lambda name, *window: asked.append(window) or listed(name, *window))
    now = datetime.now(UTC)
    download(start=None, end=None)
    assert asked[0][1] - asked[0][0] == timedelta(days=7)
    assert abs(asked[0][1] - now) < timedelta(minutes=5)
    download(start=None, end=None)
    assert asked[1][0] == asked[0][1] - timedelta(days=1)
    server.add(a_frame(), observation_date=f"{now - timedelta(hours=20):%Y-%m-%dT%H:%M:%S}Z")
    server.faults = [Fault("/files/", "status", times=9, status=404)]
    assert len(download(start=None, end=None).failed) == 1
    server.faults = []
    assert download(start=None, end=None).new == 1
    assert asked[2][0] == asked[3][0]  # the third was not complete
    download(start=now + timedelta(days=5), end=now + timedelta(days=9))
    download(start=None, end=None)
    assert asked[5][0] == asked[3][1] - timedelta(days=1)  # a window that left a gap moves nothing


def test_a_window_into_the_future_is_complete_until_now(
    server: LcoArchive, download: Download, hook: LcoArchiveHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[datetime, datetime]] = []
    listed = hook.frames
    monkeypatch.setattr(hook, "frames", lambda name, *window: asked.append(window) or listed(name, *window))
    now = datetime.now(UTC)
    download(start=now + timedelta(days=1), end=now + timedelta(days=2))  # nothing of it can be here
    download(start=None, end=now + timedelta(days=30))
    assert asked[1][0] == now + timedelta(days=30 - 7)
    download(start=now - timedelta(days=3), end=now + timedelta(days=30))
    download(start=None, end=None)
    assert abs(asked[3][0] - (now - timedelta(days=1))) < timedelta(minutes=5)


def test_a_download_of_a_clock_that_was_ahead_is_no_measure(
    server: LcoArchive, download: Download, hook: LcoArchiveHook, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[datetime, datetime]] = []
    monkeypatch.setattr(hook, "frames", lambda name, *window: asked.append(window) or iter(()))
    now = datetime.now(UTC)
    Journal(root).note_complete(PROPOSAL, now, now + timedelta(days=20))
    download(start=None, end=None)
    assert asked[0][1] - asked[0][0] == timedelta(days=7)


def test_several_proposals(server: LcoArchive, download: Download) -> None:
    server.add(a_frame())
    server.add(a_frame(), proposal_id="KEY2023B-004")
    server.add(a_frame(), proposal_id="OTHER")
    assert download(proposals=[PROPOSAL, "KEY2023B-004", PROPOSAL]).new == 2


def test_a_dry_run_writes_nothing(server: LcoArchive, download: Download, root: Path) -> None:
    server.add(a_frame())
    server.add(a_frame(), target_name="")
    report = download(dry_run=True)
    assert (report.new, report.datasets) == (2, [str(root / DATASET)])
    assert list(root.iterdir()) == []
    assert server.files_asked() == []


# Faults


def test_one_that_fails_keeps_no_other_back(server: LcoArchive, download: Download, root: Path) -> None:
    stored = [server.add(a_frame()) for _ in range(3)]
    server.faults = [Fault("/files/1001/", "spoil", times=9)]
    report = download()
    name = stored[1].record["filename"]
    assert (report.new, list(report.failed)) == (2, [name])
    assert "differs from its checksum" in report.failed[name]
    assert len(frames_of(root / DATASET)) == 2
    server.faults = []
    assert download().new == 1
    assert len(server.files_asked()) == 2 + 2 + 1


def test_an_expired_address_is_asked_for_again(server: LcoArchive, download: Download, root: Path) -> None:
    stored = server.add(a_frame())
    server.lifetime = -1.0
    page = {"next": None, "results": [server.described(stored)]}
    server.faults = [Fault("/frames/?", "words", body=json.dumps(page).encode())]
    server.lifetime = 60.0
    assert download().new == 1
    assert [path.split("?")[0] for path, _ in server.seen][1:] == [
        f"/files/1000/{stored.record['filename']}",
        "/frames/1000/",
        f"/files/1000/{stored.record['filename']}",
    ]
    assert (root / DATASET / stored.record["filename"]).read_bytes() == stored.content


@pytest.mark.parametrize("status", [403, 404])
def test_a_frame_that_is_not_given_is_named(server: LcoArchive, download: Download, status: int) -> None:
    name = server.add(a_frame()).record["filename"]
    server.faults = [Fault("/files/", "status", times=9, status=status)]
    report = download()
    assert str(status) in report.failed[name]
    assert "Signature" not in report.failed[name]
    assert len(server.files_asked()) == 2


def test_a_frame_without_a_checksum_is_named(server: LcoArchive, download: Download) -> None:
    record = server.described(server.add(a_frame())) | {"version_set": []}
    server.faults = [
        Fault("/frames/?", "words", body=json.dumps({"next": None, "results": [record]}).encode())
    ]
    assert list(download().failed.values()) == ["The archive gives no address or no checksum of it"]


def test_a_server_that_is_away_is_not_asked_for_every_frame(server: LcoArchive, download: Download) -> None:
    for _ in range(9):
        server.add(a_frame())
    server.faults = [Fault("/files/", "status", times=999, status=503)]
    report = download()
    assert len(report.failed) == 9
    assert len(server.files_asked()) == 3 * 2
    server.faults = []
    assert download().new == 9


def test_a_full_disk_ends_the_download(
    server: LcoArchive, hook: LcoArchiveHook, tmp_path: Path, root: Path
) -> None:
    for _ in range(4):
        server.add(os.urandom(300_000))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "none", root], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with pytest.raises(DiskError, match=r"No space left on device.*make room"):
            download_frames(hook, root, [PROPOSAL], START, END)
        incoming = [path for path in (root / ".incoming").iterdir() if path.suffix == ".fz"]
        assert len(incoming) == 2
        assert not list(root.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=9m", root], check=True)
        report = download_frames(hook, root, [PROPOSAL], START, END)
        assert (report.new, report.present) == (2, 2)
        assert len(frames_of(root / DATASET)) == 4
    finally:
        subprocess.run(["umount", root], check=True)


def test_bad_arguments(download: Download, hook: LcoArchiveHook, root: Path) -> None:
    with pytest.raises(BadInputError, match="There are no proposals"):
        download(proposals=[])
    with pytest.raises(BadInputError, match="is not before the end"):
        download(start=END, end=START)
    with pytest.raises(BadInputError, match="no such folder of datasets"):
        download_frames(hook, root / "nowhere", [PROPOSAL])


# Locks


def test_frames_of_a_locked_dataset_wait(server: LcoArchive, download: Download, root: Path) -> None:
    first, second = server.add(a_frame()), server.add(a_frame(), primary_optical_element="gp")
    folder = root / DATASET
    folder.mkdir(parents=True)
    (folder / "dataset.lock").write_text("2024-05-03T01:00:00")  # as the field's other tools write it
    report = download()
    assert "held by another tool" in report.waiting[str(folder)]
    assert report.datasets == [str(root / "OGLE-2024-BLG-0034/sinistro/gp")]
    assert frames_of(folder) == []
    again = download()
    assert (again.new, again.present, list(again.waiting)) == (0, 2, [str(folder)])
    (folder / "dataset.lock").unlink()
    freed = download(start=END, end=END + timedelta(days=1))  # also where the window has moved on
    assert (freed.found, freed.datasets, freed.waiting) == (0, [str(folder)], {})
    assert (folder / first.record["filename"]).read_bytes() == first.content
    assert len(server.files_asked()) == 2
    assert read_dataset_config(folder).target.name == second.record["target_name"]


def test_frames_of_one_name_do_not_take_each_others_place(
    server: LcoArchive, download: Download, root: Path
) -> None:
    name = "cpt1m012-fa06-20240502-0001-e91.fits.fz"
    first = server.add(a_frame(), filename=name)
    server.add(a_frame(), filename=name, proposal_id="KEY2023B-004")
    other = server.add(a_frame(), filename=name, proposal_id="KEY2023B-004", target_name="Z")
    folder = root / DATASET
    folder.mkdir(parents=True)
    (folder / "dataset.lock").write_text("2024-05-03T01:00:00")
    proposals = [PROPOSAL, "KEY2023B-004"]
    report = download(proposals=proposals)
    assert report.set_aside == {name: "frame 1000 has the same name in the same dataset"}
    assert report.failed[name] == f"Frame 1000 has the same name, and waits for the lock of {DATASET}"
    (folder / "dataset.lock").unlink()
    assert download(proposals=proposals).failed == {}
    assert (folder / name).read_bytes() == first.content
    assert (root / "Z/sinistro/ip" / name).read_bytes() == other.content
    assert download(proposals=proposals).new == 0


def test_another_download_is_waited_for(download: Download, root: Path) -> None:
    (root / ".incoming").mkdir()
    lock = lock_for(f"folder:{root / '.incoming'}")
    lock.acquire()
    with pytest.raises(UnavailableError, match="held by process"):
        download(wait=0.3)
    lock.release()
    download(wait=0.3)


FORK = multiprocessing.get_context("fork")


def start_download(root: Path, said: Any = None) -> Any:
    """Start a download in a process of its own."""

    def run() -> None:
        hook = LcoArchiveHook("lco_test", timeout=(5.0, 10.0), backoff=0.05)
        report = download_frames(hook, root, [PROPOSAL], START, END, wait=60.0)
        if said is not None:
            said.put((report.new, report.present, len(report.failed)))

    process = FORK.Process(target=run)
    process.start()
    return process


@pytest.mark.usefixtures("hook")
def test_two_downloads_at_once_fetch_each_frame_once(server: LcoArchive, root: Path) -> None:
    for _ in range(20):
        server.add(a_frame())
    said = FORK.Queue()
    runs = [start_download(root, said) for _ in range(2)]
    assert sorted(said.get(timeout=60) for _ in runs) == [(0, 20, 0), (20, 0, 0)]
    for run in runs:
        run.join()
    assert len(server.files_asked()) == len(set(server.files_asked())) == 20
    assert len(frames_of(root / DATASET)) == 20


@pytest.mark.usefixtures("hook")
def test_a_killed_download_is_gone_on_with(
    server: LcoArchive, download: Download, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [server.add(os.urandom(400_000)) for _ in range(3)]
    server.faults = [Fault("/files/1001/", "hang", seconds=3.0)]
    run = start_download(root)
    while not any(path.startswith("/files/1001/") for path, _ in server.seen):
        time.sleep(0.02)
    run.kill()
    run.join()
    assert visible(root) == []  # nothing half-written where a reduction looks
    lock = root / ".incoming" / "dataset.lock"
    assert lock.exists()
    age_lock(lock)
    assert download().new == 2
    assert len(frames_of(root / DATASET)) == 3
    assert [path.read_bytes() for path in frames_of(root / DATASET)] == [frame.content for frame in stored]
    assert server.files_asked().count(stored[0].record["filename"]) == 1
    assert not lock.exists()


def kill_and_go_on(server: LcoArchive, root: Path, n_kills: int) -> None:
    """Kill downloads at any moment; then let one end, and compare."""
    random = Random(1)
    stored = []
    for number in range(n_kills):
        night = {"target_name": f"OGLE-2024-BLG-{number % 7:04d}", "primary_optical_element": "gp"}
        stored += [server.add(a_frame(), **night) for _ in range(5)]
        run = start_download(root)
        time.sleep(random.uniform(0.0, 0.7))
        run.kill()
        run.join()
        for lock in root.rglob("dataset.lock"):
            age_lock(lock)
        for path in root.glob("*/*/*/*.fz"):  # what a reduction sees is whole at any time
            assert path.read_bytes() in [frame.content for frame in stored]
    last = start_download(root)
    last.join()
    assert last.exitcode == 0
    found = sorted(root.glob("*/*/*/*.fz"))
    assert sorted(path.name for path in found) == [frame.record["filename"] for frame in stored]
    contents = {frame.record["filename"]: frame.content for frame in stored}
    assert all(path.read_bytes() == contents[path.name] for path in found)
    # what a killed process left of its lock is swept by a later one
    left = [path.name for path in (root / ".incoming").iterdir() if not path.name.startswith(".dataset.lock")]
    assert left == []
    assert not list(root.rglob(".configuration"))
    assert not list(root.rglob("dataset.lock"))
    assert all(read_dataset_config(folder).target.name for folder in scan(root, ["sinistro"]))


@pytest.mark.usefixtures("hook")
def test_downloads_that_are_killed_lose_and_double_nothing(server: LcoArchive, root: Path) -> None:
    kill_and_go_on(server, root, 6)


@pytest.mark.long
@pytest.mark.usefixtures("hook")
def test_downloads_that_are_killed_often_lose_and_double_nothing(server: LcoArchive, root: Path) -> None:
    kill_and_go_on(server, root, 100)


def age_lock(lock: Path) -> None:
    """Let a lock look as it will when its owner has been silent for its time to live."""
    since, content = lock.read_text().split("\n", 1)
    record = json.loads(content)
    record["heartbeat"] = (datetime.fromisoformat(record["heartbeat"]) - timedelta(hours=1)).isoformat(
        "T", "milliseconds"
    )
    lock.write_text(f"{since}\n{json.dumps(record)}".ljust(len(content) + len(since)) + "\n")


def test_a_torn_journal_is_read(server: LcoArchive, download: Download, root: Path) -> None:
    server.add(a_frame())
    download()
    journal = root / ".lco_archive.jsonl"
    journal.write_text(journal.read_text()[:-30])
    server.add(a_frame())
    assert download().new == 1
    assert download().present == 2
    assert "\n\n" not in journal.read_text()


# Real data


@needs(BANZAI)
def test_a_frame_of_las_cumbres_is_sorted(server: LcoArchive, download: Download, root: Path) -> None:
    server.add(
        (BANZAI / "banzai_test_frame.fits.fz").read_bytes(),
        filename="tfn0m414-kb29-20160625-0060-e91.fits.fz",
        target_name="2010 NY65",
        instrument_id="kb29",
        primary_optical_element="w",
    )
    download()
    folder = root / "2010_NY65" / "sbig" / "w"
    assert [path.name for path in frames_of(folder)] == ["tfn0m414-kb29-20160625-0060-e91.fits.fz"]
    target = read_dataset_config(folder).target
    assert (target.name, target.ra, target.dec) == (
        "2010 NY65",
        pytest.approx(195.777742),
        pytest.approx(36.225828),
    )


def test_simulated_frames_come_as_they_were_made(
    server: LcoArchive, download: Download, tmp_path: Path
) -> None:
    from tololo.reduction.timeseries.frames import read_frame
    from tololo.simulation.timeseries import SeriesPlan, simulate_series

    plan = SeriesPlan(n_frames=2, shape=(128, 128), n_stars=20, clouds={})
    truth = simulate_series(tmp_path / "simulated", plan)
    for path in frames_of(truth.folder):
        server.add(path.read_bytes(), filename=path.name, target_name=plan.target)
    (folder,) = map(Path, download().datasets)
    target = read_dataset_config(folder).target
    assert (target.name, target.ra, target.dec) == (
        plan.target,
        pytest.approx(plan.ra, abs=1e-5),
        pytest.approx(plan.dec, abs=1e-5),
    )
    assert [read_frame(path).info.image_id for path in frames_of(folder)] == list(truth.frames["image_id"])

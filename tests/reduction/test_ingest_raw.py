from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler, CollectionType
from lsst.sphgeom import LonLat, UnitVector3d

from real_data import FIELD, REAL, needs
from reduction.raw_files import EVENING, NIGHT, pixels, write_raw
from tololo.facility.bad_exposures import BadExposure, Exclusions
from tololo.facility.errors import BadInputError
from tololo.hooks.bootstrap import BootstrapPlan, bootstrap
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.reduction.formats.raw import raw_detector
from tololo.reduction.formats.raw_formatter import RawFormatter
from tololo.reduction.formats.raw_search import find_raws
from tololo.reduction.ingest import ingest_instcal
from tololo.reduction.ingest_raw import RawIngestReport, ingest_raws
from tololo.reduction.instrument import DarkEnergyCamera
from tololo.reduction.instrument.detectors import detector_geometry
from tololo.reduction.instrument.pointing import nominal_region

RUN = "DECam/raw/all"
CCDS = (2, 35, 61)


@pytest.fixture(scope="module")
def empty_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty") / "repo"
    Butler.makeRepo(str(folder))
    with Butler.from_config(str(folder), writeable=True) as butler:
        DarkEnergyCamera().register(butler.registry)
    return folder


@pytest.fixture
def butler(empty_repository: Path, tmp_path: Path) -> Iterator[Butler]:
    shutil.copytree(empty_repository, tmp_path / "repo")
    with Butler.from_config(str(tmp_path / "repo"), writeable=True) as butler:
        yield butler


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A night: two biases (one of the morning after), a dome flat of the afternoon before, two on the sky."""
    folder = tmp_path / "files"
    write_raw(folder, 841_001, "dome flat", datetime(2019, 4, 1, 19, 30, tzinfo=UTC))
    write_raw(folder, 841_002, "zero", datetime(2019, 4, 1, 20, 0, tzinfo=UTC))
    write_raw(folder, 841_003, "object", EVENING)
    write_raw(folder, 841_004, "object", EVENING + timedelta(minutes=1))
    write_raw(folder, 841_005, "zero", datetime(2019, 4, 2, 13, 0, tzinfo=UTC))
    return folder


def ingest(butler: Butler, folder: Path, transfer: str = "direct", **kwargs: Exclusions) -> RawIngestReport:
    search = find_raws(folder, **kwargs)
    assert search.rejected == ()
    report = ingest_raws(butler, search.exposures, search.excluded, transfer=transfer)
    for path in report.moved:
        path.unlink()
    return report


def tagged(butler: Butler, kind: str, night: int = NIGHT) -> list[tuple[int, int]]:
    refs = butler.query_datasets("raw", f"{night}/{kind}/raw", explain=False, limit=None)
    return sorted((ref.dataId["exposure"], ref.dataId["detector"]) for ref in refs)


def of(*expnums: int, ccds: tuple[int, ...] = CCDS) -> list[tuple[int, int]]:
    return [(expnum, ccd) for expnum in expnums for ccd in ccds]


def snapshot(butler: Butler) -> list[str]:
    """Everything that an ingest can change in the registry."""
    elements = ("day_obs", "group", "exposure", "visit", "visit_definition", "visit_detector_region")
    records = [str(r) for e in elements for r in butler.query_dimension_records(e, limit=None, explain=False)]
    return sorted([*records, *map(str, butler.query_datasets("raw", "*", limit=None, find_first=False))])


def test_a_night(butler: Butler, files: Path) -> None:
    report = ingest(butler, files)
    assert report.ingested == [841_001, 841_002, 841_003, 841_004, 841_005]
    assert (report.datasets, report.nights, report.skipped, report.refused) == (15, [NIGHT], [], [])
    (note,) = report.incomplete
    assert "exposures 841001, 841002, 841003, 841004, 841005 have 3 of 62 detectors;" in note
    assert "missing: 1 (S29), 3 (S31), 4 (S25), 5" in note
    assert note.endswith(" and 49 more")
    assert tagged(butler, "flat") == of(841_001)
    assert tagged(butler, "bias") == of(841_002, 841_005)
    assert tagged(butler, "drp") == of(841_003, 841_004)

    exposures = {record.id: record for record in butler.query_dimension_records("exposure")}
    assert [exposures[n].observation_type for n in sorted(exposures)] == [
        "dome flat",
        "zero",
        "science",
        "science",
        "zero",
    ]
    # The morning's bias serves this night; its day_obs stays LSST's.
    assert [exposures[n].day_obs for n in sorted(exposures)] == [NIGHT] * 4 + [20190402]
    science = exposures[841_003]
    assert science.timespan.begin.utc.to_datetime(timezone=UTC) == EVENING
    assert (science.timespan.end - science.timespan.begin).sec == pytest.approx(30, abs=1e-6)
    assert (science.target_name, science.science_program) == ("COSMOS-1", "2019A-0305")
    assert (science.tracking_ra, science.can_see_sky, science.exposure_time) == (
        pytest.approx(150.119, abs=1e-3),
        True,
        30.0,
    )
    assert exposures[841_002].can_see_sky is False
    assert exposures[841_002].physical_filter == "solid plate 0.0 0.0"
    for night, record in {r.id: r for r in butler.query_dimension_records("day_obs")}.items():
        assert all(
            record.timespan.contains(exposure.timespan.begin)
            for exposure in exposures.values()
            if exposure.day_obs == night
        )


def test_visits_are_those_of_the_sky(butler: Butler, files: Path) -> None:
    ingest(butler, files)
    visits = butler.query_dimension_records("visit")
    assert sorted(visit.id for visit in visits) == [841_003, 841_004]
    definitions = butler.query_dimension_records("visit_definition", instrument="DECam", visit=841_003)
    assert [record.exposure for record in definitions] == [841_003]
    regions = {
        record.detector: record.region
        for record in butler.query_dimension_records(
            "visit_detector_region", instrument="DECam", visit=841_003, limit=None
        )
    }
    assert len(regions) == 62
    for visit in visits:
        center = UnitVector3d(LonLat.fromDegrees(150.119, 2.206))
        assert visit.region.contains(center)
        assert all(visit.region.contains(region) for region in regions.values())
    # The camera does not rotate: +y is east, +x is south.
    for detector in CCDS:
        angle = detector_geometry(detector).to_field_angle.apply_forward(x=1024, y=2048)
        ra = 150.119167 + np.degrees(angle.y) / np.cos(np.radians(2.2))
        point = UnitVector3d(LonLat.fromDegrees(float(ra), float(2.205833 - np.degrees(angle.x))))
        assert [number for number, region in regions.items() if region.contains(point)] == [detector]


def test_again_adds_nothing(butler: Butler, files: Path) -> None:
    ingest(butler, files)
    before = snapshot(butler)
    again = ingest(butler, files)
    assert (again.ingested, again.datasets, again.untagged) == ([], 0, 0)
    assert again.already_there == [841_001, 841_002, 841_003, 841_004, 841_005]
    assert snapshot(butler) == before


def test_ids_are_the_same_in_every_repository(
    butler: Butler, files: Path, empty_repository: Path, tmp_path: Path
) -> None:
    ingest(butler, files)
    shutil.copytree(empty_repository, tmp_path / "other")
    with Butler.from_config(str(tmp_path / "other"), writeable=True) as other:
        ingest(other, files)
        ids = [{ref.id for ref in one.query_datasets("raw", RUN, limit=None)} for one in (butler, other)]
    assert ids[0] == ids[1]


def test_pixels_come_back(butler: Butler, files: Path) -> None:
    ingest(butler, files)
    where = {"instrument": "DECam", "exposure": 841_003, "collections": f"{NIGHT}/drp/raw"}
    for detector in CCDS:
        raw = raw_detector(butler.get("raw", detector=detector, **where), "the Butler")
        assert (raw.exposure, raw.detector) == (841_003, detector)
        np.testing.assert_array_equal(raw.pixels, pixels(detector))
    box = butler.get("raw.bbox", detector=2, **where)
    assert box.shape == pixels(2).shape
    part = butler.get("raw", detector=2, parameters={"bbox": box.padded(-4)}, **where)
    np.testing.assert_array_equal(part.array, pixels(2)[4:-4, 4:-4])
    assert DarkEnergyCamera().getRawFormatter({}) is RawFormatter


@pytest.mark.parametrize("transfer", ["direct", "symlink", "copy", "move"])
def test_transfers(butler: Butler, files: Path, transfer: str) -> None:
    content = {path.name: path.read_bytes() for path in files.iterdir()}
    ingest(butler, files, transfer)
    (root,) = butler.get_datastore_roots().values()
    assert root is not None
    uris = {butler.getURI(ref) for ref in butler.query_datasets("raw", RUN, limit=None)}
    assert len(uris) == 5  # one artifact for all detectors of an exposure
    for path in (Path(uri.ospath) for uri in uris):
        assert path.is_relative_to(root.ospath) == (transfer != "direct")
        assert path.is_symlink() == (transfer == "symlink")
        assert path.read_bytes() in content.values()
    assert {path.name for path in files.iterdir()} == (set() if transfer == "move" else set(content))
    if transfer != "move":
        assert ingest(butler, files, transfer).datasets == 0
        assert {path.name: path.read_bytes() for path in files.iterdir()} == content


def test_a_move_never_loses_a_file(butler: Butler, files: Path) -> None:
    ingest(butler, files, "direct")
    ingest(butler, files, "move")  # the repository refers to these very files
    assert len(list(files.iterdir())) == 5
    butler.get("raw", instrument="DECam", exposure=841_003, detector=2, collections=RUN)


def test_a_killed_move_is_completed_by_the_next(
    butler: Butler, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_files = butler.ingest

    def killed(*datasets: object, **kwargs: object) -> None:
        ingest_files(*datasets, **kwargs)
        raise KeyboardInterrupt  # after the files, before the end of the transaction

    with monkeypatch.context() as patched:
        patched.setattr(butler, "ingest", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(butler, files, "move")
    assert len(list(files.iterdir())) == 5
    assert butler.query_datasets("raw", RUN, explain=False) == []
    assert ingest(butler, files, "move").datasets == 15
    assert list(files.iterdir()) == []


KILLED = """
import os, sys
from tololo.reduction import ingest_raw
from tololo.reduction.formats.raw_search import find_raws
from lsst.daf.butler import Butler

repository, folder, transfer = sys.argv[1:]
butler = Butler.from_config(repository, writeable=True)
ingest = butler.ingest

def killed(*files, **kwargs):
    ingest(*files, **kwargs)
    os.kill(os.getpid(), 9)

butler.ingest = killed
ingest_raw.ingest_raws(butler, find_raws(folder).exposures, transfer=transfer)
"""


@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_what_was_killed_at_once_is_completed_by_the_next(
    butler: Butler, files: Path, tmp_path: Path, transfer: str
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "repo"), str(files), transfer]
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == -9
    (root,) = butler.get_datastore_roots().values()
    assert root is not None
    assert list(Path(root.ospath).rglob("*.fits.fz")), "it was killed with the files there"
    content = {path.read_bytes() for path in files.iterdir()}
    assert len(content) == 5
    assert ingest(butler, files, transfer).datasets == 15
    uris = {butler.getURI(ref) for ref in butler.query_datasets("raw", RUN, limit=None)}
    assert {Path(uri.ospath).read_bytes() for uri in uris} == content
    assert len(list(files.iterdir())) == (0 if transfer == "move" else 5)


def test_a_killed_ingest_leaves_whole_exposures(
    butler: Butler, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tololo.reduction.ingest_raw.EXPOSURES_AT_ONCE", 2)
    ingest_files, calls = butler.ingest, []

    def killed(*datasets: object, **kwargs: object) -> None:
        ingest_files(*datasets, **kwargs)
        calls.append(datasets)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(butler, "ingest", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(butler, files)
    assert len(butler.query_datasets("raw", RUN, limit=None)) == 6
    assert len(butler.query_dimension_records("exposure")) == 2
    report = ingest(butler, files)
    assert (report.ingested, report.already_there) == ([841_003, 841_004, 841_005], [841_001, 841_002])
    assert tagged(butler, "drp") == of(841_003, 841_004)


def test_a_detector_that_comes_later(butler: Butler, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "files", 841_003, ccds=[2, 35])
    ingest(butler, tmp_path / "files")
    path.unlink()
    write_raw(tmp_path / "files", 841_003)
    report = ingest(butler, tmp_path / "files")
    assert (report.ingested, report.datasets) == ([841_003], 1)
    assert tagged(butler, "drp") == of(841_003)
    assert len(butler.query_dimension_records("visit")) == 1


def test_another_file_with_a_number_that_is_taken_is_refused(butler: Butler, tmp_path: Path) -> None:
    first = write_raw(tmp_path / "first", 841_003)
    ingest(butler, tmp_path / "first")
    second = write_raw(tmp_path / "second", 841_003, when=EVENING + timedelta(hours=2), ccds=[7])
    good = write_raw(tmp_path / "second", 841_004, when=EVENING + timedelta(hours=3))
    report = ingest(butler, tmp_path / "second")
    (error,) = report.refused
    assert "Two files claim exposure 841003" in error.what
    assert str(first) in error.what
    assert str(second) in error.where
    assert report.ingested == [841_004], good
    assert tagged(butler, "drp") == of(841_003, 841_004)


def test_what_was_found_bad_later_leaves_the_night(butler: Butler, files: Path) -> None:
    ingest(butler, files)
    bad = Exclusions(
        exposures=(
            BadExposure(841_002, "light in the dome", "A. Observer"),
            BadExposure(841_003, "CCD saturated", "A. Observer", (35,)),
        )
    )
    report = ingest(butler, files, exclusions=bad)
    assert (report.datasets, report.untagged) == (0, 4)
    assert tagged(butler, "bias") == of(841_005)
    assert tagged(butler, "drp") == [*of(841_003, ccds=(2, 61)), *of(841_004)]
    assert len(butler.query_datasets("raw", RUN, limit=None)) == 15
    # Taken off the list, it comes back.
    assert ingest(butler, files).datasets == 0
    assert tagged(butler, "drp") == of(841_003, 841_004)


def test_excluded_exposures_do_not_go_in(butler: Butler, files: Path) -> None:
    bad = Exclusions(exposures=(BadExposure(841_003, "clouds", "A. Observer"),))
    report = ingest(butler, files, exclusions=bad)
    assert 841_003 not in report.ingested
    assert tagged(butler, "drp") == of(841_004)


def test_observations_that_no_pipeline_takes_are_not_tagged(butler: Butler, tmp_path: Path) -> None:
    write_raw(tmp_path / "files", 841_003, "standard")
    report = ingest(butler, tmp_path / "files")
    assert report.datasets == 3
    assert [tagged(butler, kind) for kind in ("bias", "flat", "drp")] == [[], [], []]
    assert butler.query_dimension_records("visit", explain=False) == []


def test_every_night_has_its_three_tags(butler: Butler, tmp_path: Path) -> None:
    write_raw(tmp_path / "files", 841_003, "zero", ccds=[2])
    ingest(butler, tmp_path / "files")
    tags = butler.collections.query("*", collection_types=CollectionType.TAGGED)
    assert sorted(tags) == [f"{NIGHT}/{kind}/raw" for kind in ("bias", "drp", "flat")]


def test_refusals(butler: Butler, files: Path, tmp_path: Path) -> None:
    exposures = find_raws(files).exposures
    with pytest.raises(BadInputError, match="direct, symlink, copy, move"):
        ingest_raws(butler, exposures, transfer="beam")
    Butler.makeRepo(str(tmp_path / "bare"))
    with (
        Butler.from_config(str(tmp_path / "bare"), writeable=True) as bare,
        pytest.raises(BadInputError, match="repo_bootstrap"),
    ):
        ingest_raws(bare, exposures)


def test_nothing_is_no_error(butler: Butler) -> None:
    report = ingest_raws(butler, [])
    assert (report.ingested, report.nights, report.datasets) == ([], [], 0)


@needs(FIELD)
def test_the_raw_of_an_exposure_that_came_as_instcal(butler: Butler, tmp_path: Path) -> None:
    (exposure,) = [e for e in find_instcal(FIELD).triples if e.day_obs == 20180211]
    ingest_instcal(butler, [exposure])
    (narrow,) = butler.query_dimension_records("visit")
    header = fits.getheader(exposure.detectors[0].image.path)
    when = datetime.fromisoformat(header["DATE-OBS"]).replace(tzinfo=UTC)
    cards = {"TELRA": header["TELRA"], "TELDEC": header["TELDEC"], "FILTER": header["FILTER"]}
    write_raw(tmp_path / "files", exposure.expnum, when=when, change=cards)
    report = ingest(butler, tmp_path / "files")
    assert (report.ingested, report.refused) == ([exposure.expnum], [])
    (wide,) = butler.query_dimension_records("visit")
    assert wide.region.contains(narrow.region)
    assert wide.region.contains(nominal_region(1, exposure.ra, exposure.dec))
    regions = butler.query_dimension_records(
        "visit_detector_region", instrument="DECam", visit=exposure.expnum, limit=None
    )
    assert len(regions) == 62
    assert len(butler.query_datasets("raw", "20180211/drp/raw")) == 3


@needs(REAL / "decam_raw")
def test_the_real_exposure(butler: Butler, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    path = REAL / "decam_raw" / "cutout_c4d_200306_000415_ori.fits.fz"
    os.symlink(path, folder / path.name)
    report = ingest(butler, folder)
    assert (report.ingested, report.datasets, report.incomplete) == ([941_420], 62, [])
    assert len(tagged(butler, "drp", 20200305)) == 62
    (record,) = butler.query_dimension_records("exposure")
    assert (record.target_name, record.science_program) == ("Starlink 1102", "2019A-0305")
    assert record.physical_filter == "g DECam SDSS c0001 4720.0 1520.0"
    image = butler.get("raw", instrument="DECam", exposure=941_420, detector=62, collections=RUN)
    with pytest.raises(BadInputError, match="sections do not fit"):
        raw_detector(image, "the Butler")


@pytest.mark.services
def test_a_registry_on_postgresql(registry_url: str, files: Path, tmp_path: Path) -> None:
    bootstrap(BootstrapPlan(str(tmp_path / "served"), registry_url, "raws"), ["create", "instrument"])
    with Butler.from_config(str(tmp_path / "served"), writeable=True) as butler:
        assert ingest(butler, files).datasets == 15
        assert tagged(butler, "bias") == of(841_002, 841_005)
        before = snapshot(butler)
        assert ingest(butler, files).datasets == 0
        assert snapshot(butler) == before
        image = butler.get("raw", instrument="DECam", exposure=841_003, detector=35, collections=RUN)
        np.testing.assert_array_equal(image.array, pixels(35))

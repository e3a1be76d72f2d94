from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler, CollectionType
from lsst.sphgeom import LonLat, UnitVector3d

from real_data import FIELD, needs
from tololo.facility.errors import BadInputError
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.reduction.ingest import detector_region, ingest_instcal
from tololo.reduction.instrument import DarkEnergyCamera

NIGHTS = [20150410, 20170315, 20170328, 20170418, 20170521, 20180127, 20180211, 20180224, 20180313]

pytestmark = needs(FIELD)


@pytest.fixture
def butler(tmp_path: Path) -> Butler:
    Butler.makeRepo(str(tmp_path / "repo"))
    butler = Butler.from_config(str(tmp_path / "repo"), writeable=True)
    DarkEnergyCamera().register(butler.registry)
    return butler


def test_real_folder(butler: Butler) -> None:
    exposures = find_instcal(FIELD).triples
    report = ingest_instcal(butler, exposures)
    assert (len(report.ingested), report.datasets, report.nights, report.skipped) == (9, 27, NIGHTS, [])

    again = ingest_instcal(butler, exposures)
    assert (again.ingested, len(again.already_there), again.datasets, again.skipped) == ([], 9, 0, [])
    assert len(butler.query_datasets("instcal_image", "DECam/instcal/all")) == 9

    visits = {visit.id: visit for visit in butler.query_dimension_records("visit")}
    assert sorted(visit.day_obs for visit in visits.values()) == NIGHTS
    for exposure in exposures:
        (ref,) = butler.query_datasets("instcal_mask", f"{exposure.day_obs}/instcal/raw")
        assert ref.dataId["physical_filter"] == exposure.physical_filter
        visit = visits[exposure.expnum]
        assert visit.timespan.begin.utc.mjd == pytest.approx(exposure.mjd_utc, abs=1e-9)
        (ccd,) = exposure.detectors
        (record,) = butler.query_dimension_records(
            "visit_detector_region", visit=exposure.expnum, instrument="DECam"
        )
        height, width = ccd.shape
        corners = WCS(fits.getheader(ccd.image.path, 1)).all_pix2world(
            [-0.5, width - 0.5, -0.5, width - 0.5], [-0.5, -0.5, height - 0.5, height - 0.5], 0
        )
        for ra, dec in zip(*corners, strict=True):
            vector = UnitVector3d(LonLat.fromDegrees(ra, dec))
            assert record.region.contains(vector)
            assert visit.region.contains(vector)


def test_planes_come_back_as_they_are(butler: Butler) -> None:
    (exposure,) = [e for e in find_instcal(FIELD).triples if e.day_obs == 20180211]
    ingest_instcal(butler, [exposure])
    (ccd,) = exposure.detectors
    for plane, dataset in (
        ("image", "instcal_image"),
        ("weight", "instcal_weight"),
        ("mask", "instcal_mask"),
    ):
        got = butler.get(
            dataset,
            instrument="DECam",
            exposure=exposure.expnum,
            detector=ccd.ccdnum,
            collections="20180211/instcal/raw",
        )
        place = getattr(ccd, plane)
        np.testing.assert_array_equal(got.array, fits.getdata(place.path, place.hdu))
        assert got.array.dtype.isnative
        assert got.metadata["EXPNUM"] == exposure.expnum
        assert got.metadata["CCDNUM"] == ccd.ccdnum
    part = butler.get(
        "instcal_image",
        instrument="DECam",
        exposure=exposure.expnum,
        detector=ccd.ccdnum,
        collections="20180211/instcal/raw",
        parameters={"bbox": got.bbox.padded(-100)},
    )
    assert part.array.shape == tuple(side - 200 for side in ccd.shape)


@pytest.mark.parametrize("transfer", ["copy", "symlink"])
def test_other_transfers(butler: Butler, transfer: str) -> None:
    exposures = find_instcal(FIELD).triples[:1]
    ingest_instcal(butler, exposures, transfer=transfer)
    (ref,) = butler.query_datasets("instcal_image", "DECam/instcal/all")
    path = Path(butler.getURI(ref).ospath)
    assert path.is_relative_to(Path(butler.get_datastore_roots()[butler.get_datastore_names()[0]].ospath))
    assert path.is_symlink() == (transfer == "symlink")
    assert butler.get(ref).array.shape == exposures[0].detectors[0].shape
    assert ingest_instcal(butler, exposures, transfer=transfer).datasets == 0


def two_detectors(tmp_path: Path) -> Path:
    """An exposure of two detectors in one file for each plane: the real one, and its pixels as another."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in (FIELD / "exposures").glob("c4d_180212_*"):
        with fits.open(path) as hdus:
            second = hdus[1].copy()
            second.header["CCDNUM"], second.header["DETPOS"], second.header["EXTNAME"] = 35, "N4", "N4"
            second.header["CRVAL1"] += 0.3
            fits.HDUList([hdus[0].copy(), hdus[1].copy(), second]).writeto(folder / path.name)
    return folder


def test_detectors_share_files_and_later_ones_widen_the_visit(tmp_path: Path, butler: Butler) -> None:
    (exposure,) = find_instcal(two_detectors(tmp_path)).triples
    assert [ccd.ccdnum for ccd in exposure.detectors] == [34, 35]
    ingest_instcal(butler, [replace(exposure, detectors=exposure.detectors[:1])])
    (narrow,) = butler.query_dimension_records("visit")
    report = ingest_instcal(butler, [exposure])
    assert (report.ingested, report.datasets) == ([exposure.expnum], 3)
    (wide,) = butler.query_dimension_records("visit")
    far = detector_region(exposure.detectors[1])
    assert wide.region.contains(far)
    assert not narrow.region.contains(far)
    assert len(butler.query_datasets("instcal_weight", "20180211/instcal/raw")) == 2
    uris = {butler.getURI(ref) for ref in butler.query_datasets("instcal_image", "DECam/instcal/all")}
    assert len(uris) == 1
    pixels = butler.get(
        "instcal_image",
        instrument="DECam",
        exposure=exposure.expnum,
        detector=35,
        collections="DECam/instcal/all",
    )
    assert pixels.metadata["DETPOS"] == "N4"


def test_killed_ingest_leaves_whole_exposures(butler: Butler, monkeypatch: pytest.MonkeyPatch) -> None:
    exposures = find_instcal(FIELD).triples
    ingest, calls = butler.ingest, []

    def killed(*files: object, **kwargs: object) -> None:
        ingest(*files, **kwargs)
        calls.append(files)
        if len(calls) == 4:  # after the files, before the tag
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(butler, "ingest", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest_instcal(butler, exposures)
    assert len(butler.query_datasets("instcal_image", "DECam/instcal/all")) == 3
    assert len(butler.query_dimension_records("visit")) == 3
    report = ingest_instcal(butler, exposures)
    assert (len(report.already_there), len(report.ingested), report.datasets) == (3, 6, 18)
    tags = butler.collections.query("*/instcal/raw", collection_types=CollectionType.TAGGED)
    assert sum(len(butler.query_datasets("instcal_image", tag)) for tag in tags) == 9


def test_another_reduction_is_reported(tmp_path: Path, butler: Butler) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for path in (FIELD / "bad_astrometry").iterdir():
        shutil.copy(path, older)
    (old,) = find_instcal(older).triples
    ingest_instcal(butler, [old], transfer="copy")
    report = ingest_instcal(butler, find_instcal(FIELD).triples)
    (note,) = report.skipped
    assert f"exposure {old.expnum}" in note
    assert "newer reduction" in note
    assert old.plver in note
    assert report.datasets == 24


def test_refusals(tmp_path: Path, butler: Butler) -> None:
    exposures = find_instcal(FIELD).triples[:1]
    with pytest.raises(BadInputError, match="direct, symlink, copy"):
        ingest_instcal(butler, exposures, transfer="move")
    Butler.makeRepo(str(tmp_path / "bare"))
    with (
        Butler.from_config(str(tmp_path / "bare"), writeable=True) as bare,
        pytest.raises(BadInputError, match="repo_bootstrap"),
    ):
        ingest_instcal(bare, exposures)

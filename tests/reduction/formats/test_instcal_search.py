"""Finding InstCal exposures: the real ones by header, and each fault with its one message."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from real_data import FIELD, needs
from tololo.facility.errors import BadInputError
from tololo.reduction.formats.instcal_search import InstcalSearch, find_instcal
from tololo.simulation.faults import spoil
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.plan import Fault, FaultKind, Plan, PlannedExposure

needs_real_data = needs(FIELD)

TINY = Plan(
    exposures=(PlannedExposure(20190305), PlannedExposure(20190402, science=True)),
    detectors=(28, 35),
    shape=(256, 300),
    transients=2,
    galaxies=5,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_nights(tmp_path_factory.mktemp("simulation") / "nights", plan=TINY).images


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Two exposures of two detectors to spoil."""
    return Path(shutil.copytree(written, tmp_path / "data"))


def message(folder: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        find_instcal(folder)
    return str(caught.value)


def numbers(search: InstcalSearch) -> list[tuple[int, int]]:
    return [(exposure.expnum, ccd.ccdnum) for exposure in search.triples for ccd in exposure.detectors]


@needs_real_data
def test_real_field_has_nine_exposures() -> None:
    search = find_instcal(FIELD)
    found = {(e.expnum, e.band, e.day_obs, e.detectors[0].name) for e in search.triples}
    assert found == {
        (431608, "z", 20150410, "N3"),
        (630780, "z", 20170315, "N2"),
        (634850, "g", 20170328, "N3"),
        (640615, "z", 20170418, "S1"),
        (650104, "r", 20170521, "N2"),
        (716705, "r", 20180127, "N3"),
        (720558, "z", 20180211, "N3"),
        (725257, "g", 20180224, "S1"),
        (730182, "r", 20180313, "S1"),
    }
    assert [e.mjd_utc for e in search.triples] == sorted(e.mjd_utc for e in search.triples)
    newest = search.triples[-1]
    assert (newest.exptime, newest.airmass, newest.plver) == (59.0, 1.76, "V4.8.2a")
    assert newest.object == "DECaLS_41312_r"
    assert newest.physical_filter == "r DECam SDSS c0002 6415.0 1480.0"
    assert (newest.ra, newest.dec) == (pytest.approx(187.61533, abs=1e-4), pytest.approx(25.42989, abs=1e-4))
    assert newest.detectors[0].shape == (190, 251)
    assert len(newest.files) == 3


@needs_real_data
def test_real_older_reduction_is_superseded_and_the_rest_ignored_by_name() -> None:
    search = find_instcal(FIELD)
    (older,) = search.superseded
    assert (older.expnum, older.ccdnum, older.plver, older.kept_plver) == (431608, 34, "V3.6.2", "V4.8.2a")
    assert {path.parent.name for path in older.files} == {"bad_astrometry"}
    assert len(older.files) == len(older.kept) == 3
    assert "V3.6.2" in str(older)
    assert "V4.8.2a" in str(older)
    ignored = {item.path.name: item.reason for item in search.ignored}
    expected = {
        path.name for pattern in ("psfex/*", "gaia/*", "survey-ccds*") for path in FIELD.glob(pattern)
    }
    assert set(ignored) == expected
    assert all("BINTABLE" in reason for name, reason in ignored.items() if "psfex" in name)


@needs_real_data
def test_real_older_reduction_alone_is_taken() -> None:
    search = find_instcal(FIELD / "bad_astrometry")
    assert [(e.expnum, e.plver) for e in search.triples] == [(431608, "V3.6.2")]


@needs_real_data
def test_names_decide_nothing(tmp_path: Path) -> None:
    """Cut-outs carry the image's header three times over, and still the planes are told apart."""
    for number, path in enumerate(sorted((FIELD / "exposures").iterdir())):
        shutil.copyfile(path, tmp_path / f"{(number * 7) % 27}.dat")
    search = find_instcal(tmp_path)
    assert len(search.triples) == 9
    for exposure in search.triples:
        ccd = exposure.detectors[0]
        image, weight, mask = (
            fits.getdata(place.path, place.hdu) for place in (ccd.image, ccd.weight, ccd.mask)
        )
        assert np.issubdtype(mask.dtype, np.integer)
        assert np.array_equal(weight == 0, mask != 0)
        assert np.median(image) > 100 > 1 > np.median(weight)


def test_detectors_are_found_by_ccdnum_whatever_their_order(folder: Path) -> None:
    mask = sorted(folder.glob("*_ood_*"))[0]
    with fits.open(mask, disable_image_compression=True) as hdus:
        fits.HDUList([hdus[0], hdus[2], hdus[1]]).writeto(folder / "swapped.fits.fz")
    (folder / "swapped.fits.fz").replace(mask)
    first = find_instcal(folder).triples[0]
    assert [(ccd.ccdnum, ccd.name, ccd.image.hdu, ccd.mask.hdu) for ccd in first.detectors] == [
        (28, "S4", 1, 2),
        (35, "N4", 2, 1),
    ]


def test_one_exposure_in_a_file_per_detector_is_one_exposure(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "split" / "deep").mkdir(parents=True)
    for path in folder.iterdir():
        with fits.open(path) as hdus:
            for hdu in hdus[1:]:
                plain = fits.ImageHDU(hdu.data, hdu.header)
                fits.HDUList([hdus[0].copy(), plain]).writeto(
                    tmp_path / "split" / "deep" / f"{hdu.name}{path.stem}.fits"
                )
    assert numbers(find_instcal(tmp_path / "split")) == [
        (840001, 28),
        (840001, 35),
        (840002, 28),
        (840002, 35),
    ]


def test_newer_pipeline_wins_per_detector(folder: Path) -> None:
    old = folder / "old"
    old.mkdir()
    for path in list(folder.glob("*.fz")):
        shutil.copyfile(path, old / path.name)
        fits.setval(old / path.name, "PLVER", value="V5.5beta", ext=0)
    search = find_instcal(folder)
    assert {
        place.path.parent for e in search.triples for ccd in e.detectors for place in (ccd.image, ccd.mask)
    } == {folder}
    assert {(item.plver, item.kept_plver) for item in search.superseded} == {("V5.5beta", "V5.5")}


def test_copies_are_named_and_taken_once(folder: Path) -> None:
    shutil.copytree(folder, folder / "copy")
    (folder / "link.fits.fz").symlink_to(next(iter(folder.glob("*_ooi_*"))))
    search = find_instcal(folder)
    assert len(search.triples) == 2
    assert {path.parent.name for item in search.superseded for path in item.files} == {"copy"}
    assert any("the same file as" in item.reason for item in search.ignored)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("truncated", ["cut short", "HDU", "_ooi_", "fetch the file again"]),
        ("missing_weight", ["weight of exposure 840002 is missing (detector S4, N4)", "_ooi_", "`*_oow_*`"]),
        ("missing_mask", ["mask of exposure 840002 is missing (detector S4, N4)", "_ooi_", "`*_ood_*`"]),
        ("unknown_filter", ["q DECam c0099", "card FILTER", "_ooi_", "the known ones are"]),
        ("not_decam", ["exposure 840002", "not from DECam", "Mosaic3", "INSTRUME", "take them out"]),
    ],
)
def test_each_fault_has_one_message(folder: Path, kind: FaultKind, expected: list[str]) -> None:
    spoil(folder, Fault(kind, exposure=1))
    text = message(folder)
    assert not [part for part in expected if part not in text]
    assert text.count("What to do:") == 1


def test_wrong_wcs_is_no_matter_of_the_files(folder: Path) -> None:
    before = find_instcal(folder).triples[0].detectors[0].wcs_header
    spoil(folder, Fault("wrong_wcs", exposure=0, pixels=4))
    after = find_instcal(folder).triples[0].detectors[0].wcs_header
    assert float(after["CRPIX1"]) - float(before["CRPIX1"]) == 4
    assert {**before, "CRPIX1": 0} == {**after, "CRPIX1": 0}


def test_a_file_cut_anywhere_is_noticed_without_its_pixels(folder: Path) -> None:
    image = sorted(folder.glob("*_ooi_*"))[0]
    whole = image.read_bytes()
    for share in (0.001, 0.03, 0.3, 0.52, 0.9, 0.99):
        image.write_bytes(whole[: int(share * len(whole))])
        text = message(folder)
        assert "cut short" in text
        assert image.name in text
        assert text.count("What to do:") == 1
    image.write_bytes(b"")
    assert "not FITS" in message(folder)


def _drop(cards: str, ext: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in sorted(folder.glob("*_190306_*")):
            with fits.open(path, mode="update", disable_image_compression=True) as hdus:
                for card in cards.split():
                    del hdus[ext].header[card]

    return change


def _set(card: str, value: object, ext: int = 0) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in sorted(folder.glob("*_190306_*")):
            with fits.open(path, mode="update", disable_image_compression=True) as hdus:
                hdus[ext].header[card] = value

    return change


def _shrink(folder: Path) -> None:
    (weight,) = folder.glob("*_190306_*_oow_*")
    with fits.open(weight) as hdus:
        planes = [fits.ImageHDU(hdu.data[:-2], hdu.header) for hdu in hdus[1:]]
        fits.HDUList([hdus[0].copy(), *planes]).writeto(folder / "small.fits")
    (folder / "small.fits").replace(weight)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_drop("EXPTIME", 0), ["EXPTIME is missing", "_ooi_", "HDU 0"]),
        (_drop("MJD-OBS", 0), ["MJD-OBS is missing", "_ooi_"]),
        (_set("EXPTIME", -5.0), ["EXPTIME is '-5.0'", "positive number"]),
        (_drop("EXPNUM", 0), ["exposure number is missing", "card EXPNUM"]),
        (_drop("CCDNUM", 1), ["detector number is missing", "HDU 1", "card CCDNUM"]),
        (_set("CCDNUM", 65, 1), ["detector number is 65"]),
        (_drop("CRVAL1", 1), ["WCS is missing: no CRVAL1", "HDU 1"]),
        (_set("CD1_2", 0.0, 1), ["WCS is unusable"]),
        (_drop("FILTER", 0), ["filter is missing"]),
        (_drop("GAINA GAINB", 1), ["gain is missing", "HDU 1"]),
        (_shrink, ["differ in size", "300 x 254", "300 x 256"]),
    ],
)
def test_what_headers_lack(folder: Path, change: Callable[[Path], None], expected: list[str]) -> None:
    change(folder)
    text = message(folder)
    assert not [part for part in expected if part not in text]


def test_all_problems_come_in_one_error(folder: Path) -> None:
    spoil(folder, Fault("truncated", exposure=0))
    spoil(folder, Fault("missing_weight", exposure=1))
    text = message(folder)
    assert "cut short" in text
    assert "weight of exposure 840002 is missing" in text
    assert "none was taken" in text


def test_a_long_list_is_cut(folder: Path) -> None:
    source = sorted(folder.glob("*_ooi_*"))[0].read_bytes()
    for number in range(30):
        path = folder / f"c4d_{number:02d}_ooi_r.fits.fz"
        path.write_bytes(source)
        fits.setval(path, "EXPNUM", value=900000 + number, ext=0)
    text = message(folder)
    assert text.count("\n") <= 22
    assert "more" in text


def test_what_is_no_instcal_is_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("clear night")
    (folder / "empty.dat").touch()
    (folder / "gone.fits").symlink_to(folder / "nowhere.fits")
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(folder / "plain.fits")
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.BinTableHDU.from_columns([fits.Column("a", "D", array=[1.0])], name="PSFEX_MOD"),
        ]
    ).writeto(folder / "c4d_180314_055922_ooi_r_psfex.fits")
    raw = fits.PrimaryHDU()
    raw.header.update(INSTRUME="DECam", PROCTYPE="RAW", EXPNUM=1)
    raw.writeto(folder / "raw.fits")
    image = sorted(folder.glob("*_ooi_*.fz"))[0]
    (folder / "copy.fits.gz").write_bytes(gzip.compress(image.read_bytes()))
    stacked = folder / "exposure_map.fits.fz"
    shutil.copyfile(image, stacked)
    fits.setval(stacked, "PRODTYPE", value="expmap", ext=0)
    reasons = {item.path.name: item.reason for item in find_instcal(folder).ignored}
    assert reasons.pop("gone.fits").startswith("broken symbolic link")
    assert reasons == {
        "notes.txt": "not a FITS file",
        "empty.dat": "an empty file",
        "plain.fits": "not an InstCal file (image; no PROCTYPE)",
        "c4d_180314_055922_ooi_r_psfex.fits": "not an InstCal file (BINTABLE PSFEX_MOD; no PROCTYPE)",
        "raw.fits": "not an InstCal file (empty; PROCTYPE RAW, INSTRUME DECam)",
        "copy.fits.gz": "a gzipped InstCal file: unpack it with gunzip to use it",
        "exposure_map.fits.fz": "an InstCal product of another kind (PRODTYPE expmap)",
    }


def test_folders_without_triples(tmp_path: Path) -> None:
    assert "does not exist" in message(tmp_path / "nowhere")
    assert "is empty" in message(tmp_path)
    (tmp_path / "notes.txt").write_text("clear night")
    text = message(tmp_path)
    assert "notes.txt: not a FITS file" in text
    assert "name a folder" in text
    assert "is not a folder" in message(tmp_path / "notes.txt")

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from astro_metadata_translator.indexing import calculate_index
from astro_metadata_translator.tests import read_test_file
from astropy.io import fits
from astropy.time import Time

from real_data import REAL, needs
from reduction.raw_files import EVENING, NIGHT, detector_cards, pixels, write_raw
from tololo.facility.bad_exposures import BadExposure, Exclusions
from tololo.facility.errors import BadInputError
from tololo.reduction.formats import raw_search
from tololo.reduction.formats.raw_exposure import RawExposure, inspect_raw
from tololo.reduction.formats.raw_search import find_raws, one_error

REAL_RAW = REAL / "decam_raw"


def found(folder: Path, **kwargs: Any) -> list[RawExposure]:
    search = find_raws(folder, **kwargs)
    assert search.rejected == ()
    return list(search.exposures)


def test_what_the_header_says(tmp_path: Path) -> None:
    path = write_raw(tmp_path, 841_001)
    (exposure,) = found(tmp_path)
    assert exposure.path == path
    assert (exposure.exposure, exposure.obs_id) == (841_001, "ct4m20190402t013000")
    assert (exposure.observation_type, exposure.kind, exposure.is_science) == ("science", "drp", True)
    assert exposure.physical_filter == "g DECam SDSS c0001 4720.0 1520.0"
    assert (exposure.day_obs, exposure.night) == (NIGHT, NIGHT)
    assert (exposure.target, exposure.program, exposure.group) == ("COSMOS-1", "2019A-0305", "841001")
    assert exposure.begin == pytest.approx(Time(EVENING).tai.mjd, abs=1e-9)
    assert (exposure.exposure_time, exposure.dark_time) == (30.0, 30.5)
    assert (exposure.ra, exposure.dec) == (
        pytest.approx(150.119167, abs=1e-4),
        pytest.approx(2.205833, abs=1e-4),
    )
    assert (exposure.azimuth, exposure.zenith_angle) == (pytest.approx(10.25), pytest.approx(32.5))
    assert exposure.sky_angle == 90.0
    assert exposure.can_see_sky is True
    assert exposure.on_file == exposure.detectors == (2, 35, 61)  # not the focus CCD


@pytest.mark.parametrize(
    ("obstype", "observation_type", "kind", "sees_sky"),
    [
        ("zero", "zero", "bias", False),
        ("dome flat", "dome flat", "flat", False),
        ("object", "science", "drp", True),
        ("dark", "dark", "", False),
        ("sky flat", "sky flat", "", True),
        ("standard", "standard", "", True),
    ],
)
def test_kinds_of_observation(
    tmp_path: Path, obstype: str, observation_type: str, kind: str, sees_sky: bool
) -> None:
    write_raw(tmp_path, 841_001, obstype)
    (exposure,) = found(tmp_path)
    assert (exposure.observation_type, exposure.kind) == (observation_type, kind)
    assert exposure.can_see_sky is sees_sky
    if obstype == "zero":
        assert exposure.physical_filter == "solid plate 0.0 0.0"


@pytest.mark.parametrize(
    ("obstype", "when", "day_obs", "night"),
    [
        # 16:30 in Chile, the afternoon before
        ("dome flat", datetime(2019, 4, 1, 19, 30, tzinfo=UTC), 20190401, 20190401),
        # 06:50, before noon TAI
        ("zero", datetime(2019, 4, 2, 9, 50, tzinfo=UTC), 20190401, 20190401),
        # 10:00: the next day_obs, but it is the night just ended that it serves
        ("zero", datetime(2019, 4, 2, 13, 0, tzinfo=UTC), 20190402, 20190401),
        ("dark", datetime(2019, 4, 2, 13, 0, tzinfo=UTC), 20190402, 20190401),
        # 13:30: for the night that comes
        ("zero", datetime(2019, 4, 2, 16, 30, tzinfo=UTC), 20190402, 20190402),
        # what looks at the sky has its day_obs and nothing else
        ("object", datetime(2019, 4, 2, 13, 0, tzinfo=UTC), 20190402, 20190402),
        ("sky flat", datetime(2019, 4, 2, 10, 40, tzinfo=UTC), 20190401, 20190401),
    ],
)
def test_the_night_that_an_exposure_serves(
    tmp_path: Path, obstype: str, when: datetime, day_obs: int, night: int
) -> None:
    write_raw(tmp_path, 841_001, obstype, when)
    (exposure,) = found(tmp_path)
    assert (exposure.day_obs, exposure.night) == (day_obs, night)


def test_exposures_are_in_time_order_at_any_depth(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        write_raw(tmp_path / f"part{number}", 841_000 + number, when=EVENING + timedelta(minutes=number))
    assert [exposure.exposure for exposure in found(tmp_path)] == [841_001, 841_002, 841_003]


def test_other_processes_find_the_same(tmp_path: Path) -> None:
    for number in range(7):
        write_raw(tmp_path, 841_000 + number, when=EVENING + timedelta(minutes=number), ccds=[35])
    (tmp_path / "c4d_bad_ori.fits.fz").write_bytes(b"SIMPLE  = but then it ends")
    one, three = find_raws(tmp_path, processes=1), find_raws(tmp_path, processes=3)
    assert len(one.exposures) == 7
    assert one.exposures == three.exposures
    assert [str(error) for error in one.rejected] == [str(error) for error in three.rejected]
    assert isinstance(three.rejected[0], BadInputError)


def test_slow_files_are_shared_among_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(21):
        write_raw(tmp_path, 841_000 + number, when=EVENING + timedelta(minutes=number), ccds=[35])
    alone = find_raws(tmp_path, processes=1)
    elsewhere, shares = raw_search._elsewhere, []

    def noted(jobs: Sequence[raw_search.Job]) -> list[raw_search.Finding]:
        shares.append(len(jobs))
        return elsewhere(jobs)

    monkeypatch.setattr(raw_search, "_elsewhere", noted)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert find_raws(tmp_path) == alone
    assert shares == []  # twenty files are not worth it
    monkeypatch.setattr(raw_search, "_START_SECONDS", 1e-6)
    assert find_raws(tmp_path) == alone
    assert shares == [2]  # of the five after the trial


def test_files_that_are_no_raws_are_ignored(tmp_path: Path) -> None:
    raw = write_raw(tmp_path, 841_001)
    write_raw(tmp_path, 841_002, name="ooi.fits.fz", change={"PROCTYPE": "InstCal"})
    write_raw(tmp_path, 841_003, name="mosaic.fits.fz", change={"INSTRUME": "Mosaic3"})
    (tmp_path / "notes.txt").write_text("clouds at 3 h")
    (tmp_path / "link.fits.fz").symlink_to(raw)
    (tmp_path / "gone.fits.fz").symlink_to(tmp_path / "nowhere")
    search = find_raws(tmp_path)
    assert len(search.exposures) == 1
    assert search.rejected == ()
    reasons = {item.path.name: item.reason for item in search.ignored}
    assert set(reasons) == {"ooi.fits.fz", "mosaic.fits.fz", "notes.txt", "link.fits.fz", "gone.fits.fz"}
    assert "InstCal" in reasons["ooi.fits.fz"]
    assert "Mosaic3" in reasons["mosaic.fits.fz"]
    assert "same file" in reasons["link.fits.fz"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"FILTER": None}, "FILTER is missing"),
        ({"FILTER": "q DECam c0099 1.0 2.0"}, "'q DECam c0099 1.0 2.0' is not a filter"),
        ({"OBSTYPE": "quux"}, "observation type 'quux' is not known"),
        ({"OBSTYPE": None}, "observation type 'none' is not known"),
        ({"EXPNUM": None}, "exposure number is missing"),
        ({"EXPNUM": "many"}, "exposure number is 'many'"),
        ({"DATE-OBS": None}, "DATE-OBS is missing"),
        ({"DATE-OBS": "yesterday"}, "DATE-OBS is missing or unusable"),
        ({"OBSID": None}, "OBSID is missing"),
        ({"EXPTIME": None}, "EXPTIME is missing"),
        ({"EXPTIME": -3.0}, "EXPTIME is -3.0"),
        ({"EXPTIME": "long"}, "EXPTIME is missing or unusable"),
        ({"TELRA": None}, "pointing is missing"),
        ({"TELRA": "here"}, "pointing is missing"),
    ],
)
def test_a_bad_header_is_reported_and_the_rest_is_found(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    write_raw(tmp_path, 841_001)
    bad = write_raw(tmp_path, 841_002, when=EVENING + timedelta(minutes=1), change=change)
    search = find_raws(tmp_path)
    assert [exposure.exposure for exposure in search.exposures] == [841_001]
    (error,) = search.rejected
    assert says in error.what
    assert str(bad) in error.where
    assert error.remedy


def test_damaged_files_are_reported_in_one_message(tmp_path: Path) -> None:
    write_raw(tmp_path, 841_001)
    cut = write_raw(tmp_path, 841_002, when=EVENING + timedelta(minutes=1))
    cut.write_bytes(cut.read_bytes()[:-4000])
    (tmp_path / "page.fits.fz").write_text("<html>not found</html>")
    (tmp_path / "empty.fits.fz").touch()
    wrong = write_raw(
        tmp_path, 841_003, when=EVENING + timedelta(minutes=2), ccds=[2], change_ccd={"DETPOS": "S29"}
    )
    twice = write_raw(tmp_path, 841_004, when=EVENING + timedelta(minutes=3), ccds=[2, 2])
    search = find_raws(tmp_path)
    assert [exposure.exposure for exposure in search.exposures] == [841_001]
    error = one_error(search.rejected)
    assert error is not None
    for text in (
        "5 raw files cannot be taken",
        f"cut short: it has {cut.stat().st_size} bytes",
        "page.fits.fz",
        "empty.fits.fz",
        f"Detector 2 is S30, but the header calls it S29. Where: {wrong}",
        f"Two HDUs claim detector 2: 1 and 2. Where: {twice}",
    ):
        assert text in str(error)


def test_two_files_that_claim_one_exposure(tmp_path: Path) -> None:
    first = write_raw(tmp_path, 841_001, name="a.fits.fz")
    second = write_raw(tmp_path, 841_001, when=EVENING + timedelta(hours=1), name="b.fits.fz")
    search = find_raws(tmp_path)
    assert [exposure.path for exposure in search.exposures] == [first]
    (error,) = search.rejected
    assert "Two files claim exposure 841001" in error.what
    assert str(first) in error.what
    assert str(second) in error.where


def test_of_copies_the_fullest_is_taken(tmp_path: Path) -> None:
    write_raw(tmp_path, 841_001, name="a.fits.fz", ccds=[35])
    full = write_raw(tmp_path, 841_001, name="b.fits.fz")
    search = find_raws(tmp_path)
    assert [exposure.path for exposure in search.exposures] == [full]
    assert search.rejected == ()
    assert "another copy of exposure 841001" in search.ignored[0].reason


def test_what_the_facility_does_not_want(tmp_path: Path) -> None:
    for number, target in enumerate(("COSMOS-1", "Pointing test", "DONUTS FN1", "focus-42", "COSMOS-2")):
        when = EVENING + timedelta(minutes=number)
        write_raw(tmp_path, 841_000 + number, when=when, change={"OBJECT": target})
    wanted = Exclusions(
        exposures=(
            BadExposure(841_000, "telescope moved", "A. Observer"),
            BadExposure(841_004, "light leak", "B. Observer", (2, 61)),
        )
    )
    search = find_raws(tmp_path, wanted)
    (good,) = search.exposures
    assert (good.exposure, good.detectors, good.on_file) == (841_004, (35,), (2, 35, 61))
    notes = [str(item) for item in search.excluded]
    assert len(notes) == 5
    assert any("841000" in note and "telescope moved (A. Observer)" in note for note in notes)
    assert any("detector 2, 61" in note and "light leak (B. Observer)" in note for note in notes)
    assert any("'Pointing test' has the word 'pointing'" in note for note in notes)
    everything = find_raws(tmp_path, Exclusions(words=()))
    assert len(everything.exposures) == 5
    of_night = search.of_night(20190402)
    assert (of_night.exposures, of_night.excluded) == ((), ())


def write_index(folder: Path, content: str = "translated") -> Path:
    """Write it as an observatory would; the tool itself can write one of headers only within a stack."""
    path = folder / "_index.json"
    if content == "metadata":
        headers = {
            file.name: {**fits.getheader(file), **fits.getheader(file, 1)}
            for file in folder.glob("*.fits.fz")
        }
        path.write_text(json.dumps(calculate_index(headers, content)))
        return path
    code = "from astro_metadata_translator.cli.astrometadata import main; main()"
    command = [sys.executable, "-c", code, "write-index", "-c", content, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("content", ["translated", "metadata"])
def test_an_index_is_used(tmp_path: Path, content: str) -> None:
    write_raw(tmp_path, 841_001, ccds=[2])
    write_raw(tmp_path, 841_002, "zero", EVENING + timedelta(minutes=1), ccds=[2])
    without = found(tmp_path)
    index = write_index(tmp_path, content)
    assert found(tmp_path) == without
    # What it says differs from the files: then it is what it says that is found.
    changed = json.loads(index.read_text())
    key = {"translated": "science_program", "metadata": "PROPID"}[content]
    assert changed["__COMMON__"][key] == "2019A-0305"
    changed["__COMMON__"][key] = "2020B-0001"
    index.write_text(json.dumps(changed))
    assert [exposure.program for exposure in found(tmp_path)] == ["2020B-0001"] * 2


def test_an_index_that_cannot_be_right_is_passed_over(tmp_path: Path) -> None:
    path = write_raw(tmp_path, 841_001)
    without = found(tmp_path)
    index = write_index(tmp_path)
    content = index.read_text()
    # Of another exposure, as where a file was replaced by one of the same name.
    index.write_text(content.replace("841001", "841009").replace("2019A-0305", "2020B-0001"))
    assert found(tmp_path) == without
    # Older than the file.
    index.write_text(content.replace("2019A-0305", "2020B-0001"))
    os.utime(index, (path.stat().st_mtime - 10,) * 2)
    assert found(tmp_path) == without
    index.write_text("{")
    search = find_raws(tmp_path)
    assert list(search.exposures) == without
    assert "no usable index" in search.ignored[0].reason


@pytest.mark.parametrize("spoilt", ["absent", "empty", "file"])
def test_a_folder_without_files_is_one_message(tmp_path: Path, spoilt: str) -> None:
    folder = tmp_path / spoilt
    if spoilt == "empty":
        folder.mkdir()
    if spoilt == "file":
        folder.write_text("")
    with pytest.raises(BadInputError) as caught:
        find_raws(folder)
    assert str(folder) in str(caught.value)
    assert "What to do" in str(caught.value)


@needs(REAL_RAW)
def test_the_real_exposure(tmp_path: Path) -> None:
    name = "cutout_c4d_200306_000415_ori.fits.fz"
    shutil.copy(REAL_RAW / name, tmp_path)
    (exposure,) = found(tmp_path)
    expected = {}
    lines = (REAL_RAW / "expectedStandardizedValues.yaml").read_text().split(f"{name}:")[1].splitlines()
    for line in lines[lines.index("  metadata:") + 1 : lines.index("  wcs:")]:
        key, _, value = line.strip().partition(": ")
        expected[key] = value.strip("'")
    assert exposure.program == expected["science_program"]
    assert exposure.physical_filter == expected["filter_name"]
    assert exposure.exposure_time == float(expected["exposure_duration"])
    begin = Time(exposure.begin, format="mjd", scale="tai")
    assert abs(begin.tt - Time(expected["datetime_begin"], scale="tt")).sec < 1e-4  # expected in TT
    end = begin.mjd + exposure.exposure_time / 86400
    assert end == pytest.approx(Time(expected["datetime_end"], scale="tt").tai.mjd, abs=1e-9)
    assert exposure.on_file == tuple(range(1, 63))
    assert (exposure.exposure, exposure.night, exposure.target) == (941_420, 20200305, "Starlink 1102")
    assert (exposure.observation_type, exposure.obs_id) == ("science", "ct4m20200306t000415")
    assert exposure.ra == pytest.approx(84.2014, abs=1e-3)
    assert exposure.dec == pytest.approx(-21.2049, abs=1e-3)


@needs(REAL_RAW)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fitsheader-decam-0160496", (160_496, "zero", "solid plate 0.0 0.0", 20121211)),
        (
            "fitsheader-decam-raw_dec050441_25",
            (177_764, "science", "g DECam SDSS c0001 4720.0 1520.0", 20130212),
        ),
        ("fitsheader-decam", (229_388, "science", "z DECam SDSS c0004 9260.0 1520.0", 20130831)),
    ],
)
def test_other_real_raw_headers(tmp_path: Path, name: str, expected: tuple[int, str, str, int]) -> None:
    header = read_test_file(str(REAL_RAW / "other_headers" / f"{name}.yaml"))
    exposure = inspect_raw(as_file(header, tmp_path / "raw.fits"))
    assert isinstance(exposure, RawExposure)
    assert (
        exposure.exposure,
        exposure.observation_type,
        exposure.physical_filter,
        exposure.night,
    ) == expected
    assert f"{exposure.night}" == str(header["DTCALDAT"]).replace("-", "")
    assert exposure.obs_id == header["OBSID"]


@needs(REAL_RAW)
@pytest.mark.parametrize(
    "name",
    ["fitsheader-decam-calexp-0412037_10", "fitsheader-decam-instcal-c4d_190402_050618_ooi_VR_v1"],
)
def test_real_headers_of_reduced_files_are_no_raws(tmp_path: Path, name: str) -> None:
    header = read_test_file(str(REAL_RAW / "other_headers" / f"{name}.yaml"))
    reason = inspect_raw(as_file(header, tmp_path / "reduced.fits"))
    assert isinstance(reason, str)
    assert "InstCal" in reason


def as_file(header: Any, path: Path) -> Path:
    """Write merged cards as a primary header with one small CCD behind it."""
    structure = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "EXTEND", "PCOUNT", "GCOUNT", "TFIELDS", "BZERO")
    primary = fits.Header()
    for key, value in dict(header).items():
        if len(key) <= 8 and not key.startswith((*structure, "TTYPE", "TFORM", "Z", "COMMENT", "HISTORY")):
            primary[key] = value if not isinstance(value, list) else value[0]
    primary["ZD"] = header.get("ZD")
    hdus = [
        fits.PrimaryHDU(header=primary),
        fits.ImageHDU(pixels(25), fits.Header(detector_cards(25).items())),
    ]
    fits.HDUList(hdus).writeto(path)
    return path

"""Nights of raws: when their exposures are taken, what goes wrong on demand, and how a folder is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astro_metadata_translator import ObservationInfo
from astro_metadata_translator.translators import DecamTranslator
from astropy.io import fits

from tololo.facility.errors import BadInputError
from tololo.facility.nights import night_of
from tololo.reduction.formats.raw import read_raw
from tololo.reduction.formats.refcat import read_refcat
from tololo.simulation.raw import simulate_raw_nights
from tololo.simulation.raw_plan import RawFault, RawNight, RawPlan
from tololo.simulation.raw_reference import ps1_to_decam
from tololo.simulation.raw_schedule import RawExposure, schedule
from tololo.simulation.raw_truth import RawTruth

TINY = RawPlan(
    nights=(RawNight(20190305, zeros=1, flats=1, objects=2),),
    detectors=(28, 35),
    shape=(160, 320),
    galaxies=3,
    transients=0,
    bad_columns=1,
    bad_pixels=4,
    trails=0.0,
)
FAULTY = replace(
    TINY,
    nights=(
        RawNight(20190305, zeros=2, flats=1, objects=3),
        RawNight(20190306, zeros=1, flats=0, objects=1, bands=("g",)),
        RawNight(20190307, zeros=0, flats=1, objects=2, exptime=30.0, transients=True),
    ),
    faults=(
        RawFault("missing_detector", 20190305, 1, "zero", detector=35),
        RawFault("unknown_filter", 20190305, 0, "dome flat"),
        RawFault("clouded", 20190305, 0),
        RawFault("truncated", 20190305, 1),
        RawFault("wrong_pointing", 20190305, 2),
        RawFault("clouded", 20190307, 1),
    ),
    transients=2,
)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> RawTruth:
    return simulate_raw_nights(tmp_path_factory.mktemp("faulty") / "nights", FAULTY, 2)


def _files(truth: RawTruth, night: int) -> dict[str, list[Path]]:
    rows = truth.calibrations[truth.calibrations["planned"] == night]
    science = truth.exposures[truth.exposures["night"] == night]
    return {
        kind: [truth.images / row["image"] for row in rows if row["obstype"] == kind]
        for kind in ("zero", "dome flat")
    } | {"object": [truth.images / row["image"] for row in science]}


def test_nights_lack_what_the_plan_leaves_out(faulty: RawTruth) -> None:
    counts = {
        night: [len(files) for files in _files(faulty, night).values()]
        for night in (20190305, 20190306, 20190307)
    }
    assert counts == {20190305: [2, 1, 3], 20190306: [1, 0, 1], 20190307: [0, 1, 2]}
    names = [path.name for path in sorted(faulty.images.iterdir())]
    assert len(names) == 11
    assert {name.split("_")[-1] for name in names} == {"zri.fits.fz", "fri.fits.fz", "ori.fits.fz"}
    assert list(faulty.exposures["visit"]) == sorted(faulty.exposures["visit"])
    visits = [*faulty.exposures["visit"], *faulty.calibrations["visit"]]
    assert len(set(visits)) == 11


def test_a_missing_detector_is_missing_once(faulty: RawTruth) -> None:
    first, second = _files(faulty, 20190305)["zero"]
    with fits.open(first) as hdus:
        assert [hdu.header["CCDNUM"] for hdu in hdus[1:]] == [28, 35]
        assert hdus[0].header["NEXTEND"] == 2
    with fits.open(second) as hdus:
        assert [hdu.header["CCDNUM"] for hdu in hdus[1:]] == [28]
        assert hdus[0].header["NEXTEND"] == 1
    with pytest.raises(BadInputError, match="no detector 35"):
        read_raw(second, 35)


def test_a_truncated_file_cannot_be_read_to_its_end(faulty: RawTruth) -> None:
    path = _files(faulty, 20190305)["object"][1]
    with pytest.raises(BadInputError, match="cut short"):
        read_raw(path, 35)
    assert list(faulty.exposures["fault"]) == [
        "clouded",
        "truncated",
        "wrong_pointing",
        "none",
        "none",
        "clouded",
    ]


def test_a_wrong_header_names_no_filter_of_the_camera(faulty: RawTruth) -> None:
    header = fits.getheader(_files(faulty, 20190305)["dome flat"][0])
    assert header["FILTER"].startswith("q DECam")


def test_a_wrong_pointing_is_off_by_ten_arcminutes(faulty: RawTruth) -> None:
    row = faulty.exposures[2]
    raw = read_raw(faulty.images / row["image"], 28)
    believed = raw.wcs.all_pix2world([[100, 100]], 0)[0]
    true = faulty.wcs(row["visit"], 28).all_pix2world([[100, 100]], 0)[0]
    assert (believed - true)[1] * 3600 == pytest.approx(600, abs=15)
    fine = faulty.exposures[3]
    believed = read_raw(faulty.images / fine["image"], 28).wcs.all_pix2world([[100, 100]], 0)[0]
    true = faulty.wcs(fine["visit"], 28).all_pix2world([[100, 100]], 0)[0]
    assert 0.05 < np.hypot(*(believed - true)) * 3600 < 15


def test_clouds_dim_stars_unevenly(faulty: RawTruth) -> None:
    clouded, clear = faulty.exposures[0], faulty.exposures[2]
    assert clouded["transparency"] == pytest.approx(0.2, rel=0.25)
    assert clear["transparency"] > 0.85
    assert clouded["transparency_x"] != 0 == clear["transparency_x"]
    ratios = {}
    for detector in (28, 35):
        one, other = (faulty.sources(row["visit"], detector) for row in (clouded, clear))
        same = np.intersect1d(one["id"], other["id"])
        ratio = [float(t["electrons"][np.isin(t["id"], same)].sum()) for t in (one, other)]
        ratios[detector] = ratio[0] / ratio[1]
    expected = 10 ** (0.4 * (clouded["zero_point"] - clear["zero_point"]))
    assert all(0.4 < ratio / expected < 1.6 for ratio in ratios.values())
    assert abs(ratios[28] / ratios[35] - 1) > 0.005
    # Clouds do not make transients brighter that the clear exposure has to show.
    rows = faulty.transients[faulty.transients["kind"] == "transient"]
    seen = {visit: rows["snr"][rows["visit"] == visit] for visit in set(rows["visit"])}
    by_visit = [seen[visit].max() for visit in sorted(seen)]
    assert by_visit[0] > by_visit[1]


@pytest.mark.parametrize(
    ("when", "night", "hours"),
    [("afternoon", 20190305, (17, 23)), ("morning", 20190305, (9, 12)), ("late", 20190306, (12, 14))],
)
def test_calibrations_belong_to_the_night_of_their_time(
    when: str, night: int, hours: tuple[int, int]
) -> None:
    nights = (RawNight(20190305, zeros=3, flats=2, objects=1, calibrations=when),)  # type: ignore[arg-type]
    exposures = schedule(replace(TINY, nights=nights), np.random.default_rng(1))
    calibrations = [exposure for exposure in exposures if exposure.kind != "object"]
    assert len(calibrations) == 5
    for exposure in calibrations:
        assert exposure.seen.planned.night == night == night_of(exposure.seen.begin)
        assert hours[0] <= exposure.seen.begin.hour < hours[1]
        assert exposure.caldat == "2019-03-05"
    science = next(exposure for exposure in exposures if exposure.kind == "object")
    assert science.seen.planned.night == 20190305
    assert (exposures[0] is science) == (when != "afternoon")


def test_the_sun_is_down_and_the_field_high_in_every_season() -> None:
    for night, ra in ((20190110, 110.0), (20190410, 190.0), (20190621, 270.0), (20191010, 10.0)):
        plan = replace(
            TINY,
            ra=ra,
            dec=-30.0,
            nights=(RawNight(night, zeros=1, flats=1, objects=2, calibrations="morning"),),
        )
        exposures = schedule(plan, np.random.default_rng(1))
        science = [exposure for exposure in exposures if exposure.kind == "object"]
        assert all(exposure.seen.airmass < 1.2 for exposure in science)
        assert {exposure.seen.planned.night for exposure in exposures} == {night}
        assert all(_sun_altitude(exposure) < -12 for exposure in science)
        flats = [exposure for exposure in exposures if exposure.kind != "object"]
        assert all(-15 < _sun_altitude(exposure) < 10 for exposure in flats)


def test_catalogues_give_the_stars(tmp_path: Path) -> None:
    night = RawNight(20190305, zeros=0, flats=0, objects=1)
    plan = replace(TINY, stars_per_deg2=300_000, nights=(night,))
    first = simulate_raw_nights(tmp_path / "a", plan)
    (tmp_path / "catalogues").mkdir()
    for file in (first.reference, first.reference_ps1):
        (tmp_path / "catalogues" / file.parent.name).symlink_to(file.parent)
    for number, (folder, accuracy, faintest) in enumerate(
        [(first.reference.parent, 0.1, 21.0), (tmp_path / "catalogues", 0.04, 22.0)]
    ):
        again = simulate_raw_nights(tmp_path / f"again{number}", replace(plan, refcat=str(folder)))
        bright = first.stars[(first.stars["g"] < 18.5) & (first.stars["g"] > 14.6)]
        assert len(bright) > 10
        for star in bright:
            stretch = np.cos(np.radians(star["dec"]))
            near = np.hypot((again.stars["ra"] - star["ra"]) * stretch, again.stars["dec"] - star["dec"])
            twin = again.stars[int(np.argmin(near))]
            assert near.min() * 3600 < 0.01
            assert twin["flux_r"] == pytest.approx(star["flux_r"], rel=accuracy)
        assert 31.4 - 2.5 * np.log10(again.stars["flux_r"].min()) == pytest.approx(faintest, abs=0.6)


def test_ps1_lists_what_decam_sees(faulty: RawTruth) -> None:
    listed = read_refcat(faulty.reference_ps1)
    stars = faulty.stars
    rows = np.searchsorted(stars["id"], listed["id"] % 10**17)
    g, r, i = (31.4 - 2.5 * np.log10(listed[f"{band}_flux"]) for band in "gri")
    off = r + ps1_to_decam(g - i, "r") - (31.4 - 2.5 * np.log10(stars["flux_r"][rows]))
    error = listed["r_fluxErr"] / listed["r_flux"] * 1.0857
    assert len(listed) > 30
    assert np.std(off / error) == pytest.approx(1, abs=0.25)
    assert abs(np.median(off[r < 20])) < 0.01


def test_same_plan_and_seed_same_bytes_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    plan = replace(TINY, detectors=(35,), nights=(RawNight(20190305, zeros=1, flats=1, objects=1),))
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate_raw_nights(tmp_path / name, plan, seed)
    first, other = _digest(tmp_path / "a"), _digest(tmp_path / "c")
    assert first == _digest(tmp_path / "b") != other
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    simulate_raw_nights(tmp_path / "a", plan, 3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before
    simulate_raw_nights(tmp_path / "b", plan, 4)
    assert _digest(tmp_path / "b") == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_what_is_no_simulation_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(BadInputError, match="holds no simulation"):
        simulate_raw_nights(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.long
def test_several_processes_write_the_same(tmp_path: Path) -> None:
    simulate_raw_nights(tmp_path / "a", TINY, 3)
    simulate_raw_nights(tmp_path / "b", TINY, 3, processes=2)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b")


@pytest.mark.long
def test_a_whole_exposure_has_all_detectors(tmp_path: Path) -> None:
    plan = replace(
        TINY, detectors=tuple(range(1, 63)), nights=(RawNight(20190305, zeros=1, flats=0, objects=1),)
    )
    truth = simulate_raw_nights(tmp_path / "a", plan)
    for path in truth.images.iterdir():
        infos = [
            ObservationInfo(h, translator_class=DecamTranslator)
            for h in DecamTranslator.determine_translatable_headers(str(path))
        ]
        assert [info.detector_num for info in infos] == list(range(1, 63))
    means = [truth.frames(number).flats["r"].mean() for number in range(1, 63)]
    assert np.mean(means) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(TINY, nights=()), "no night"),
        (lambda: replace(TINY, detectors=(63,)), "not a science detector"),
        (lambda: replace(TINY, shape=(64, 512)), "cannot be 64 x 512"),
        (lambda: replace(TINY, shape=(4097, 2048)), "cannot be 4097 x 2048"),
        (lambda: replace(TINY, shape=(256, 301)), "even number"),
        (lambda: replace(TINY, nights=(RawNight(20190305), RawNight(20190305))), "planned twice"),
        (lambda: replace(TINY, nights=(RawNight(20190305, bands=("VR",)),)), "no band 'VR'"),
        (lambda: replace(TINY, refcat="/nowhere/at/all"), "does not exist"),
        (lambda: replace(TINY, faults=(RawFault("truncated", 20190306),)), "no object 0"),
        (lambda: replace(TINY, faults=(RawFault("truncated", 20190305, 2),)), "has 2 of them"),
        (lambda: replace(TINY, faults=(RawFault("clouded", 20190305, 0, "zero"),)), "Only a science"),
        (lambda: replace(TINY, faults=(RawFault("missing_detector", 20190305, detector=1),)), "not planned"),
        (lambda: replace(TINY, ra=10.0), "not up in night"),
        (lambda: replace(TINY, nights=(RawNight(20190305, exptime=4e4),)), "the dark lasts"),
        (
            lambda: replace(TINY, nights=(RawNight(20190621, flats=200, calibrations="morning"),), ra=270.0),
            "fit into the morning",
        ),
    ],
)
def test_plans_that_cannot_be_carried_out(
    tmp_path: Path, change: Callable[[], RawPlan], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        simulate_raw_nights(tmp_path / "a", change())
    assert not list(tmp_path.iterdir())


def _sun_altitude(exposure: RawExposure) -> float:
    from astropy.coordinates import AltAz, EarthLocation, get_sun
    from astropy.time import Time

    when = Time(exposure.seen.begin)
    where = EarthLocation.from_geodetic(-70.81489, -30.16606, 2215)
    return float(get_sun(when).transform_to(AltAz(obstime=when, location=where)).alt.deg)


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()

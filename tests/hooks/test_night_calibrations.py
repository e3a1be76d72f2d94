from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from astropy.time import Time
from lsst.daf.butler import Butler, CollectionType

from tololo.facility.calibrations import NO_OWN, checked_limits
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.nights import shift
from tololo.hooks.calibrations import certifications, certify
from tololo.hooks.curated_calibrations import dead_detectors, register_curated, register_types
from tololo.hooks.night_calibrations import NightCalibrations, certify_night, read_record
from tololo.hooks.validity import parse_validity

from .curated import content, die, in_process, snapshot
from .night_repository import DETECTORS, NIGHT, G, R, add_raws, build, make, used

DEFECTS = """# %ECSV 1.0
# ---
# datatype:
# - {name: x0, datatype: int32}
# - {name: y0, datatype: int32}
# - {name: width, unit: pix, datatype: int32}
# - {name: height, unit: pix, datatype: int32}
# - {name: valid, datatype: string}
# - {name: reason, datatype: string}
# schema: astropy-2.0
x0 y0 width height valid reason
"""
BEFORE, AFTER = shift(NIGHT, -1), shift(NIGHT, 1)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nights") / "repo")


@pytest.fixture
def folder(empty: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty, tmp_path / "repo"))


@pytest.fixture
def butler(folder: Path) -> Iterator[Butler]:
    with Butler.from_config(str(folder), writeable=True) as butler:
        yield butler


def decide(butler: Butler, kind: str = "bias", night: int = NIGHT, **options: Any) -> NightCalibrations:
    return certify_night(butler, night, kind, **options)


def record(butler: Butler, kind: str = "bias") -> dict[str, Any]:
    found = read_record(butler, NIGHT, kind)
    assert found is not None
    return found


def test_its_own_are_certified_for_that_night_alone(butler: Butler) -> None:
    run = make(butler, "bias")
    report = decide(butler)
    assert (report.certified, report.known, report.removed) == (3, 0, 0)
    assert report.uses == [
        {"physical_filter": "", "night": NIGHT, "age": 0, "reason": "", "detectors": list(DETECTORS)}
    ]
    assert (report.borrowed, report.rejected, report.missing) == ([], [], [])
    assert used(butler, "bias") == dict.fromkeys(DETECTORS, run)
    (span,) = {item.timespan for item in certifications(butler, f"{NIGHT}/calib/bias", "bias")}
    assert span is not None
    assert span == parse_validity(report.validity)
    # From noon TAI; to 13:00 in Chile (summer time ended on April 7), when a morning flat is of this night.
    assert span.begin == Time("2019-04-01T12:00:00", scale="tai")
    assert span.end == Time("2019-04-02T16:00:00", scale="utc")
    assert record(butler)["uses"] == report.uses


def test_twice_is_once(folder: Path, butler: Butler) -> None:
    make(butler, "bias")
    decide(butler)
    before = content(folder)
    report = decide(butler)
    assert (report.certified, report.known, report.removed) == (0, 3, 0)
    assert content(folder) == before


def test_a_night_that_is_reduced_again_replaces_its_own(butler: Butler) -> None:
    make(butler, "bias")
    decide(butler)
    newer = make(butler, "bias", hour=1, detectors=(26,))
    report = decide(butler)
    assert (report.certified, report.known, report.removed) == (1, 2, 1)
    assert used(butler, "bias")[26] == newer
    assert used(butler, "bias")[25] != newer
    assert len(certifications(butler, f"{NIGHT}/calib/bias", "bias")) == 3


def test_what_is_not_good_enough_is_not_certified_and_named(butler: Butler) -> None:
    make(butler, "bias", detectors=(25,), read_noise=33.0)
    make(butler, "bias", BEFORE)
    decide(butler, night=BEFORE)
    report = decide(butler)
    (bad,) = report.rejected
    assert bad["detectors"] == [25]
    assert bad["reason"] == "read_noise of amplifier B is 33, above 20"
    assert "bias for detector 25 rejected: read_noise" in str(report)
    reasons = {use["detectors"][0]: use["reason"] for use in report.borrowed}
    assert reasons == {
        25: "its own was rejected: read_noise of amplifier B is 33, above 20",
        26: NO_OWN,
    }
    assert record(butler)["rejected"] == report.rejected
    wider = checked_limits({"bias": {"read_noise": [1, 40]}})
    report = decide(butler, limits=wider)
    assert (report.rejected, report.certified, report.removed) == ([], 1, 1)


def test_an_older_good_one_of_its_own_goes_before_a_newer_bad_one(butler: Butler) -> None:
    good = make(butler, "bias")
    make(butler, "bias", hour=1, variance_ratio=3.0)
    report = decide(butler)
    assert used(butler, "bias") == dict.fromkeys(DETECTORS, good)
    assert report.rejected[0]["detectors"] == list(DETECTORS)
    assert report.borrowed == []


def test_without_metrics_it_is_not_accepted(butler: Butler) -> None:
    run = make(butler, "bias")
    refs = butler.query_datasets("bias_metrics", run)
    butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
    with pytest.raises(BadInputError, match="there are no metrics"):
        decide(butler)


def test_the_nearest_night_lends_before_or_after_and_the_earlier_of_two(butler: Butler) -> None:
    for night, detectors in ((shift(NIGHT, -3), DETECTORS), (shift(NIGHT, 2), (25, 26)), (BEFORE, (25,))):
        make(butler, "bias", night, detectors=detectors)
        decide(butler, night=night)
    make(butler, "bias", AFTER, detectors=(25,))
    decide(butler, night=AFTER)
    report = decide(butler)
    lenders = {use["detectors"][0]: (use["night"], use["age"]) for use in report.borrowed}
    assert lenders == {25: (BEFORE, -1), 26: (shift(NIGHT, 2), 2), 27: (shift(NIGHT, -3), -3)}
    assert f"bias for detector 25 borrowed from {BEFORE} (1 day earlier): {NO_OWN}" in str(report)
    assert f"bias for detector 26 borrowed from {shift(NIGHT, 2)} (2 days later)" in str(report)
    assert used(butler, "bias")[27].startswith(f"{shift(NIGHT, -3)}/bias/")
    # What the night borrowed it does not lend: the age would add up.
    add_raws(butler, "drp", {201: R}, night=shift(NIGHT, 4))
    report = decide(butler, night=shift(NIGHT, 4), max_age=6, threshold=0.5)
    assert report.missing == ["bias for detector 27"]


def test_its_own_take_the_place_of_what_was_borrowed(butler: Butler) -> None:
    make(butler, "bias", BEFORE)
    decide(butler, night=BEFORE)
    assert decide(butler).certified == 3
    own = make(butler, "bias")
    report = decide(butler)
    assert (report.certified, report.removed, report.borrowed) == (3, 3, [])
    assert used(butler, "bias") == dict.fromkeys(DETECTORS, own)


def test_filters_are_borrowed_each_on_its_own(butler: Butler) -> None:
    make(butler, "flat", glass=R)
    make(butler, "flat", BEFORE, glass=G, detectors=(25, 26, 27))
    decide(butler, "flat", BEFORE)
    report = decide(butler, "flat")
    assert [(use["physical_filter"], use["night"]) for use in report.uses] == [(G, BEFORE), (R, NIGHT)]
    assert f"flat for filter g, detectors 25-27 borrowed from {BEFORE}" in str(report)


def test_beyond_the_age_one_message_names_what_is_missing(butler: Butler) -> None:
    make(butler, "flat", glass=R, detectors=(25,), counts=20.0)
    make(butler, "flat", shift(NIGHT, -2), glass=R, detectors=(26, 27))
    make(butler, "flat", shift(NIGHT, -5), glass=G)
    for days in (-2, -5):
        decide(butler, "flat", shift(NIGHT, days))
    with pytest.raises(BadInputError) as caught:
        decide(butler, "flat", max_age=4)
    message = str(caught.value)
    for text in (
        "no accepted flat for filter g, detectors 25-27; flat for filter r, detector 25",
        "its own were rejected: counts of amplifier B is 20, below 1000",
        f"night {NIGHT}; looked at nights {shift(NIGHT, -4)} to {shift(NIGHT, 4)}, of these",
        f"{shift(NIGHT, -2)} have some",
        "max_calib_age (now 4)",
        f"{NIGHT}/calib/flat",
    ):
        assert text in message
    # What there is, is certified, and the record says what is not.
    assert sorted(used(butler, "flat")) == [26, 27]
    assert record(butler, "flat")["missing"] == [
        "flat for filter g, detectors 25-27",
        "flat for filter r, detector 25",
    ]
    assert decide(butler, "flat", max_age=5, threshold=0.8).missing == ["flat for filter r, detector 25"]
    with pytest.raises(BadInputError, match=r"none of these has a bias"):
        decide(butler, "bias")
    with pytest.raises(BadInputError, match=rf"looked at night {NIGHT}, none"):
        decide(butler, "bias", max_age=0)


def test_only_what_the_raws_need_is_borrowed(butler: Butler) -> None:
    make(butler, "flat", BEFORE, glass=R)
    decide(butler, "flat", BEFORE)
    report = decide(butler, "flat", where="detector IN (25, 26) AND band = 'r'")
    assert [use["detectors"] for use in report.borrowed] == [[25, 26]]
    assert decide(butler, "flat", raws=[f"{NIGHT}/flat/raw"]).known == 3 - 1
    assert sorted(used(butler, "flat")) == [25, 26, 27]


def test_a_dead_ccd_needs_nothing(butler: Butler, tmp_path: Path) -> None:
    make(butler, "bias", detectors=DETECTORS[1:])
    with pytest.raises(BadInputError, match=f"detector {DETECTORS[0]}"):
        decide(butler)
    line = '0 0 2048 4096 20180101.. "dead"'
    for detector, what in ((DETECTORS[0], line), (DETECTORS[1], line.replace("2048", "1024"))):
        file = tmp_path / "curated" / "defects" / f"{detector}.ecsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(DEFECTS + what + "\n")
    register_types(butler)
    register_curated(butler, tmp_path / "curated")
    assert decide(butler).missing == []
    assert dead_detectors(butler, NIGHT) == {DETECTORS[0]}
    assert dead_detectors(butler, 20171231) == set()


def test_what_was_certified_by_hand_stays(butler: Butler) -> None:
    by_hand = make(butler, "bias", run="external/bias", detectors=(25,))
    certify(butler, f"{NIGHT}/calib/bias", ["bias"], [by_hand], f"{BEFORE}..{AFTER}")
    make(butler, "bias")
    report = decide(butler)
    assert (report.certified, report.known, report.removed) == (2, 1, 0)
    assert used(butler, "bias")[25] == by_hand
    assert [use["reason"] for use in report.uses] == ["", "certified by hand"]
    # Another night may borrow it from here.
    add_raws(butler, "drp", {201: R}, (25,), night=AFTER)
    assert decide(butler, night=AFTER).borrowed[0]["night"] == NIGHT


def test_what_the_facility_has_for_all_nights_is_not_missing(butler: Butler) -> None:
    run = make(butler, "bias", run="external/bias")
    certify(butler, "external/calib", ["bias"], [run], "..")
    butler.collections.register("DECam/calib", CollectionType.CHAINED)
    butler.collections.prepend_chain("DECam/calib", "external/calib")
    make(butler, "bias", detectors=(25,))
    report = decide(butler)
    assert (report.certified, report.missing) == (1, [])


def test_what_is_bad_now_and_has_no_substitute_goes(butler: Butler) -> None:
    make(butler, "bias")
    decide(butler)
    strict = checked_limits({"bias": {"read_noise": [None, 5.0]}})
    with pytest.raises(BadInputError, match="above 5"):
        decide(butler, limits=strict)
    assert used(butler, "bias") == {}


def killed_at(folder: Path, step: str) -> None:
    """Replace the night's biases, and die in the middle."""
    with Butler.from_config(str(folder), writeable=True) as butler:
        setattr(type(butler.registry), step, die)
        certify_night(butler, NIGHT, "bias")


@pytest.mark.parametrize("step", ["decertify", "certify"])
def test_killed_in_between_the_old_ones_stay_valid(folder: Path, butler: Butler, step: str) -> None:
    old = make(butler, "bias")
    decide(butler)
    new = make(butler, "bias", hour=1)
    process = in_process(killed_at, folder, step)
    process.join(60)
    assert process.exitcode == 9
    assert used(butler, "bias") == dict.fromkeys(DETECTORS, old)
    report = decide(butler)
    assert (report.certified, report.removed) == (3, 3)
    assert used(butler, "bias") == dict.fromkeys(DETECTORS, new)


@pytest.mark.services
def test_replacing_is_whole_on_postgresql_too(tmp_path: Path, registry_url: str) -> None:
    folder = build(tmp_path / "repo", registry_url=registry_url, namespace="night_calibrations")
    with Butler.from_config(str(folder), writeable=True) as butler:
        old = make(butler, "bias")
        decide(butler)
        new = make(butler, "bias", hour=1)
    process = in_process(killed_at, folder, "certify")
    process.join(60)
    assert process.exitcode == 9
    with Butler.from_config(str(folder), writeable=True) as butler:
        assert used(butler, "bias") == dict.fromkeys(DETECTORS, old)
        assert decide(butler).removed == 3
        assert used(butler, "bias") == dict.fromkeys(DETECTORS, new)
        assert decide(butler).known == 3


def watch(folder: Path, start: Any, stop: Any, said: Any) -> None:
    """Look again and again how many biases the night has."""
    seen = set()
    start.set()
    with Butler.from_config(str(folder)) as butler:
        while not stop.is_set():
            seen.add(len(certifications(butler, f"{NIGHT}/calib/bias", "bias")))
    said.put(seen)


def test_whoever_looks_finds_one_of_each(folder: Path, butler: Butler) -> None:
    make(butler, "bias")
    decide(butler)
    context = multiprocessing.get_context("fork")
    start, stop, said = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=watch, args=(folder, start, stop, said))
    process.start()
    start.wait(60)
    for hour in (1, 2):
        make(butler, "bias", hour=hour)
        assert decide(butler).removed == 3
    stop.set()
    assert said.get(timeout=60) == {3}
    process.join(60)


def test_a_dry_run_writes_nothing_and_says_what_is_missing(folder: Path, butler: Butler) -> None:
    make(butler, "bias", detectors=(25,))
    before = snapshot(folder)
    report = decide(butler, dry_run=True)
    assert (report.certified, report.missing) == (1, ["bias for detectors 26-27"])
    assert snapshot(folder) == before


def test_bad_input_is_named_and_nothing_is_written(folder: Path, butler: Butler) -> None:
    make(butler, "bias")
    before = snapshot(folder)
    for change, says in (
        ({"kind": "dark"}, "'dark' is not certified"),
        ({"night": "yesterday"}, "is not a night"),
        ({"max_age": -1}, "age of -1 days"),
        ({"where": "detector == 1"}, "cannot be understood"),
    ):
        with pytest.raises(BadInputError, match=says):
            decide(butler, **change)
    with pytest.raises(NothingToDoError, match="no flat of the night"):
        decide(butler, "flat", shift(NIGHT, 30))
    assert snapshot(folder) == before

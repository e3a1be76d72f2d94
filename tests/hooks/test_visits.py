from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Timespan

from real_data import FIELD, needs
from tololo.facility.errors import BadInputError
from tololo.hooks.curation import CurationHook
from tololo.reduction.instrument.pointing import nominal_region

from .curated import build_empty, content, die, in_process

NIGHT = 20190401
FILTER = "r DECam SDSS c0002 6415.0 1480.0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = build_empty(tmp_path_factory.mktemp("made") / "repo")
    add_exposures(repository)
    return repository


def add_exposures(repository: Path | str) -> None:
    """Two exposures of the sky, a flat, and one without a pointing."""
    with CurationHook(repository).open(writeable=True) as butler:
        registry = butler.registry
        timespan = Timespan.from_day_obs(NIGHT, offset=43200)
        registry.insertDimensionData("day_obs", {"instrument": "DECam", "id": NIGHT, "timespan": timespan})
        for number, changes in (
            (1, {}),
            (2, {"tracking_ra": 359.9, "tracking_dec": -89.5}),
            (3, {"observation_type": "dome flat", "can_see_sky": False}),
            (4, {"tracking_ra": None, "tracking_dec": None}),
        ):
            registry.insertDimensionData("group", {"instrument": "DECam", "name": str(number)})
            registry.insertDimensionData("exposure", exposure(number) | changes)


def exposure(number: int) -> dict[str, Any]:
    begin = Time("2019-04-02T03:00:00", scale="tai") + TimeDelta(200 * number, format="sec")
    return {
        "instrument": "DECam",
        "id": number,
        "obs_id": f"ct4m{number}",
        "physical_filter": FILTER,
        "day_obs": NIGHT,
        "group": str(number),
        "seq_num": number,
        "seq_start": number,
        "seq_end": number,
        "exposure_time": 100.0,
        "dark_time": 101.0,
        "observation_type": "science",
        "observation_reason": "science",
        "target_name": "COSMOS",
        "science_program": "2019A-0001",
        "tracking_ra": 150.1,
        "tracking_dec": 2.2,
        "sky_angle": 90.0,
        "zenith_angle": 32.0,
        "azimuth": 40.0,
        "has_simulated": False,
        "can_see_sky": True,
        "timespan": Timespan(begin, begin + TimeDelta(100, format="sec")),
    }


@pytest.fixture
def hook(made: Path, tmp_path: Path) -> CurationHook:
    return CurationHook(shutil.copytree(made, tmp_path / "repo"))


def records(hook: CurationHook, element: str) -> list[Any]:
    with hook.open() as butler:
        return butler.query_dimension_records(element, instrument="DECam", limit=None, explain=False)


def test_twice_is_once(hook: CurationHook) -> None:
    assert hook.define_visits(dry_run=True).defined == (1, 2)
    assert records(hook, "visit") == []
    report = hook.define_visits()
    assert (report.defined, report.known) == ((1, 2), 0)
    assert report.skipped == ("exposure 3 (dome flat)", "exposure 4 (no pointing)")
    assert len(records(hook, "visit_detector_region")) == 2 * 62
    before = content(hook.repository)
    report = hook.define_visits()
    assert (report.defined, report.known) == ((), 2)
    assert content(hook.repository) == before
    (visit,) = (record for record in records(hook, "visit") if record.id == 1)
    (source,) = (record for record in records(hook, "exposure") if record.id == 1)
    assert (visit.name, visit.day_obs, visit.physical_filter) == ("ct4m1", NIGHT, FILTER)
    assert visit.timespan == source.timespan
    with hook.open() as butler:
        found = butler.query_data_ids(
            ["visit", "exposure", "detector"], where="instrument = 'DECam' AND visit = 2 AND exposure = 2"
        )
        assert len(found) == 62


def test_the_data_query_chooses(hook: CurationHook) -> None:
    assert hook.define_visits("exposure = 2").defined == (2,)
    assert hook.define_visits("exposure.observation_type = 'dome flat'").defined == ()
    with pytest.raises(BadInputError, match=r"'exposre'.*on exposures"):
        hook.define_visits("exposre = 1")
    assert hook.define_visits().defined == (1,)


def test_killed_in_the_middle(hook: CurationHook, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsst.daf.butler import _registry_shim

    original, calls = _registry_shim.RegistryShim.insertDimensionData, []

    def die_later(self: Any, element: str, *data: Any, **options: Any) -> None:
        calls.append(element)
        if calls.count("visit_detector_region") == 2:
            die()
        original(self, element, *data, **options)

    with monkeypatch.context() as patched:
        patched.setattr(_registry_shim.RegistryShim, "insertDimensionData", die_later)
        process = in_process(hook.define_visits)
        process.join(120)
    assert process.exitcode == 9
    assert [record.id for record in records(hook, "visit")] == [1]
    assert hook.define_visits().defined == (2,)


@pytest.mark.parametrize(("ra", "dec"), [(150.1, 2.2), (0.0, -89.9), (359.99, 60.0)])
def test_the_detectors_are_as_large_and_as_far_apart_as_on_the_sky(ra: float, dec: float) -> None:
    regions = {ccd: nominal_region(ccd, ra, dec, padding=0) for ccd in (27, 28, 35)}
    half_diagonal = math.hypot(2048, 4096) / 2 * 0.2637 / 3600
    for region in regions.values():
        angle = region.getBoundingCircle().getOpeningAngle().asDegrees()
        assert angle == pytest.approx(half_diagonal, rel=0.01)
    for one, other, apart in ((28, 35, 33.8), (27, 28, 63.88)):
        offset = regions[one].getCentroid() - regions[other].getCentroid()
        assert offset.getNorm() * 206264.8 == pytest.approx(apart / 0.015 * 0.2637, rel=0.01)
        assert not regions[one].overlaps(regions[other])


@needs(FIELD)
def test_real_exposures_lie_where_the_camera_says(tmp_path: Path) -> None:
    from tololo.reduction.formats.instcal_search import find_instcal
    from tololo.reduction.ingest import detector_region

    exposures = find_instcal(FIELD).triples
    assert len(exposures) == 9
    for item in exposures:
        for detector in item.detectors:
            region = nominal_region(detector.ccdnum, item.ra, item.dec)
            assert region.contains(detector_region(detector, 0))


def test_visits_of_instcal_exposures_stay(own_repository: Path) -> None:
    hook = CurationHook(own_repository)
    before = [(record.id, record.region.encode()) for record in records(hook, "visit")]
    report = hook.define_visits()
    assert (report.defined, report.known) == ((), len(before))
    assert [(record.id, record.region.encode()) for record in records(hook, "visit")] == before

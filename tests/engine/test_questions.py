from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler, DatasetType

from conftest import GOOD_VISITS, NIGHT, SPARE
from sensors.datasets import G_EXPOSURE, G, R, add, add_g_exposure, add_raws, add_visit_images, certify
from tololo.engine.questions import QUESTIONS
from tololo.facility.errors import BadInputError
from tololo.facility.waiting import NAMED, Answer

VISITS = f"instrument = 'DECam' AND visit.day_obs = {NIGHT}"
RAWS = f"instrument = 'DECam' AND exposure.day_obs = {NIGHT}"
TEMPLATE = "2019/meanclip/coadd"


def collections(repository: Path, *names: str, types: tuple[str, ...] = ()) -> Answer:
    return QUESTIONS["collections"](
        repository=str(repository), collections=list(names), dataset_types=list(types)
    )


def datasets(repository: Path, kind: str, *names: str, where: str = "", count: int = 1) -> Answer:
    return QUESTIONS["datasets"](
        repository=str(repository), dataset_type=kind, collections=list(names), where=where, count=count
    )


def calibrations(repository: Path, *names: str, **changes: Any) -> Answer:
    arguments = {"kinds": ["bias", "flat"], "raw": "raw", "raws": ["DECam/raw/all"], "where": RAWS}
    return QUESTIONS["calibrations"](
        repository=str(repository), collections=list(names), **(arguments | changes)
    )


def templates(repository: Path, coverage: float = 1.0, **changes: Any) -> Answer:
    arguments = {
        "template": "template_coadd",
        "templates": [TEMPLATE],
        "image": "visit_image",
        "visits": [f"{NIGHT}/instcal"],
        "where": VISITS,
        "skymap": "decam_rings",
        "coverage": coverage,
    }
    return QUESTIONS["templates"](repository=str(repository), **(arguments | changes))


@pytest.fixture
def visited(own_repository: Path) -> Path:
    """A repository in which NIGHT has visit images."""
    add_visit_images(own_repository, GOOD_VISITS)
    return own_repository


class TestCollections:
    def test_ready(self, ingested: Path) -> None:
        answer = collections(ingested, "skymaps", f"{NIGHT}/instcal", f"{NIGHT}/*")
        assert answer == {"ready": True, "missing": [], "found": 3}

    def test_what_does_not_exist_or_is_empty_is_named(self, own_repository: Path) -> None:
        with Butler.from_config(str(own_repository), writeable=True) as butler:
            butler.collections.register("empty")
        answer = collections(own_repository, "skymaps", "absent", "empty", "2018*")
        assert (answer["ready"], answer["found"]) == (False, 1)
        assert answer["missing"] == [
            "collection absent (it does not exist)",
            "collection empty (it holds no dataset)",
            "collection 2018* (it does not exist)",
        ]

    def test_a_chain_of_inputs_is_not_empty_but_holds_no_visit(self, ingested: Path, visited: Path) -> None:
        chain = f"{NIGHT}/instcal"
        assert collections(ingested, chain)["ready"]
        assert collections(ingested, chain, types=("visit_image", "nonsense"))["missing"] == [
            f"collection {chain} (it holds no visit_image or nonsense)"
        ]
        assert collections(visited, chain, types=("visit_*",))["ready"]

    def test_what_was_emptied_again_is_empty(self, own_repository: Path) -> None:
        with Butler.from_config(str(own_repository), writeable=True) as butler:
            refs = add(own_repository, "bias", "short", [{"instrument": "DECam", "detector": 1}])
            assert collections(own_repository, "short")["ready"]
            butler.pruneDatasets(refs, purge=True, unstore=True, disassociate=True)
        assert not collections(own_repository, "short")["ready"]

    def test_many_missing_ones_are_counted(self, ingested: Path) -> None:
        answer = collections(ingested, *(f"absent{number}" for number in range(NAMED + 5)))
        assert len(answer["missing"]) == NAMED + 1
        assert answer["missing"][-1] == "... and 5 more"


class TestDatasets:
    @pytest.mark.parametrize(("count", "ready"), [(1, True), (2, True), (3, False)])
    def test_at_least_so_many(self, visited: Path, count: int, ready: bool) -> None:
        chain = f"{NIGHT}/instcal"
        answer = datasets(visited, "visit_image", chain, where=VISITS, count=count)
        assert (answer["ready"], answer["found"]) == (ready, len(GOOD_VISITS))
        if not ready:
            assert answer["missing"] == [f"1 more visit_image in {chain} where {VISITS} (2 of 3 are there)"]

    def test_a_data_query_across_the_sky_counts_exactly(self, visited: Path) -> None:
        everywhere = f"{VISITS} AND skymap = 'decam_rings'"
        answer = datasets(visited, "visit_image", f"{NIGHT}/*", where=everywhere)
        assert answer["found"] == len(GOOD_VISITS)
        nowhere = f"{everywhere} AND tract = 0"
        assert datasets(visited, "visit_image", f"{NIGHT}/*", where=nowhere)["found"] == 0

    def test_what_is_in_two_collections_counts_once(self, own_repository: Path) -> None:
        for run in ("a/first", "a/second"):
            add(own_repository, "bias", run, [{"instrument": "DECam", "detector": d} for d in (1, 2)])
        assert datasets(own_repository, "bias", "a/*", "a/second")["found"] == 2

    def test_what_keeps_them_away_is_named(self, ingested: Path) -> None:
        answer = datasets(ingested, "visit_image", "absent", count=4)
        assert answer["missing"] == [
            "4 more visit_image in absent "
            "(0 of 4 are there; collection absent does not exist; the dataset type is not registered)"
        ]

    @pytest.mark.parametrize(
        ("where", "says"),
        [("detector =", "parse"), ("telescope = 4", "telescope"), ("detector = 3", "instrument")],
    )
    def test_a_data_query_that_cannot_be_read_is_refused(self, ingested: Path, where: str, says: str) -> None:
        with pytest.raises(BadInputError, match=says) as caught:
            datasets(ingested, "instcal_image", "DECam/instcal/all", where=where)
        assert str(ingested) in str(caught.value)


class TestCalibrations:
    @pytest.fixture
    def night(self, own_repository: Path) -> Path:
        """Raws of detectors 25, 26 and 28, of 25 and 26 also in g."""
        add_g_exposure(own_repository)
        add_raws(own_repository, (25, 26, 28), GOOD_VISITS)
        add_raws(own_repository, (25, 26), [G_EXPOSURE])
        return own_repository

    def test_ready(self, night: Path) -> None:
        bias = certify(night, "bias", (25, 26, 28))
        flat = certify(night, "flat", (25, 26, 28), glass=R, first=20190301, last=20190331)
        certify(night, "flat", (25, 26), glass=G)
        assert calibrations(night, flat, bias) == {"ready": True, "missing": [], "found": 8}

    def test_missing_ones_are_named_by_kind_filter_and_detector(self, night: Path) -> None:
        bias = certify(night, "bias", (26,))
        flat = certify(night, "flat", (25, 26, 27), glass=R)
        answer = calibrations(night, flat, bias, "absent")
        assert (answer["ready"], answer["found"]) == (False, 3)
        assert answer["missing"] == [
            "bias for detectors 25, 28",
            "flat for filter g, detectors 25-26",
            "flat for filter r, detector 28",
        ]

    def test_a_kind_that_nobody_made_yet(self, night: Path) -> None:
        assert calibrations(night, "absent")["missing"] == [
            "bias for detectors 25-26, 28 (the dataset type is not registered)",
            "flat for detectors 25-26, 28 (the dataset type is not registered)",
        ]

    def test_a_certified_one_that_is_not_valid_for_the_night(self, night: Path) -> None:
        bias = certify(night, "bias", (25, 26), first=20190301, last=20190308)
        certify(night, "bias", (25,), first=20190309, last=20190401)
        certify(night, "bias", (26,), first=20190310, last=20190401)
        certify(night, "bias", (28,), first=20190309, last=20190309)
        answer = calibrations(night, bias, kinds=["bias"])
        assert answer["missing"] == ["bias for detector 26 (certified for other times only)"]
        assert answer["found"] == 2

    def test_one_that_ends_in_the_midst_of_an_exposure(self, night: Path) -> None:
        from astropy.time import Time
        from lsst.daf.butler import CollectionType, Timespan

        with Butler.from_config(str(night), writeable=True) as butler:
            first, second = (
                butler.query_dimension_records("exposure", instrument="DECam", exposure=number)[0]
                for number in GOOD_VISITS
            )
            refs = add(night, "bias", "ends", [{"instrument": "DECam", "detector": d} for d in (25, 26)])
            butler.collections.register("calib", CollectionType.CALIBRATION)
            begin = Time("2019-01-01T00:00:00", scale="tai")
            middle = second.timespan.begin + (second.timespan.end - second.timespan.begin) / 2
            butler.registry.certify("calib", refs[:1], Timespan(begin, middle))
            butler.registry.certify("calib", refs[1:], Timespan(begin, second.timespan.end))
        assert first.timespan.end < second.timespan.begin
        both = calibrations(night, "calib", kinds=["bias"], where=f"{RAWS} AND detector IN (25, 26)")
        assert both["missing"] == ["bias for detector 25 (certified for other times only)"]
        early = f"instrument = 'DECam' AND exposure = {GOOD_VISITS[0]} AND detector IN (25, 26)"
        assert calibrations(night, "calib", kinds=["bias"], where=early)["ready"]

    def test_what_lies_in_a_run_is_not_certified(self, night: Path) -> None:
        add(night, "bias", "loose", [{"instrument": "DECam", "detector": d} for d in (25, 26, 28)])
        assert calibrations(night, "loose", kinds=["bias"])["missing"] == ["bias for detectors 25-26, 28"]

    def test_a_chain_is_searched(self, night: Path) -> None:
        bias = certify(night, "bias", (25, 26, 28))
        with Butler.from_config(str(night), writeable=True) as butler:
            from lsst.daf.butler import CollectionType

            butler.collections.register("chain", CollectionType.CHAINED)
            butler.collections.redefine_chain("chain", ["skymaps", bias])
        assert calibrations(night, "chain", kinds=["bias"])["ready"]

    def test_without_raws_the_raws_are_missing(self, night: Path, ingested: Path) -> None:
        other = f"instrument = 'DECam' AND exposure.day_obs = {SPARE}"
        for repository, where in ((night, other), (ingested, RAWS)):
            answer = calibrations(repository, where=where)
            assert answer["missing"] == [f"raw in DECam/raw/all where {where} (there are none)"]
            assert not answer["ready"]

    @pytest.mark.parametrize(("kind", "says"), [("raw", "never certified"), ("template_coadd", "never")])
    def test_what_is_no_calibration_is_refused(self, night: Path, kind: str, says: str) -> None:
        add(night, "template_coadd", "t", [])
        with pytest.raises(BadInputError, match=says):
            calibrations(night, kinds=[kind])


class TestTemplates:
    @pytest.fixture
    def needed(self, visited: Path) -> list[dict[str, Any]]:
        """Patches that overlap a detector region, found with the sky map and not with the database."""
        from tololo.reduction.formats.skymap import SkyMap

        with Butler.from_config(str(visited)) as butler:
            skymap = SkyMap.load(butler, "decam_rings")
            regions = [
                record.region
                for visit in GOOD_VISITS
                for record in butler.query_dimension_records(
                    "visit_detector_region", instrument="DECam", visit=visit
                )
            ]
        patches = {(p.tract.id, p.id) for region in regions for p in skymap.find_patches(region)}
        assert len(patches) >= 2
        return [
            {"skymap": "decam_rings", "tract": tract, "patch": patch, "band": "r"}
            for tract, patch in sorted(patches)
        ]

    def test_ready_when_all_are_there_and_not_before(
        self, visited: Path, needed: list[dict[str, Any]]
    ) -> None:
        answer = templates(visited)
        assert (answer["ready"], answer["found"]) == (False, 0)
        for number, data_id in enumerate(needed, start=1):
            assert f"tract {data_id['tract']}, patch" in " ".join(answer["missing"])
            add(visited, "template_coadd", TEMPLATE, [data_id])
            answer = templates(visited)
            assert answer["found"] == number
        assert answer == {"ready": True, "missing": [], "found": len(needed)}

    def test_the_missing_patch_is_named(self, visited: Path, needed: list[dict[str, Any]]) -> None:
        add(visited, "template_coadd", TEMPLATE, needed[1:])
        tract, patch = needed[0]["tract"], needed[0]["patch"]
        assert templates(visited)["missing"] == [f"template_coadd for band r, tract {tract}, patch {patch}"]

    def test_another_band_does_not_count(self, visited: Path, needed: list[dict[str, Any]]) -> None:
        add(visited, "template_coadd", TEMPLATE, [data_id | {"band": "g"} for data_id in needed])
        answer = templates(visited)
        assert answer["found"] == 0
        assert all("band r" in name for name in answer["missing"])

    def test_a_fraction_can_be_enough_and_what_lacks_is_still_named(
        self, visited: Path, needed: list[dict[str, Any]]
    ) -> None:
        add(visited, "template_coadd", TEMPLATE, needed[1:])
        share = (len(needed) - 1) / len(needed)
        assert templates(visited, share)["ready"]
        assert templates(visited, share)["missing"]
        assert not templates(visited, share + 0.01)["ready"]

    def test_without_visits_the_visits_are_missing(self, ingested: Path) -> None:
        answer = templates(ingested)
        assert not answer["ready"]
        assert answer["missing"] == [f"visit_image in {NIGHT}/instcal where {VISITS} (there are none)"]

    def test_a_sky_map_that_is_not_there(self, visited: Path) -> None:
        answer = templates(visited, skymap="absent")
        assert "(none of them overlaps a patch of the sky map absent)" in answer["missing"][0]
        assert not answer["ready"]


class TestTheRepository:
    """What the process that keeps Butlers open has to live with."""

    def test_what_others_write_is_seen(self, own_repository: Path) -> None:
        assert not collections(own_repository, "new")["ready"]
        assert not datasets(own_repository, "bias", "new")["ready"]
        add(own_repository, "bias", "new", [{"instrument": "DECam", "detector": 3}])
        assert collections(own_repository, "new", types=("bias",))["ready"]
        assert datasets(own_repository, "bias", "new", where="instrument = 'DECam' AND detector = 3")["ready"]

    def test_a_filter_that_others_register_is_seen(self, own_repository: Path) -> None:
        add_raws(own_repository, (25,), GOOD_VISITS)
        add(own_repository, "flat", "none", [])
        assert calibrations(own_repository, kinds=["flat"])["missing"] == ["flat for filter r, detector 25"]
        with Butler.from_config(str(own_repository), writeable=True) as butler:
            new = {"instrument": "DECam", "name": "Q DECam", "band": "Q"}
            butler.registry.insertDimensionData("physical_filter", new)
            (known,) = butler.query_dimension_records("exposure", instrument="DECam", exposure=GOOD_VISITS[0])
            other = {"id": G_EXPOSURE, "physical_filter": "Q DECam", "obs_id": "in Q", "seq_num": G_EXPOSURE}
            butler.registry.insertDimensionData("exposure", known.toDict() | other)
        add_raws(own_repository, (25,), [G_EXPOSURE])
        assert calibrations(own_repository, kinds=["flat"])["missing"] == [
            "flat for filter Q, detector 25",
            "flat for filter r, detector 25",
        ]

    def test_a_dataset_type_that_others_made_anew_is_seen(self, own_repository: Path) -> None:
        add_raws(own_repository, (25,), GOOD_VISITS)
        with Butler.from_config(str(own_repository), writeable=True) as butler:
            for dimensions in (("instrument", "detector"), ("instrument", "detector", "physical_filter")):
                butler.registry.removeDatasetType("bias")
                butler.registry.registerDatasetType(
                    DatasetType(
                        "bias",
                        dimensions,
                        "StructuredDataDict",
                        universe=butler.dimensions,
                        isCalibration=True,
                    )
                )
                answer = calibrations(own_repository, kinds=["bias"])
                assert ("filter r" in answer["missing"][0]) == ("physical_filter" in dimensions)

    def test_a_repository_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="repo_bootstrap") as caught:
            collections(tmp_path / "absent", "skymaps")
        assert str(tmp_path / "absent") in str(caught.value)

    def test_one_that_went_and_one_that_came_in_its_place(self, own_repository: Path, ingested: Path) -> None:
        add(own_repository, "bias", "old", [{"instrument": "DECam", "detector": 3}])
        assert collections(own_repository, "old")["ready"]
        shutil.rmtree(own_repository)
        with pytest.raises(BadInputError, match="no Butler repository"):
            collections(own_repository, "old")
        shutil.copytree(ingested, own_repository)
        assert collections(own_repository, "skymaps")["ready"]
        assert not collections(own_repository, "old")["ready"]

    def test_no_question_leaves_a_transaction_open(self, own_repository: Path) -> None:
        """SQLite refuses to write while another connection still reads."""
        for _ in range(2):
            assert collections(own_repository, "skymaps", f"{NIGHT}/instcal")["ready"]
            assert not datasets(own_repository, "instcal_image", "DECam/instcal/all", count=99)["ready"]
        with sqlite3.connect(own_repository / "gen3.sqlite3", timeout=0) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.rollback()
        other.close()

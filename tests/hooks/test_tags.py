from __future__ import annotations

from typing import Any

import pytest

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.hooks.curation import CurationHook

from .curated import CALIB, NEW, OLD, content, snapshot

TAG = "20190401/flat/raw"


def test_twice_is_once(hook: CurationHook) -> None:
    report = hook.associate(TAG, ["bias", "notes"], [OLD])
    assert (report.added, report.known, report.replaced) == (4, 0, ())
    before = content(hook.repository)
    report = hook.associate(TAG, ["bias", "notes"], [OLD])
    assert (report.added, report.known) == (0, 4)
    assert content(hook.repository) == before
    assert hook.counts(TAG) == {"bias": 3, "notes": 1}


def test_the_data_query_chooses_and_the_first_collection_wins(hook: CurationHook) -> None:
    report = hook.associate(TAG, ["bias"], [NEW, OLD], "detector IN (1, 3)")
    assert report.added == 2
    with hook.open() as butler:
        assert {ref.run for ref in butler.query_datasets("bias", TAG)} == {NEW}
    assert hook.associate(TAG, ["bias"], [NEW], "instrument = 'DECam' AND detector = 2").added == 1


def test_another_dataset_in_the_place_is_refused_unless_it_shall_be_replaced(hook: CurationHook) -> None:
    hook.associate(TAG, ["bias"], [OLD])
    before = snapshot(hook.repository)
    with pytest.raises(BadInputError, match=f"place of 2 datasets.*detector 1 from {OLD}.*{TAG}"):
        hook.associate(TAG, ["bias"], [NEW], "detector IN (1, 2)")
    assert snapshot(hook.repository) == before
    report = hook.associate(TAG, ["bias"], [NEW], "detector IN (1, 2)", replace=True)
    assert (report.added, len(report.replaced)) == (2, 2)
    with hook.open() as butler:
        runs = {int(ref.dataId["detector"]): ref.run for ref in butler.query_datasets("bias", TAG)}
    assert runs == {1: NEW, 2: NEW, 3: OLD}


def test_taking_out_leaves_the_dataset(hook: CurationHook) -> None:
    hook.associate(TAG, ["bias"], [OLD])
    assert hook.disassociate(TAG, ["bias"], "detector > 1").removed == 2
    assert hook.disassociate(TAG, ["bias"], "detector > 1").removed == 0
    assert (hook.counts(TAG), hook.counts(OLD)) == ({"bias": 1}, {"bias": 3, "notes": 1})


def test_a_dry_run_counts_and_writes_nothing(hook: CurationHook) -> None:
    before = snapshot(hook.repository)
    assert hook.associate(TAG, ["bias"], [OLD], dry_run=True).added == 3
    assert snapshot(hook.repository) == before
    hook.associate(TAG, ["bias"], [OLD])
    before = snapshot(hook.repository)
    assert hook.disassociate(TAG, ["bias"], dry_run=True).removed == 3
    assert hook.associate(TAG, ["bias"], [NEW], replace=True, dry_run=True).added == 3
    assert snapshot(hook.repository) == before


def test_nothing_found_is_nothing_to_do_and_makes_no_collection(hook: CurationHook) -> None:
    with pytest.raises(NothingToDoError, match="detector = 60"):
        hook.associate(TAG, ["bias"], [OLD], "detector = 60")
    assert hook.collections(TAG) == []


def test_bad_input_is_named_and_nothing_is_written(hook: CurationHook) -> None:
    before = snapshot(hook.repository)
    good: dict[str, Any] = {"tag": TAG, "types": ["bias"], "sources": [OLD], "where": ""}
    for change, says in (
        ({"tag": "2019*/raw"}, r"'2019\*'"),
        ({"tag": "20190401//raw"}, r"part of the TAGGED collection.*is empty"),
        ({"tag": OLD}, "is a RUN, not a TAGGED"),
        ({"types": ["bais"]}, r"no dataset type 'bais'.*did you mean bias"),
        ({"types": []}, "No dataset type"),
        ({"sources": []}, "No collection"),
        ({"sources": [OLD[:-1]]}, rf"no collection '{OLD[:-1]}'.*did you mean.*{OLD}"),
        ({"sources": ["2019.*"]}, r"'2019\.\*'"),
        ({"where": "detektor = 1"}, "'detektor'"),
        ({"where": "detector = 'S1'"}, "do not agree"),
        ({"where": "detector IN (1, 2"}, "cannot be understood"),
        ({"where": "detector = 1 AN detector = 2"}, "AN detector"),
    ):
        with pytest.raises(BadInputError, match=says) as caught:
            hook.associate(**(good | change))
        assert "What to do:" in str(caught.value)
    assert snapshot(hook.repository) == before


def test_calibrations_of_several_times_are_no_source(hook: CurationHook) -> None:
    hook.certify(CALIB, ["bias"], [OLD], "20190401")
    hook.certify(CALIB, ["bias"], [NEW], "20190402")
    with pytest.raises(BadInputError, match=r"each at its own time.*name the RUN"):
        hook.associate(TAG, ["bias"], [CALIB])
    with pytest.raises(BadInputError, match=f"'{CALIB}' is a CALIBRATION"):
        hook.disassociate(CALIB, ["bias"])
    with pytest.raises(BadInputError, match="no collection 'nowhere'"):
        hook.disassociate("nowhere", ["bias"])

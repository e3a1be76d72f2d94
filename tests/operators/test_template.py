from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from lsst.daf.butler import Butler

from conftest import BAD_VISIT, GOOD_VISITS, NIGHT, SPARE
from operators.airflow_context import TEMPLATE, connect, context
from operators.conftest import Templated, coadd_operator
from tololo.facility import collections
from tololo.facility.configuration import facility
from tololo.facility.scorecard import read_limits
from tololo.hooks.butler import ButlerHook
from tololo.hooks.scorecard import score_night
from tololo.operators.template import AcceptTemplateOperator, SelectTemplateInputsOperator

CHAIN = "2019/meanclip/coadd"
ALL = {**TEMPLATE, "nights": "", "bands": []}
ONE = ALL | {"where": f"visit = {GOOD_VISITS[0]}"}


@pytest.fixture
def repository(templated: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = templated.copy(tmp_path)
    connect(monkeypatch, folder, tmp_path)
    return folder


def select(**params: Any) -> dict[str, Any]:
    return SelectTemplateInputsOperator(task_id="select").execute(context(**params))


def accept(selected: dict[str, Any], **params: Any) -> Any:
    operator = AcceptTemplateOperator(task_id="accept")
    return operator.execute(context(**ALL | params, xcoms={"select": selected}))


def children(repository: Path, chain: str = CHAIN) -> tuple[str, ...]:
    with Butler.from_config(str(repository)) as butler:
        return butler.collections.get_info(chain).children


def put_template(repository: Path, version: str) -> None:
    """Let a version have the templates of version 1, as if the pipeline had run."""
    with Butler.from_config(str(repository), writeable=True) as butler:
        refs = butler.query_datasets("template_coadd", f"{CHAIN}/v1")
        run = collections.run(version, "template_coadds", "coadd", datetime(2026, 1, 1, tzinfo=UTC))
        butler.collections.register(run)
        for ref in refs:
            butler.put(butler.get(ref), "template_coadd", ref.dataId, run=run)
    ButlerHook(repository).write_chain(version, [run])


def test_the_first_version(templated: Templated) -> None:
    selected, ran = templated.selected, templated.ran
    assert selected == {
        "version": f"{CHAIN}/v1",
        "inputs": f"{CHAIN}/v1/inputs",
        "where": f"skymap = '{facility().skymap}'",
        "visits": 1,
        "images": 1,
        "new": True,
        "left_out": {},
    }
    assert ran["chain"] == f"{CHAIN}/v1"
    assert ran["run"].startswith(f"{CHAIN}/v1/template_coadds/coadd/2")
    assert set(ran["labels"]) == {"makeDirectWarp", "assembleTemplateCoadd"}
    # The regions of exposures are padded, so a neighbouring patch may have no data.
    assert ran["done"] + ran["no_data"] == ran["expected"]
    assert ran["labels"]["makeDirectWarp"]["done"] == ran["labels"]["assembleTemplateCoadd"]["done"] >= 1
    assert templated.accepted == {
        "chain": CHAIN,
        "version": f"{CHAIN}/v1",
        "templates": ran["labels"]["assembleTemplateCoadd"]["done"],
    }
    assert children(templated.repository)[0] == f"{CHAIN}/v1"
    assert children(templated.repository, f"{CHAIN}/inputs") == (f"{CHAIN}/v1/inputs",)
    warps = ran["labels"]["makeDirectWarp"]["expected"]
    assert f"makeDirectWarp {warps} of {warps}" in templated.progress


def test_the_same_inputs_are_the_same_version_and_nothing_is_run_again(repository: Path) -> None:
    before = ButlerHook(repository).collections()
    selected = select(**ONE)
    assert (selected["version"], selected["new"]) == (f"{CHAIN}/v1", False)
    counts = coadd_operator(selected).execute(context(**ONE))
    assert counts["done"] + counts["no_data"] == counts["expected"] > 0
    assert accept(selected)["version"] == f"{CHAIN}/v1"
    assert ButlerHook(repository).collections() == before


def test_more_inputs_are_a_new_version_and_the_chain_follows_when_it_is_accepted(repository: Path) -> None:
    selected = select(**ALL)
    assert (selected["version"], selected["new"], selected["images"]) == (f"{CHAIN}/v2", True, 2)
    assert select(**ALL)["new"] is False
    assert children(repository)[0] == f"{CHAIN}/v1"
    with pytest.raises(AirflowSkipException, match=f"{CHAIN}/v2"):
        accept(selected)
    assert children(repository)[0] == f"{CHAIN}/v1"
    put_template(repository, selected["version"])
    assert accept(selected, dry_run=True) is None
    assert children(repository)[0] == f"{CHAIN}/v1"
    assert accept(selected)["templates"] == ButlerHook(repository).count("template_coadd", f"{CHAIN}/v1")
    assert children(repository)[0] == f"{CHAIN}/v2"
    assert f"{CHAIN}/v1" not in children(repository)
    assert children(repository, f"{CHAIN}/inputs") == (f"{CHAIN}/v2/inputs",)
    # The older inputs lead back to the older version.
    older = select(**ONE)
    assert (older["version"], older["new"]) == (f"{CHAIN}/v1", False)
    accept(older)
    assert children(repository)[0] == f"{CHAIN}/v1"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"nights": str(SPARE)}, f"{SPARE}.*visits of nights {NIGHT}"),
        ({"nights": "2018*"}, rf"2018\*.*visits of nights {NIGHT}"),
        ({"bands": ["g"]}, r"band IN \('g'\)"),
        ({"where": f"visit = {BAD_VISIT}"}, f"visit = {BAD_VISIT}"),
        ({"detectors": "1, 2"}, r"detector IN \(1, 2\)"),
    ],
)
def test_a_selection_of_nothing_is_skipped_with_the_reason(
    repository: Path, params: dict[str, Any], says: str
) -> None:
    before = ButlerHook(repository).collections()
    with pytest.raises(AirflowSkipException, match=says):
        select(**ALL | params)
    assert ButlerHook(repository).collections() == before


def test_visits_that_a_scorecard_flags_are_left_out(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = GOOD_VISITS[1]
    with Butler.from_config(str(repository), writeable=True) as butler:
        # It has the worse seeing of the two.
        score_night(butler, NIGHT, "instcal", limits=read_limits({"seeing": {"flag": 1.1}}))
    planned = select(**ALL, dry_run=True)
    assert planned["left_out"] == {str(other): "flagged"}
    selected = select(**ALL)
    assert f"left out: 1 flagged ({other})" in capsys.readouterr().out
    # What is left is what version 1 was made of.
    assert (selected["version"], selected["new"], selected["visits"]) == (f"{CHAIN}/v1", False, 1)
    with pytest.raises(AirflowSkipException, match=rf"None of the 1 visits .* 1 flagged \({other}\)"):
        select(**ALL | {"where": f"visit = {other}"})
    # A dry run of what would be new plans it without that visit.
    planned = select(**ALL | {"coadd_subset": "2020"}, dry_run=True)
    assert planned["where"].endswith(f" AND visit NOT IN ({other})")
    counts = coadd_operator(planned).execute(context(**ALL, dry_run=True))
    assert counts["expected"] == templated_expected(repository)


def templated_expected(repository: Path) -> int:
    """How many quanta version 1, of one visit, has."""
    with Butler.from_config(str(repository)) as butler:
        warps = butler.query_datasets("makeDirectWarp_metadata", f"{CHAIN}/v1")
        return len(warps) + len(butler.query_datasets("assembleTemplateCoadd_metadata", f"{CHAIN}/v1"))


@pytest.mark.parametrize("proc_type", ["drp", "instcal"])
def test_the_kind_of_visits_can_be_chosen(repository: Path, proc_type: str) -> None:
    if proc_type == "instcal":
        assert select(**ONE, proc_type=proc_type)["version"] == f"{CHAIN}/v1"
        return
    with pytest.raises(AirflowSkipException, match="visits of nights none"):
        select(**ONE, proc_type=proc_type)


@pytest.mark.parametrize("nights", ["last week", "20190230", "20190310:20190301"])
def test_nights_that_are_none_are_refused(repository: Path, nights: str) -> None:
    with pytest.raises(AirflowFailException, match="What to do"):
        select(**ALL | {"nights": nights})


def test_a_dry_run_names_the_next_version_and_writes_nothing(repository: Path) -> None:
    before = ButlerHook(repository).collections()
    selected = select(**ALL, dry_run=True)
    assert (selected["version"], selected["new"]) == (f"{CHAIN}/v2", True)
    planned = coadd_operator(selected).execute(context(**ALL, dry_run=True))
    assert planned["labels"]["makeDirectWarp"]["expected"] >= 2
    assert planned["done"] == 0
    assert ButlerHook(repository).collections() == before

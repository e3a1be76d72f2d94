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
from tololo.engine.template_versions import TemplateVersion
from tololo.facility import collections
from tololo.facility.configuration import facility
from tololo.facility.scorecard import read_limits
from tololo.hooks.butler import ButlerHook
from tololo.hooks.scorecard import score_night
from tololo.hooks.template import TemplateHook
from tololo.operators.template import SelectTemplateInputsOperator
from tololo.operators.template_acceptance import (
    ANSWERED_WITHIN,
    AcceptTemplateOperator,
    ApproveTemplateOperator,
    JudgeTemplateOperator,
)

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


def judge(selected: dict[str, Any], **params: Any) -> dict[str, Any]:
    return JudgeTemplateOperator(task_id="judge").execute(context(**ALL | params, xcoms={"select": selected}))


def accept(selected: dict[str, Any], answer: dict[str, Any] | None = None, **params: Any) -> Any:
    """Judge and accept, as the DAG does."""
    xcoms = {"select": selected, "approve": answer}
    if not params.get("dry_run"):
        xcoms["judge"] = judge(selected, **params)
    return AcceptTemplateOperator(task_id="accept").execute(context(**ALL | params, xcoms=xcoms))


def versions(repository: Path) -> list[TemplateVersion]:
    return TemplateHook(ButlerHook(repository), "2019", "meanclip").versions()


def children(repository: Path, chain: str = CHAIN) -> tuple[str, ...]:
    with Butler.from_config(str(repository)) as butler:
        return butler.collections.get_info(chain).children


def put_template(repository: Path, version: str, **metrics: float) -> None:
    """Let a version have the templates of version 1, as if the pipeline had run, measured otherwise."""
    with Butler.from_config(str(repository), writeable=True) as butler:
        run = collections.run(version, "template_coadds", "coadd", datetime(2026, 1, 1, tzinfo=UTC))
        butler.collections.register(run)
        for kind in ("template_coadd", "template_metrics"):
            for ref in butler.query_datasets(kind, f"{CHAIN}/v1"):
                content = butler.get(ref)
                if kind == "template_metrics":
                    for column, value in metrics.items():
                        content[column] = value
                butler.put(content, kind, ref.dataId, run=run)
    ButlerHook(repository).write_chain(version, [run])


def test_the_first_version(templated: Templated) -> None:
    selected, ran, judged = templated.selected, templated.ran, templated.judged
    seeing = selected["bands"]["r"]["seeing"]
    assert selected == {
        "version": f"{CHAIN}/v1",
        "inputs": f"{CHAIN}/v1/inputs",
        "where": f"skymap = '{facility().skymap}'",
        "visits": 1,
        "images": 1,
        "new": True,
        "fwhm": 1.6,
        "bands": {"r": {"visits": 1, "seeing": seeing}},
        "left_out": {},
    }
    assert ran["chain"] == f"{CHAIN}/v1"
    assert ran["run"].startswith(f"{CHAIN}/v1/template_coadds/coadd/2")
    assert set(ran["labels"]) == {"makeDirectWarp", "assembleTemplateCoadd", "measureTemplate"}
    # The regions of exposures are padded, so a neighbouring patch may have no data.
    assert ran["done"] + ran["no_data"] == ran["expected"]
    done = {label: counts["done"] for label, counts in ran["labels"].items()}
    assert done["makeDirectWarp"] == done["assembleTemplateCoadd"] == done["measureTemplate"] >= 1
    assert (judged["version"], judged["good"], judged["reasons"]) == (f"{CHAIN}/v1", True, [])
    assert judged["state"] == "candidate"
    assert 0.97 < judged["bands"]["r"]["seeing"] / seeing < 1.1
    assert 0.8 < judged["bands"]["r"]["noise_ratio"] < 1.2
    assert f"| r | {done['measureTemplate']} |" in judged["report"]
    assert templated.accepted == {
        "chain": CHAIN,
        "version": f"{CHAIN}/v1",
        "templates": done["assembleTemplateCoadd"],
        "state": "accepted",
    }
    assert children(templated.repository)[0] == f"{CHAIN}/v1"
    assert children(templated.repository, f"{CHAIN}/inputs") == (f"{CHAIN}/v1/inputs",)
    (version,) = versions(templated.repository)
    assert (version.latest.state, version.latest.who) == ("accepted", "limits")
    warps = ran["labels"]["makeDirectWarp"]["expected"]
    assert f"makeDirectWarp {warps} of {warps}" in templated.progress


def test_table_summary_and_figure_are_in_the_version(templated: Templated) -> None:
    with Butler.from_config(str(templated.repository), collections=CHAIN) as butler:
        table = butler.get("template_scorecard", skymap=facility().skymap)
        summary = butler.get("template_summary", skymap=facility().skymap)
        image = butler.getURI("template_plot", skymap=facility().skymap).read()
    assert len(table) == summary["templates"] == summary["bands"]["r"]["patches"]
    assert (summary["unmeasured"], summary["poor"]) == (0, {})
    assert summary["settings"] == {"warp": "direct"}
    assert image.startswith(b"\x89PNG")


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
    assert [version.state for version in versions(repository)] == ["superseded", "accepted"]
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
        coadds = butler.query_datasets("assembleTemplateCoadd_metadata", f"{CHAIN}/v1")
        return len(warps) + 2 * len(coadds)  # each is measured


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


def test_rules_and_patches_come_from_the_params(repository: Path) -> None:
    planned = select(**ALL | {"selection": {"max_visits": 1}}, dry_run=True)
    assert (planned["visits"], len(planned["left_out"])) == (1, 1)
    with pytest.raises(AirflowSkipException, match=r"2 visits.*3 are needed"):
        select(**ALL | {"selection": {"min_visits": 3}})
    with pytest.raises(AirflowFailException, match="Wrong selection"):
        select(**ALL | {"selection": {"max_seeing": "good"}})
    patched = select(**ALL | {"patches": "1/2, 1/3"}, dry_run=True)
    assert patched["where"] == f"skymap = '{facility().skymap}' AND ((tract = 1 AND patch IN (2, 3)))"
    with pytest.raises(AirflowFailException, match="is no patch"):
        select(**ALL | {"patches": "1/x"})
    matched = select(**ONE | {"warp": "psf_matched"}, dry_run=True)
    assert (matched["version"], matched["new"]) == (f"{CHAIN}/v2", True)
    assert matched["fwhm"] > matched["bands"]["r"]["seeing"]


def test_the_limits_reject_and_say_why_and_the_chain_stays(repository: Path) -> None:
    selected = select(**ALL)
    put_template(repository, selected["version"], seeing=3.1)
    with pytest.raises(AirflowFailException, match=r"The limits reject it: Band r: 0%.*seeing 3.1 arcsec"):
        accept(selected)
    assert children(repository)[0] == f"{CHAIN}/v1"
    version = versions(repository)[1]
    assert (version.state, version.latest.who) == ("rejected", "limits")
    assert "seeing 3.1 arcsec, above 2.5" in version.latest.why
    # A person may think otherwise.
    answer = {
        "chosen_options": ["Approve"],
        "params_input": {},
        "responded_by_user": {"id": "1", "name": "ana"},
    }
    assert accept(selected, answer, acceptance="approval")["state"] == "accepted"
    assert children(repository)[0] == f"{CHAIN}/v2"
    # What is in use stays in use, also where the limits would not have it.
    assert accept(selected)["state"] == "accepted"
    assert versions(repository)[1].latest.who == "ana"


def test_a_version_that_lacks_a_band_or_a_measurement_is_not_accepted(repository: Path) -> None:
    selected = select(**ALL)
    put_template(repository, selected["version"], coverage=1e-6)
    with pytest.raises(AirflowFailException, match="of what the accepted version covers"):
        accept(selected)
    with Butler.from_config(str(repository), writeable=True) as butler:
        refs = butler.query_datasets("template_metrics", f"{CHAIN}/v2")
        butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
    with pytest.raises(AirflowFailException, match="have not been measured"):
        accept(selected)
    assert children(repository)[0] == f"{CHAIN}/v1"


def test_what_a_person_rejects_stays_rejected_until_one_is_asked_again(repository: Path) -> None:
    selected = select(**ALL)
    put_template(repository, selected["version"])
    held = accept(selected, acceptance="hold")
    assert (held["state"], children(repository)[0]) == ("candidate", f"{CHAIN}/v1")
    with pytest.raises(AirflowSkipException, match="Nobody was asked"):
        accept(selected, acceptance="approval")
    answer = {
        "chosen_options": ["Reject"],
        "params_input": {"reason": "ghosts"},
        "responded_by_user": {"id": "1", "name": "ana"},
    }
    with pytest.raises(AirflowSkipException, match="It was rejected by ana: ghosts"):
        accept(selected, answer, acceptance="approval")
    with pytest.raises(AirflowSkipException, match="It was rejected by ana: ghosts"):
        accept(selected)
    assert accept(selected, acceptance="hold")["state"] == "rejected"
    version = versions(repository)[1]
    assert (version.latest.who, version.latest.why, len(version.history)) == ("ana", "ghosts", 2)
    assert children(repository)[0] == f"{CHAIN}/v1"


@pytest.mark.parametrize(
    ("acceptance", "judged", "says"),
    [
        ("auto", {"state": "candidate"}, "acceptance of this run is auto"),
        ("hold", {"state": "candidate"}, "acceptance of this run is hold"),
        ("approval", None, "Nothing was made"),
        ("approval", {"state": "accepted", "version": "v1"}, "v1 is accepted already"),
    ],
)
def test_nobody_is_asked_where_there_is_nothing_to_ask(
    acceptance: str, judged: dict[str, Any] | None, says: str
) -> None:
    operator = ApproveTemplateOperator(task_id="approve")
    with pytest.raises(AirflowSkipException, match=says):
        operator.execute(context(**ALL | {"acceptance": acceptance}, xcoms={"judge": judged}))


def test_who_never_answers_holds_nobody_up_for_ever() -> None:
    operator = ApproveTemplateOperator(task_id="approve")
    assert operator.response_timeout == ANSWERED_WITHIN
    event = {"error": "The response timeout has passed without a response.", "error_type": "timeout"}
    with pytest.raises(AirflowFailException, match=r"Nobody has answered in 7 days.*run template_coadds"):
        operator.execute_complete(context(**ALL), event)


@pytest.mark.parametrize("option", ["Approve", "Reject"])
def test_either_answer_lets_the_run_go_on(option: str) -> None:
    operator = ApproveTemplateOperator(task_id="approve")
    event = {
        "chosen_options": [option],
        "params_input": {"reason": "fine"},
        "responded_at": datetime(2026, 1, 1, tzinfo=UTC),
        "responded_by_user": {"id": "1", "name": "ana"},
    }
    answer = operator.execute_complete(context(**ALL), event)
    assert answer["chosen_options"] == [option]
    assert answer["params_input"] == {"reason": "fine"}


@pytest.mark.parametrize("bad", [{"where": "visit = = 3"}, {"where": "seeing > 3"}, {"bands": ["r'"]}])
def test_a_data_query_that_cannot_be_read_is_one_message(repository: Path, bad: dict[str, Any]) -> None:
    before = versions(repository)
    with pytest.raises(AirflowFailException, match="What to do: correct what was asked"):
        select(**ALL | bad)
    assert versions(repository) == before


def test_judging_again_adds_nothing_and_one_that_was_killed_is_completed(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = select(**ONE)
    before = ButlerHook(repository).collections()
    assert judge(first)["good"]
    assert ButlerHook(repository).collections() == before

    selected = select(**ALL)
    put_template(repository, selected["version"])

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for place in ("tololo.reduction.template_plots.plot_template", "tololo.hooks.template_score.write_chain"):
        with monkeypatch.context() as patched:
            patched.setattr(place, killed)
            with pytest.raises(KeyboardInterrupt):
                judge(selected)
    (written,) = ButlerHook(repository).collections(f"{CHAIN}/v2/summary/*")
    assert written not in children(repository, f"{CHAIN}/v2")
    assert judge(selected)["run"] == written
    assert children(repository, f"{CHAIN}/v2")[0] == written
    assert ButlerHook(repository).collections(f"{CHAIN}/v2/summary/*") == [written]

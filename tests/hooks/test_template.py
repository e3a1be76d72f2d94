"""Versions of a template; what the operators make of them is in tests/operators/test_template.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType

from conftest import GOOD_VISITS, NIGHT, Reduced
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.template_selection import Selection
from tololo.hooks.butler import ButlerHook
from tololo.hooks.chains import write_chain
from tololo.hooks.template import TemplateHook

CHAIN = "2019/meanclip/coadd"
V1 = f"{CHAIN}/v1"
ONE = f"visit = {GOOD_VISITS[0]}"


@pytest.fixture
def repository(reduced: Reduced, tmp_path: Path) -> Path:
    return reduced.copy(tmp_path)


@pytest.fixture
def hook(repository: Path) -> TemplateHook:
    return TemplateHook(ButlerHook(repository), "2019", "meanclip")


def tagged(repository: Path, name: str) -> set[int]:
    with Butler.from_config(str(repository)) as butler:
        return {int(ref.dataId["visit"]) for ref in butler.query_datasets("visit_image", name, explain=False)}


def test_a_selection_tags_its_images(repository: Path, hook: TemplateHook) -> None:
    chosen = hook.select(f"{NIGHT}", "")
    assert (chosen.version, chosen.inputs, chosen.is_new) == (V1, f"{V1}/inputs", True)
    assert (chosen.nights, chosen.n_visits, chosen.n_images) == ([NIGHT], 2, 2)
    assert tagged(repository, chosen.inputs) == set(GOOD_VISITS)
    assert hook.select("201903*", "") == hook.select("20190301:20190331", "")


def test_a_selection_that_was_killed_half_way_is_taken_up(
    repository: Path, hook: TemplateHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(butler: Butler, inputs: str, refs: list[DatasetRef]) -> None:
        butler.collections.register(inputs, CollectionType.TAGGED)
        butler.registry.associate(inputs, refs[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tololo.hooks.template._tag", killed)
        with pytest.raises(KeyboardInterrupt):
            hook.select("", "")
    assert len(tagged(repository, f"{V1}/inputs")) == 1
    assert hook.select("", "").version == V1
    assert tagged(repository, f"{V1}/inputs") == set(GOOD_VISITS)


def test_an_exact_version_comes_before_one_to_be_taken_up(repository: Path, hook: TemplateHook) -> None:
    with Butler.from_config(str(repository), writeable=True) as butler:
        refs = butler.query_datasets("visit_image", f"{NIGHT}/instcal", explain=False)
        for number, chosen in ((1, refs[:1]), (2, refs)):
            name = f"2019/meanclip/coadd/v{number}/inputs"
            butler.collections.register(name, CollectionType.TAGGED)
            butler.registry.associate(name, chosen)
    chosen = hook.select("", "")
    assert (chosen.version, chosen.is_new) == ("2019/meanclip/coadd/v2", False)
    assert len(tagged(repository, f"{V1}/inputs")) == 1


def test_other_inputs_do_not_touch_a_version(repository: Path, hook: TemplateHook) -> None:
    assert hook.select("", ONE).version == V1
    other = hook.select("", f"visit = {GOOD_VISITS[1]}")
    assert (other.version, other.is_new) == ("2019/meanclip/coadd/v2", True)
    assert tagged(repository, f"{V1}/inputs") == {GOOD_VISITS[0]}
    assert TemplateHook(ButlerHook(repository), "2020", "min").select("", ONE).version == "2020/min/coadd/v1"


def test_a_selection_that_was_killed_before_its_record_is_taken_up(
    repository: Path, hook: TemplateHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("tololo.hooks.template.put_record", killed)
        with pytest.raises(KeyboardInterrupt):
            hook.select("", "")
    assert hook.versions()[0].history == ()
    # Nothing was made of it yet, so whatever comes next may have it.
    chosen = hook.select("", "", warp="psf_matched")
    assert (chosen.version, hook.versions()[0].settings) == (V1, chosen.settings)
    assert len(list(ButlerHook(repository).collections(f"{V1}/state/*"))) == 1


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_other_settings_make_another_version_of_the_same_inputs(hook: TemplateHook) -> None:
    direct = hook.select("", "")
    matched = hook.select("", "", warp="psf_matched")
    assert (matched.version, matched.is_new) == ("2019/meanclip/coadd/v2", True)
    assert direct.settings == {"warp": "direct"}
    worst = max(seeing for _, seeing in matched.bands.values())
    assert matched.settings["fwhm"] > worst > 0.5
    assert hook.select("", "", warp="psf_matched").version == matched.version
    assert hook.select("", "").version == direct.version
    with pytest.raises(BadInputError, match="wobbly"):
        hook.select("", "", warp="wobbly")


def test_the_rules_are_applied_and_what_they_leave_out_is_told(repository: Path, hook: TemplateHook) -> None:
    every = hook.select("", "", dry_run=True)
    assert every.bands["r"][0] == 2
    best = hook.select("", "", selection=Selection(best_seeing=0.5))
    assert (best.n_visits, best.bands["r"][0]) == (1, 1)
    (left_out,) = best.left_out.visits
    assert best.left_out.visits[left_out].startswith("in band r not among the 1 of best seeing")
    assert tagged(repository, best.inputs) == set(GOOD_VISITS) - {left_out}
    # Both show the same sky, so that a maximum counts.
    deepest = hook.select("", "", selection=Selection(max_visits=1))
    assert deepest.n_visits == 1
    assert "cover the same sky" in str(deepest.left_out)
    sharp = Selection(max_seeing=(every.bands["r"][1]))
    assert hook.select("", "", selection=sharp, dry_run=True).n_visits == 1
    with pytest.raises(NothingToDoError, match=r"None of the 2 visits.*2 in band r.*3 are needed"):
        hook.select("", "", selection=Selection(min_visits=3))
    assert hook.versions()[0].history[0].selection["best_seeing"] == 0.5


def test_the_seeing_of_a_visit_without_a_summary_is_not_known(repository: Path, hook: TemplateHook) -> None:
    with Butler.from_config(str(repository), writeable=True) as butler:
        refs = butler.query_datasets("visit_summary", "*", find_first=False, explain=False)
        butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
    assert hook.select("", "", dry_run=True).n_visits == 2
    with pytest.raises(NothingToDoError, match="2 of unknown seeing"):
        hook.select("", "", selection=Selection(max_seeing=3.0))
    with pytest.raises(BadInputError, match="seeing of 2 visits is not known"):
        hook.select("", "", warp="psf_matched")


def test_a_version_without_templates_is_not_accepted(repository: Path, hook: TemplateHook) -> None:
    chosen = hook.select("", "")
    with pytest.raises(NothingToDoError, match=V1):
        hook.accept(chosen.version)
    assert hook.chain not in ButlerHook(repository).collections()
    (version,) = hook.versions()
    assert (version.number, version.name, version.state, version.is_current) == (1, V1, "candidate", False)
    assert (version.images, version.templates) == (2, 0)
    assert (version.latest.who, version.latest.why) == ("selection", "2 visits, 2 images")
    assert version.latest.when.endswith("+00:00")


@pytest.fixture
def two(repository: Path, hook: TemplateHook) -> tuple[str, str]:
    """Two versions with a template each, neither accepted."""
    versions = hook.select("", ONE).version, hook.select("", "").version
    with Butler.from_config(str(repository), writeable=True) as butler:
        kind = DatasetType(
            "template_coadd",
            ("skymap", "tract", "patch", "band"),
            "StructuredDataDict",
            universe=butler.dimensions,
        )
        butler.registry.registerDatasetType(kind)
        (patch,) = butler.query_dimension_records("patch", limit=-1, explain=False)[:1]
        for version in versions:
            run = f"{version}/template_coadds/coadd/20260101T000000Z"
            butler.collections.register(run)
            butler.put({"any": 1}, kind, dict(patch.dataId.required), band="r", run=run)
            write_chain(butler, version, [run])
    return versions


def states(hook: TemplateHook) -> list[str]:
    return [version.state for version in hook.versions()]


def chains(repository: Path) -> tuple[tuple[str, ...], ...]:
    with Butler.from_config(str(repository)) as butler:
        return tuple(
            butler.collections.get_info(name).children if name in butler.collections.query("*") else ()
            for name in (CHAIN, f"{CHAIN}/inputs")
        )


def test_versions_live_from_candidate_to_superseded(
    repository: Path, hook: TemplateHook, two: tuple[str, str]
) -> None:
    first, second = two
    assert states(hook) == ["candidate", "candidate"]
    assert hook.accept(first, who="limits", why="fine") == 1
    assert states(hook) == ["accepted", "candidate"]
    hook.accept(second, who="somebody", why="deeper")
    assert states(hook) == ["superseded", "accepted"]
    assert chains(repository) == ((second, "skymaps", "refcats"), (f"{second}/inputs",))
    older, newer = hook.versions()
    assert [(item.state, item.who, item.why) for item in older.history] == [
        ("candidate", "selection", "1 visits, 1 images"),
        ("accepted", "limits", "fine"),
        ("superseded", "somebody", f"{second} was accepted"),
    ]
    assert newer.latest.settings == {"warp": "direct"}
    # The same once more adds nothing, whoever says it.
    before = ButlerHook(repository).collections()
    hook.accept(second, who="somebody else")
    assert ButlerHook(repository).collections() == before
    # Back to the older one.
    hook.accept(first, who="somebody", why="the new one has ghosts")
    assert states(hook) == ["accepted", "superseded"]
    assert chains(repository)[0][0] == first


def test_a_rejected_version_leaves_the_chain_alone(
    repository: Path, hook: TemplateHook, two: tuple[str, str]
) -> None:
    first, second = two
    hook.accept(first)
    before = chains(repository)
    hook.reject(second, who="limits", why="too noisy")
    hook.reject(second, who="limits", why="too noisy")
    assert (states(hook), chains(repository)) == (["accepted", "rejected"], before)
    assert len(hook.versions()[1].history) == 2
    for name, says in ((first, "accepted version cannot be rejected"), (f"{CHAIN}/v9", "no such version")):
        with pytest.raises(BadInputError, match=says):
            hook.reject(name)
    hook.accept(second, who="somebody")
    assert states(hook) == ["superseded", "accepted"]


def test_the_chain_is_what_counts_where_somebody_else_has_written_it(
    repository: Path, hook: TemplateHook, two: tuple[str, str]
) -> None:
    first, second = two
    hook.accept(first)
    ButlerHook(repository).write_chain(CHAIN, (), [second, "skymaps"], drop=True)
    assert states(hook) == ["superseded", "accepted"]
    ButlerHook(repository).write_chain(CHAIN, (), [], drop=True)
    assert states(hook) == ["candidate", "candidate"]


ACCEPT = """
import os, signal, sys
from tololo.hooks import template
from tololo.hooks.butler import ButlerHook

real, calls = getattr(template, sys.argv[4]), []
def fatal(*args, **kwargs):
    calls.append(args)
    if len(calls) == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(template, sys.argv[4], fatal)
template.TemplateHook(ButlerHook(sys.argv[1]), "2019", "meanclip").accept(sys.argv[2], who=sys.argv[3])
"""


@pytest.mark.parametrize(
    ("function", "call"), [("register_run", 2), ("write_chain", 2), ("put_record", 1), ("put_record", 2)]
)
def test_an_acceptance_that_is_killed_has_not_happened_and_the_next_one_completes_it(
    repository: Path, hook: TemplateHook, two: tuple[str, str], function: str, call: int
) -> None:
    first, second = two
    hook.accept(first, who="limits")
    before = chains(repository)
    program = [sys.executable, "-c", ACCEPT, str(repository), second, "limits", function, str(call)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (states(hook), chains(repository)) == (["accepted", "candidate"], before)
    hook.accept(second, who="limits")
    assert states(hook) == ["superseded", "accepted"]
    assert chains(repository) == ((second, "skymaps", "refcats"), (f"{second}/inputs",))
    assert [len(version.history) for version in hook.versions()] == [3, 2]
    runs = ButlerHook(repository).collections(f"{CHAIN}/v*/state/*")
    assert len(runs) == 5, "what the killed one left empty is used"


def test_without_visits_there_is_nothing(ingested: Path) -> None:
    with pytest.raises(NothingToDoError, match="nightly_decam"):
        TemplateHook(ButlerHook(ingested), "2019", "meanclip").select("", "")

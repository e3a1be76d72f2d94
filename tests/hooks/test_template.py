"""Versions of a template; what the operators make of them is in tests/operators/test_template.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType, DatasetRef

from conftest import GOOD_VISITS, NIGHT, Reduced
from tololo.facility.errors import NothingToDoError
from tololo.hooks.butler import ButlerHook
from tololo.hooks.template import TemplateHook

V1 = "2019/meanclip/coadd/v1"
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
        patched.setattr(TemplateHook, "_tag", staticmethod(killed))
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


def test_a_version_without_templates_is_not_accepted(repository: Path, hook: TemplateHook) -> None:
    chosen = hook.select("", "")
    with pytest.raises(NothingToDoError, match=V1):
        hook.accept(chosen.version)
    assert hook.chain not in ButlerHook(repository).collections()


def test_without_visits_there_is_nothing(ingested: Path) -> None:
    with pytest.raises(NothingToDoError, match="nightly_decam"):
        TemplateHook(ButlerHook(ingested), "2019", "meanclip").select("", "")

"""The versions of a template where the registry is a PostgreSQL, whose transactions are of another kind."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType, DatasetType

from tololo.hooks import template
from tololo.hooks.bootstrap import create
from tololo.hooks.butler import ButlerHook
from tololo.hooks.template import TemplateHook

from .test_bootstrap import make_plan

pytestmark = pytest.mark.services

CHAIN = "2019/min/coadd"
FIRST, SECOND = f"{CHAIN}/v1", f"{CHAIN}/v2"


@pytest.fixture
def hook(tmp_path: Path, registry_url: str) -> TemplateHook:
    """Two versions with a template each, neither accepted."""
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="template_versions")
    create(plan)
    with Butler.from_config(plan.repository, writeable=True) as butler:
        butler.registry.insertDimensionData("skymap", {"name": "sky", "hash": b"x" * 20})
        kind = DatasetType("template_coadd", ("skymap",), "StructuredDataDict", universe=butler.dimensions)
        butler.registry.registerDatasetType(kind)
        for version in (FIRST, SECOND):
            run = f"{version}/template_coadds/coadd/20260101T000000Z"
            butler.collections.register(run)
            butler.put({}, kind, skymap="sky", run=run)
            butler.collections.register(version, CollectionType.CHAINED)
            butler.collections.redefine_chain(version, [run])
            butler.collections.register(f"{version}/inputs", CollectionType.TAGGED)
    return TemplateHook(ButlerHook(plan.repository), "2019", "min")


def test_an_acceptance_happens_as_a_whole(hook: TemplateHook, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hook.accept(FIRST, who="limits") == 1
    before = [asdict(version) for version in hook.versions()]
    real, calls = template.put_record, []

    def killed(*given: object) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(template, "put_record", killed)
        with pytest.raises(KeyboardInterrupt):
            hook.accept(SECOND, who="ana")
    assert [asdict(version) for version in hook.versions()] == before
    hook.accept(SECOND, who="ana", why="deeper")
    assert [version.state for version in hook.versions()] == ["superseded", "accepted"]
    assert hook.versions()[1].latest.who == "ana"
    with hook.butler_hook.open() as butler:
        assert butler.collections.get_info(CHAIN).children[0] == SECOND
        assert butler.collections.get_info(f"{CHAIN}/inputs").children == (f"{SECOND}/inputs",)

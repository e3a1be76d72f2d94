from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from tololo.facility.errors import BadInputError
from tololo.hooks.bootstrap import bootstrap, create, table, verify
from tololo.hooks.butler import ButlerHook
from tololo.hooks.curation import CurationHook

from .chain_race import CHAIN, race, race_of_two, vanish
from .curated import CALIB, NEW, OLD, build, build_empty
from .curated import content as associations
from .test_bootstrap import content, make_plan
from .test_calibrations import race_for_one_range
from .test_visits import add_exposures

pytestmark = pytest.mark.services


def test_bootstrap_twice(tmp_path: Path, registry_url: str) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="twice")
    bootstrap(plan)
    first = content(plan.repository)
    bootstrap(plan)
    assert content(plan.repository) == first
    checks = verify(plan)
    assert all(check.good for check in checks), table(checks)
    with pytest.raises(BadInputError, match="schema twice, not on SQLite"):
        create(replace(plan, registry_url="", namespace=""))
    with pytest.raises(BadInputError, match="another repository"):
        create(replace(plan, repository=str(tmp_path / "second")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo", "stars.ecsv"]
    assert content(plan.repository) == first


def test_killed_creation_is_taken_over(
    tmp_path: Path, registry_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="killed")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", kill)
        with pytest.raises(KeyboardInterrupt):
            create(plan)
    assert create(plan) is True
    bootstrap(plan)
    assert all(check.good for check in verify(plan))


def test_eight_processes_write_one_chain(tmp_path: Path, registry_url: str) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="race")
    create(plan)
    race(plan.repository)


def test_two_runs_with_different_inputs_and_a_killed_one(tmp_path: Path, registry_url: str) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="killed_race")
    create(plan)
    race_of_two(plan.repository)


def test_children_that_come_and_go(tmp_path: Path, registry_url: str) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="vanish")
    create(plan)
    ButlerHook(plan.repository).write_chain(CHAIN)
    vanish(plan.repository)


def test_calibrations_certify_cut_and_copy(tmp_path: Path, registry_url: str) -> None:
    """What the database itself guards here, and SQLite does not: that ranges do not overlap."""
    hook = CurationHook(build(tmp_path / "repo", registry_url=registry_url, namespace="calibrations"))
    race_for_one_range(hook.repository)
    assert hook.decertify(CALIB, "bias", "..").remaining == {}
    assert hook.certify(CALIB, ["bias"], [OLD], "20190401..20190415").certified == 3
    assert hook.decertify(CALIB, "bias", "20190405..20190406", "detector = 2").remaining == {
        "20190401..20190415": 2,
        "20190401..20190404": 1,
        "20190407..20190415": 1,
    }
    with pytest.raises(BadInputError, match=r"2 of 3 datasets.*20190401\.\.20190415"):
        hook.certify(CALIB, ["bias"], [NEW], "20190405")
    assert hook.certify(CALIB, ["bias"], [NEW], "20190405", "detector = 2").certified == 1
    target = CurationHook(build_empty(tmp_path / "target"))
    for copied in (4, 0):
        assert target.transfer_calibrations(hook, [CALIB]).copied == copied
    assert associations(target.repository)["associations"] == associations(hook.repository)["associations"]
    with pytest.raises(BadInputError, match=f"{CALIB} needs"):
        hook.prune([OLD, NEW])
    assert hook.prune([OLD, NEW], chains=[CALIB]).datasets == 7
    back = hook.transfer_calibrations(target, [CALIB])
    assert (back.copied, back.certified) == (4, {CALIB: 5})


def test_tags_and_visits(tmp_path: Path, registry_url: str) -> None:
    hook = CurationHook(build(tmp_path / "repo", registry_url=registry_url, namespace="tags"))
    for added in (3, 0):
        assert hook.associate("20190401/bias/raw", ["bias"], [OLD]).added == added
    with pytest.raises(BadInputError, match="place of 3 datasets"):
        hook.associate("20190401/bias/raw", ["bias"], [NEW])
    assert len(hook.associate("20190401/bias/raw", ["bias"], [NEW], replace=True).replaced) == 3
    assert hook.disassociate("20190401/bias/raw", ["bias"]).removed == 3
    add_exposures(hook.repository)
    for defined in ((1, 2), ()):
        assert hook.define_visits().defined == defined


def test_the_url_in_the_repository_has_no_password(tmp_path: Path, registry_url: str) -> None:
    plan = make_plan(tmp_path, registry_url=registry_url, namespace="plain")
    create(plan)
    written = (Path(plan.repository) / "butler.yaml").read_text()
    assert registry_url in written
    with Butler.from_config(plan.repository) as butler:
        assert butler.collections.query("*") == []

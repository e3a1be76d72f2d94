from __future__ import annotations

from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType

from tololo.facility.errors import BadInputError
from tololo.hooks.chains import write_chain

from .chain_race import CHAIN, race, race_of_two, vanish

OLD, NEW = "n/p/s/20250101T000000Z", "n/p/s/20260101T000000Z"


@pytest.fixture
def butler(tmp_path: Path) -> Butler:
    Butler.makeRepo(str(tmp_path / "repo"))
    butler = Butler.from_config(str(tmp_path / "repo"), writeable=True)
    for run in (OLD, NEW, "n/undated", "refcats", "other"):
        butler.collections.register(run)
    butler.collections.register("n/raw", CollectionType.TAGGED)
    return butler


def test_own_runs_newest_first_then_inputs(butler: Butler) -> None:
    report = write_chain(butler, "n", None, ["refcats", "skymaps", "n/raw"])
    assert report.children == (NEW, OLD, "n/undated", "refcats", "n/raw")
    assert (report.added, report.vanished, report.missing) == (report.children, (), ("skymaps",))
    again = write_chain(butler, "n", None, ["refcats", "skymaps", "n/raw"])
    assert (again.children, again.added) == (report.children, ())


def test_no_child_is_lost_silently(butler: Butler) -> None:
    write_chain(butler, "n", [OLD], ["other", "n/raw"])
    report = write_chain(butler, "n", [NEW], ["refcats", "n/raw"])
    assert report.children == (NEW, OLD, "refcats", "n/raw", "other")
    assert (report.added, report.vanished) == ((NEW, "refcats"), ("other",))
    exact = write_chain(butler, "n", [OLD], ["refcats"], drop=True)
    assert exact.children == (OLD, "refcats") == butler.collections.get_info("n").children
    assert set(exact.vanished) == {NEW, "n/raw", "other"}


def test_a_child_that_vanished_is_reported(butler: Butler) -> None:
    write_chain(butler, "n", None, ["refcats", "n/raw"])
    butler.collections.remove_from_chain("n", [OLD, "refcats"])
    for name in (OLD, "refcats"):
        butler.collections.x_remove(name)
    report = write_chain(butler, "n", [NEW, OLD], ["refcats", "n/raw"])
    assert (report.children, report.missing) == ((NEW, "n/undated", "n/raw"), (OLD, "refcats"))
    assert f"not in the repository: {OLD}, refcats" in str(report)
    kept = write_chain(butler, "n", [NEW], [])
    assert (kept.vanished, kept.children[-1]) == (("n/raw",), "n/raw")
    assert "n/raw, kept at the end" in str(kept)
    assert "taken out: n/undated, n/raw" in str(write_chain(butler, "n", [NEW], [], drop=True))


def test_a_dry_run_says_what_the_chain_would_be(butler: Butler) -> None:
    planned = write_chain(butler, "n", None, ["refcats"], dry_run=True)
    assert "n" not in butler.collections.query("*")
    assert write_chain(butler, "n", None, ["refcats"]) == planned
    planned = write_chain(butler, "n", [NEW], ["other"], drop=True, dry_run=True)
    assert (planned.added, planned.vanished) == (("other",), (OLD, "n/undated", "refcats"))
    assert butler.collections.get_info("n").children == (NEW, OLD, "n/undated", "refcats")


def test_refusals_leave_the_chain_alone(butler: Butler) -> None:
    write_chain(butler, "n", [OLD], ["refcats"])
    with pytest.raises(BadInputError, match="RUN, not a chain"):
        write_chain(butler, "other", [], ["refcats"])
    with pytest.raises(BadInputError, match="contain itself"):
        write_chain(butler, "n", [], ["n"])
    with pytest.raises(BadInputError, match="contain itself"):
        write_chain(butler, "n", ["n"])
    write_chain(butler, "above", [], ["n"])
    with pytest.raises(BadInputError, match="'n' would contain itself"):
        write_chain(butler, "n", [], ["refcats", "above"])
    for name, part in (
        ("2019*/drp", r"'2019\*'"),
        ("2019/dr p", "'dr p'"),
        ("2019//drp", "is empty"),
        ("", "chain is empty"),
        ("2019/drp/", "is empty"),
        ("2019/[ab]", r"'\[ab\]'"),
    ):
        with pytest.raises(BadInputError, match=part):
            write_chain(butler, name, [], ["refcats"])
    assert butler.collections.get_info("n").children == (OLD, "refcats")


def test_eight_processes_at_once(tmp_path: Path) -> None:
    Butler.makeRepo(str(tmp_path / "repo"))
    race(str(tmp_path / "repo"))


def test_two_runs_with_different_inputs_and_a_killed_one(tmp_path: Path) -> None:
    Butler.makeRepo(str(tmp_path / "repo"))
    race_of_two(str(tmp_path / "repo"))


def test_children_that_come_and_go(tmp_path: Path) -> None:
    Butler.makeRepo(str(tmp_path / "repo"))
    Butler.from_config(str(tmp_path / "repo"), writeable=True).collections.register(
        CHAIN, CollectionType.CHAINED
    )
    vanish(str(tmp_path / "repo"))

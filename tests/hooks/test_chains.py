from __future__ import annotations

from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType

from tololo.facility.errors import BadInputError
from tololo.hooks.chains import write_chain

from .chain_race import race

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


def test_refusals_leave_the_chain_alone(butler: Butler) -> None:
    write_chain(butler, "n", [OLD], ["refcats"])
    with pytest.raises(BadInputError, match="RUN, not a chain"):
        write_chain(butler, "other", [], ["refcats"])
    with pytest.raises(BadInputError, match="contain itself"):
        write_chain(butler, "n", [], ["n"])
    with pytest.raises(BadInputError, match=r"2019\*"):
        write_chain(butler, "2019*/drp", [], ["refcats"])
    assert butler.collections.get_info("n").children == (OLD, "refcats")


def test_eight_processes_at_once(tmp_path: Path) -> None:
    Butler.makeRepo(str(tmp_path / "repo"))
    race(str(tmp_path / "repo"))

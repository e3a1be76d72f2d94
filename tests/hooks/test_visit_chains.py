"""Which visits of a night are used: from raws before those from InstCal, and what scorecards leave out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lsst.daf.butler import Butler, CollectionType

from conftest import BAD_VISIT, GOOD_VISITS, NIGHT, SPARE, Reduced
from tololo.facility.errors import BadInputError
from tololo.facility.scorecard import Limits, read_limits
from tololo.hooks.scorecard import score_night
from tololo.hooks.visit_chains import left_out, visit_chains

INSTCAL, DRP = f"{NIGHT}/instcal", f"{NIGHT}/drp"


@pytest.fixture
def butler(reduced: Reduced, tmp_path: Path) -> Iterator[Butler]:
    with Butler.from_config(str(reduced.copy(tmp_path)), writeable=True) as butler:
        yield butler


def as_if_from_raws(butler: Butler) -> None:
    """Let the night have visits from raws as well."""
    refs = butler.query_datasets("visit_image", INSTCAL)
    butler.collections.register(DRP, CollectionType.CHAINED)
    butler.collections.redefine_chain(DRP, [refs[0].run])


def test_a_night_that_was_only_ingested_has_no_visits(butler: Butler) -> None:
    assert f"{SPARE}/instcal" in butler.collections.query("*/instcal")
    assert visit_chains(butler) == {NIGHT: INSTCAL}
    assert visit_chains(butler, "drp") == {}


def test_visits_from_raws_come_first_unless_others_are_asked_for(butler: Butler) -> None:
    butler.collections.register(DRP, CollectionType.CHAINED)
    assert visit_chains(butler) == {NIGHT: INSTCAL}
    as_if_from_raws(butler)
    assert visit_chains(butler) == visit_chains(butler, "drp") == {NIGHT: DRP}
    assert visit_chains(butler, "instcal") == {NIGHT: INSTCAL}


def test_one_night_alone(butler: Butler) -> None:
    assert visit_chains(butler, None, str(NIGHT)) == {NIGHT: INSTCAL}
    assert visit_chains(butler, None, SPARE) == {}
    assert visit_chains(butler, None, 19990101) == {}


def test_other_chains_of_that_name_are_no_night(butler: Butler) -> None:
    for name in ("u/someone/instcal", "trial/instcal", "2019/instcal"):
        butler.collections.register(name, CollectionType.CHAINED)
        butler.collections.redefine_chain(name, [INSTCAL])
    assert visit_chains(butler) == {NIGHT: INSTCAL}


def test_without_visits_there_are_none(ingested: Path) -> None:
    with Butler.from_config(str(ingested)) as butler:
        assert visit_chains(butler) == {}


def test_there_are_no_visits_of_a_bias(butler: Butler) -> None:
    with pytest.raises(BadInputError, match="drp or instcal"):
        visit_chains(butler, "bias")


def test_what_a_scorecard_calls_bad_is_left_out(butler: Butler) -> None:
    assert left_out(butler, [INSTCAL], ("rejected",)).unscored == [NIGHT]
    # Of the two good visits one has the worse seeing.
    score_night(butler, NIGHT, "instcal", limits=read_limits({"seeing": {"flag": 1.1}}))
    rejected = left_out(butler, [INSTCAL], ("rejected",))
    assert (rejected.visits, rejected.unscored) == ({BAD_VISIT: "rejected"}, [])
    both = left_out(butler, [INSTCAL], ("flagged", "rejected"))
    assert both.visits == {GOOD_VISITS[1]: "flagged", BAD_VISIT: "rejected"}
    assert str(both) == f"1 flagged ({GOOD_VISITS[1]}); 1 rejected ({BAD_VISIT})"
    assert both.of(GOOD_VISITS).visits == {GOOD_VISITS[1]: "flagged"}


def test_each_kind_of_visits_has_its_own_scorecard(butler: Butler) -> None:
    as_if_from_raws(butler)
    score_night(butler, NIGHT, "instcal", limits=Limits())
    found = left_out(butler, [DRP, INSTCAL], ("rejected",))
    assert (found.visits, found.unscored) == ({BAD_VISIT: "rejected"}, [NIGHT])
    assert "no scorecard, so all visits are taken, of 20190309" in str(found)

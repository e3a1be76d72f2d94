"""Nights that are withdrawn, and nights that come late: what is stored is as if they had come in order."""

from __future__ import annotations

import pytest
from lsst.dax.apdb import Apdb
from lsst.dax.apdb.recordIds import DiaSourceId

from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.apdb import open_apdb
from tololo.reduction.association import associate_night, associate_visit

from .sky import (
    MIDPOINTS,
    NAME,
    SELECTION,
    TEMPLATE,
    as_child,
    dump,
    forced,
    night,
    polygon,
    run,
    sources,
    visit_info,
    visit_time,
)

FIRST, SECOND, THIRD = 20180211, 20180212, 20180213


def undisturbed(hook, *visits):
    """What an APDB holds that never saw anything else."""
    hook.create(NAME, policy="reset", **TEMPLATE)
    apdb = open_apdb(hook.config_path(NAME))
    for visit in visits:
        run(apdb, visit)
    return dump(apdb, timeless=True)


def test_a_withdrawn_night_was_never_there(hook, apdb):
    run(apdb, 1001)
    run(apdb, 1002, 1003)
    withdrawn = apdb.withdraw(SECOND)
    assert withdrawn.nights == (SECOND, THIRD)
    assert withdrawn.waiting == (THIRD,)
    assert withdrawn.rows == {"DiaObject": 4, "DiaSource": 4, "DiaForcedSource": 6}
    assert apdb.nights() == [FIRST]
    assert apdb.stored(1002, 1) is None
    run(apdb, 1003)
    assert apdb.waiting() == []
    found = dump(apdb, timeless=True)
    assert found == undisturbed(hook, 1001, 1003)

    apdb = open_apdb(hook.config_path(NAME))
    before = dump(apdb)
    run(apdb, 1002, late_nights="replay")
    assert apdb.withdraw(SECOND).waiting == (THIRD,)
    assert apdb.withdraw(THIRD).nights == ()  # it only waited
    run(apdb, 1003)
    assert apdb.withdraw(THIRD).waiting == ()
    run(apdb, 1003)
    assert dump(apdb, timeless=True) == found
    assert dump(apdb) != before  # processing times


def test_the_last_night_goes_without_a_trace(apdb):
    run(apdb, 1001, 1002)
    before = dump(apdb)
    run(apdb, 1003)
    assert apdb.withdraw(THIRD).waiting == ()
    assert dump(apdb) == before
    with pytest.raises(NothingToDoError, match="Nothing of night 20180213 is stored"):
        apdb.withdraw(THIRD)


def test_a_late_night_with_replay_ends_as_if_it_had_come_in_time(hook, apdb):
    run(apdb, 1001, 1003)
    results = run(apdb, 1002, late_nights="replay")
    assert [r.already_stored for r in results] == [False, False]
    assert apdb.nights() == [FIRST, SECOND]
    assert apdb.waiting() == [THIRD]
    run(apdb, 1002, late_nights="replay")  # again: nothing is late any more
    assert apdb.waiting() == [THIRD]
    run(apdb, 1003)
    found = dump(apdb, timeless=True)
    assert found == undisturbed(hook, 1001, 1002, 1003)


def test_a_late_visit_of_the_same_night_needs_no_other_run(hook, apdb, monkeypatch):
    monkeypatch.setitem(MIDPOINTS, 1003, MIDPOINTS[1002] + 0.01)
    run(apdb, 1001, 1003)
    before = dump(apdb)
    with pytest.raises(BadInputError, match="late_nights"):
        run(apdb, 1002)  # 1003 would be taken out, and wait
    assert dump(apdb) == before
    run(apdb, 1002, 1003)
    assert apdb.waiting() == []
    found = dump(apdb, timeless=True)
    assert found == undisturbed(hook, 1001, 1002, 1003)


def test_a_night_of_which_one_detector_was_stored_is_completed(hook, apdb, monkeypatch):
    monkeypatch.setitem(MIDPOINTS, 1003, MIDPOINTS[1002] + 0.01)
    run(apdb, 1001)
    associate_night(apdb, night(1002, 1003, detectors=(1,)), selection=SELECTION)
    before = dump(apdb)
    with pytest.raises(BadInputError, match="late_nights"):
        associate_night(apdb, night(1002, 1003, detectors=(2,)), selection=SELECTION)
    assert dump(apdb) == before
    results = run(apdb, 1002, 1003)
    assert [r.already_stored for r in results] == [True, False, False, False]
    assert apdb.waiting() == []
    found = dump(apdb, timeless=True)
    assert found == undisturbed(hook, 1001, 1002, 1003)


def test_a_night_is_not_completed_where_a_later_one_is_stored(apdb):
    associate_night(apdb, night(1001, 1002, detectors=(1,)), selection=SELECTION)
    before = dump(apdb)
    with pytest.raises(BadInputError, match="late_nights"):
        run(apdb, 1001, 1002)
    assert dump(apdb) == before


def test_no_night_comes_before_one_that_waits(apdb):
    run(apdb, 1002)
    run(apdb, 1001, late_nights="replay")
    before = dump(apdb)
    for late_nights in ("refuse", "replay"):
        with pytest.raises(BadInputError, match=f"Night {SECOND} was withdrawn .* before night {THIRD}"):
            run(apdb, 1003, late_nights=late_nights)
    assert dump(apdb) == before
    assert apdb.ledger.give_up(SECOND) == [1002]
    assert apdb.waiting() == []
    run(apdb, 1003)


def test_what_was_stored_out_of_order_is_withdrawn_in_the_order_of_storing(hook, apdb):
    run(apdb, 1001, 1003)
    before = dump(apdb)
    run(apdb, 1002, out_of_order=True)
    assert apdb.withdraw(SECOND).nights == (SECOND,)
    assert dump(apdb) == before
    run(apdb, 1002, out_of_order=True)
    assert apdb.withdraw(THIRD).nights == (SECOND, THIRD)
    assert apdb.waiting() == [SECOND]
    run(apdb, 1002)
    assert dump(apdb, timeless=True) == undisturbed(hook, 1001, 1002)


def test_killed_while_withdrawing(hook, apdb):
    run(apdb, *MIDPOINTS)
    before = dump(apdb)
    kill = """
from tololo.reduction.withdrawal import ApdbRows
inner = ApdbRows._withdraw
def then_die(*args, **kwargs): inner(*args, **kwargs); die()
ApdbRows._withdraw = then_die
apdb.withdraw(20180212)"""
    done = as_child(kill, hook.config_path(NAME))
    assert done.returncode == -9, done.stderr
    assert dump(apdb) == before
    assert apdb.withdraw(SECOND).waiting == (THIRD,)


def test_dax_apdb_flags_withdrawn_sources_and_refuses_their_ids(hook, apdb):
    """Why `withdraw` deletes."""
    run(apdb, 1001)
    stock = Apdb.from_uri(str(hook.config_path(NAME)))
    rows = stock.getDiaSources(polygon(1), None, visit_time(1001))
    names = ("diaSourceId", "ra", "dec", "midpointMjdTai")
    ids = [DiaSourceId(**{name: row[name] for name in names}) for _, row in rows.iterrows()]
    stock.withdrawDiaSources(ids)
    assert len(stock.getDiaObjects(polygon(1))) == 1  # the object without sources stays
    assert stock.containsVisitDetector(1001, 1)
    apdb.ledger.drop()
    apdb.ledger.create()
    later = sources(1002, 1)
    later["diaSourceId"][0] = ids[0].diaSourceId

    with pytest.raises(BadInputError, match="nothing of them is stored"):
        associate_visit(apdb, visit_info(1002, 1), later, forced(1002, 1))


def test_rows_of_another_program_are_not_withdrawn(apdb):
    run(apdb, 1001, 1002, 1003)
    with apdb._engine.begin() as connection:
        table = apdb.ledger.table
        connection.execute(table.delete().where(table.c.visit == 1003))
    before = dump(apdb)
    with pytest.raises(BadInputError, match="Another program stored visit 1003"):
        apdb.withdraw(SECOND)
    assert dump(apdb) == before

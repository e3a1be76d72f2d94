from __future__ import annotations

import os
import shutil
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler.direct_butler import DirectButler

from conftest import GOOD_VISITS, NIGHT, SPARE, SPARE_VISIT
from hooks.recovered_night import chain_of, plant
from reduction.recovered import Sky
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.recovery import HISTORY, HISTORY_PLOT, PLOT, SUMMARY, TABLE, Limits
from tololo.hooks.recovery import RecoveryHook

ALL = (TABLE, SUMMARY, PLOT, HISTORY, HISTORY_PLOT)


@pytest.fixture
def hook(ingested: Path, tmp_path: Path) -> RecoveryHook:
    return RecoveryHook(shutil.copytree(ingested, tmp_path / "repository"))


@pytest.fixture
def chain(hook: RecoveryHook) -> str:
    """A night with two visits, the second less deep."""
    skies = Sky(seed=1), Sky(depth=22.4, seed=2)
    return plant(Path(hook.repository), NIGHT, *zip(GOOD_VISITS, skies, strict=True))


def recorded(hook: RecoveryHook, night: int = NIGHT) -> dict[str, Any]:
    """What the front of a night's chain holds."""
    with hook.open() as butler:
        return {
            kind: butler.get(kind, instrument="DECam", day_obs=night, collections=chain_of(night))
            for kind in ALL
            if kind not in (PLOT, HISTORY_PLOT)
        }


def runs(hook: RecoveryHook) -> list[str]:
    return hook.collections("*/recovery/*")


def test_a_night_is_measured_once(hook: RecoveryHook, chain: str) -> None:
    first = hook.measure(chain)
    assert first.new
    assert first.alarms == []
    found = first.summary["bands"]["r"]
    assert found["injected"] == 1200
    first_visit, second = found["visits"]
    assert first_visit["depth"] == pytest.approx(23.0, abs=4 * first_visit["depth_error"])
    assert second["depth"] == pytest.approx(22.4, abs=4 * second["depth_error"])
    assert hook.counts(first.run) == dict.fromkeys(ALL, 1)
    with hook.open() as butler:
        children = butler.collections.get_info(chain).children
        assert children[0] == first.run
        assert children[-1] == "injection/ring"
    assert recorded(hook)[SUMMARY] == first.summary
    assert first.summary["catalogue"] == "ring"
    again = hook.measure(chain)
    assert (again.new, again.run, again.summary) == (False, first.run, first.summary)
    assert runs(hook) == [first.run]
    assert "injected sources recovered, half complete at" in " ".join(first.lines())


def test_a_limit_is_an_alarm(hook: RecoveryHook, chain: str) -> None:
    (alarm,) = hook.measure(chain, Limits(depth={"r": 23.5})).alarms
    assert alarm.startswith("Band r: half of the sources are recovered at 22.")
    assert recorded(hook)[SUMMARY]["alarms"] == [alarm]
    # Other limits say something else, which is to be recorded anew.
    assert hook.measure(chain, dry_run=True).new


@pytest.mark.long
def test_nights_are_followed(hook: RecoveryHook, chain: str) -> None:
    later = plant(Path(hook.repository), SPARE, (SPARE_VISIT, Sky(depth=23.4)))
    hook.measure(later)
    assert recorded(hook, SPARE)[HISTORY]["night"].tolist() == [SPARE]
    hook.measure(chain)
    assert recorded(hook)[HISTORY]["night"].tolist() == [NIGHT]
    # The night before it has come late.
    assert hook.measure(later).new
    told = recorded(hook, SPARE)[HISTORY]
    assert told["night"].tolist() == [NIGHT, SPARE]
    assert told["depth"][1] == pytest.approx(23.4, abs=0.1)
    assert not hook.measure(chain).new
    assert not hook.measure(later).new


def test_a_dry_run_writes_nothing(hook: RecoveryHook, chain: str) -> None:
    planned = hook.measure(chain, dry_run=True)
    assert (planned.run, planned.new) == ("", True)
    assert runs(hook) == []


def test_killed_and_run_again(hook: RecoveryHook, chain: str) -> None:
    pid = os.fork()
    if pid == 0:
        original, numbers = DirectButler.put, count()

        def put(*args: Any, **kwargs: Any) -> Any:
            if next(numbers) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        DirectButler.put = put  # type: ignore[method-assign]
        try:
            hook.measure(chain)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert len(runs(hook)) == 1
    done = hook.measure(chain)
    assert runs(hook) == [done.run]
    assert hook.counts(done.run) == dict.fromkeys(ALL, 1)
    assert not hook.measure(chain).new


def test_a_night_without_the_plain_run_says_that_purity_is_not_known(hook: RecoveryHook) -> None:
    chain = plant(Path(hook.repository), NIGHT, (GOOD_VISITS[0], Sky(plain=False)))
    measured = hook.measure(chain)
    assert measured.summary["bands"]["r"]["purity"] is None
    (note,) = measured.summary["notes"]
    assert note.startswith("1 of 1 detectors have no difference image without injected sources")


def test_what_cannot_be_measured_is_one_message(hook: RecoveryHook) -> None:
    with pytest.raises(NothingToDoError, match="no difference images with injected sources"):
        hook.measure(chain_of(NIGHT))
    with pytest.raises(BadInputError, match="no chain of difference images with injected sources"):
        hook.measure("20190309/2019/meanclip/diff_instcal")
    chain = plant(Path(hook.repository), NIGHT, (GOOD_VISITS[0], Sky(number=0)))
    with pytest.raises(BadInputError, match="ring has no source that could be found"):
        hook.measure(chain)
    assert runs(hook) == []

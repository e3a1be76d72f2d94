"""A publisher, or the TOM, that dies at any moment: no point lost, none doubled."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import replace
from itertools import count
from multiprocessing.process import BaseProcess

import pytest

from tololo.facility.errors import UnavailableError
from tololo.facility.lightcurve import LightCurve
from tololo.facility.tom import Target
from tololo.hooks.tom import TomHook

from .server import DEC, INSTALLED, RA, Fault, MakeHook, Proxy, RealTom, check_holds, light_curve

pytestmark = [pytest.mark.services, INSTALLED]

_names = (f"AT 2018killed{number}" for number in count(1))


def publish(url: str, token: str, name: str, curve: LightCurve) -> None:
    """What a task does, in a process of its own."""
    os.environ["AIRFLOW_CONN_TOM_KILLED"] = json.dumps({"conn_type": "tom", "host": url, "password": token})
    TomHook("tom_killed", timeout=(2, 20), settle=0.3).publish(replace(curve, target=name), "diffim")


def publisher(proxy: Proxy, tom: RealTom, name: str, curve: LightCurve) -> BaseProcess:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tololo.hooks.tom"])
    return processes.Process(target=publish, args=(proxy.url, tom.info.token, name, curve))


def killed_at(
    step: tuple[str, int, str], proxy: Proxy, tom: RealTom, name: str, curve: LightCurve
) -> list[tuple[str, int]]:
    """Publish, and kill the publisher with -9 `before` or `after` the n-th request of a method is answered.

    Returns the requests that were made: method and number.
    """
    made: list[tuple[str, int]] = []
    process = publisher(proxy, tom, name, curve)

    def watch(number: int, when: str) -> None:
        if when == "before":
            method = proxy.seen[number - 1][0]
            made.append((method, 1 + sum(m == method for m, _ in made)))
        if (*made[-1], when) == step:
            process.kill()

    proxy.seen.clear()
    proxy.answered = 0
    proxy.watch = watch
    process.start()
    process.join()
    assert process.exitcode == (-9 if step[1] else 0), f"{step} of {made}"
    while proxy.answered < len(proxy.seen):
        time.sleep(0.05)  # until the TOM is done with the last request, of which nobody waits for the answer
    return made


def check_killed(
    step: tuple[str, int, str], hook: MakeHook, tom: RealTom, proxy: Proxy, *, is_new: bool
) -> list[tuple[str, int]]:
    """Kill a publisher at a step, see that nothing is lost, and that the next one completes its work."""
    old, new, name = light_curve(), light_curve(flux_njy=700.0), next(_names)
    if not is_new:
        target = hook().find_target(name, ra=RA, dec=DEC)
        hook().upload_light_curve(target, old, "diffim")
    made = killed_at(step, proxy, tom, name, new)
    if not is_new:
        there = len(tom.points(target.id)), len(tom.products(target.id))
        assert there in ((12, 1), (24, 2)), f"{step} of {made}"
    hook().publish(replace(new, target=name), "diffim")
    (row,) = tom.sql("SELECT id FROM tom_targets_basetarget WHERE name = ?", name)
    check_holds(tom, Target(row[0], name, RA, DEC), new)
    return made


@pytest.mark.parametrize("step", [("POST", 1, "after"), ("DELETE", 1, "before"), ("DELETE", 1, "after")])
def test_a_killed_publisher(hook: MakeHook, tom: RealTom, proxy: Proxy, step: tuple[str, int, str]) -> None:
    check_killed(step, hook, tom, proxy, is_new=False)


@pytest.mark.long
@pytest.mark.parametrize("is_new", [False, True])
def test_a_publisher_killed_at_each_step(hook: MakeHook, tom: RealTom, proxy: Proxy, is_new: bool) -> None:
    made = check_killed(("", 0, ""), hook, tom, proxy, is_new=is_new)
    assert {method for method, _ in made} == ({"GET", "POST"} if is_new else {"GET", "POST", "DELETE"})
    assert len(made) >= 8
    for request in made:
        for when in ("before", "after"):
            check_killed((*request, when), hook, tom, proxy, is_new=is_new)


@pytest.mark.parametrize(
    "seconds", [0.5, *(pytest.param(t, marks=pytest.mark.long) for t in (0.05, 0.2, 1.0, 1.5, 2.0, 3.0))]
)
def test_the_tom_dies_in_mid_upload(
    hook: MakeHook, target: Target, tom: RealTom, proxy: Proxy, seconds: float
) -> None:
    old, new = light_curve(), light_curve(3000, flux_njy=700.0)
    hook().upload_light_curve(target, old, "diffim")
    proxy.faults = [Fault("POST", "/api/dataproducts/", "die", seconds=seconds, action=tom.kill)]
    with pytest.raises(UnavailableError, match="gave no answer"):
        hook(proxy.url, timeout=(2, 60)).upload_light_curve(target, new, "diffim")
    tom.start()
    points = tom.points(target.id)
    origins = {point["source_location"] for point in points}
    assert origins >= {row["source_location"] for row in old.rows()}
    result = hook(timeout=(2, 60)).upload_light_curve(target, new, "diffim")
    check_holds(tom, target, new, result)

"""The sides of the engine bench run the same quanta, are held against the truth, and are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tololo.engine.client import stop_server
from tololo.facility.run import RunRequest
from tololo.simulation.drill import INPUTS

from .modules import bench_module


@pytest.fixture(scope="module")
def engine() -> Iterator[ModuleType]:
    with bench_module("engine") as module:
        yield module
    stop_server()


def test_the_sides_do_the_same(engine: ModuleType, tmp_path: Path) -> None:
    toy = engine.Toy("3 quanta", "all", 3, 1, 1, tmp_path / "pristine")
    toy.make()
    chosen = [side for side in engine.sides(parsl_too=True) if side.name in ("ours", "pipetask -j 1")]
    rows = engine.compare(toy, chosen, 1, tmp_path)
    assert [(row.step, row.side, len(row.runs_wall_s)) for row in rows] == [
        ("3 quanta", "ours", 1),
        ("3 quanta", "pipetask -j 1", 1),
    ]
    found = engine.summary(toy, chosen)
    for side in ("ours", "pipetask -j 1"):
        assert (found[side]["quanta"], found[side]["executed"], found[side]["wrong_outputs"]) == (3, [3], 0)
        assert 0 < found[side]["first_quantum_s"] < rows[0].median_wall_s + rows[1].median_wall_s
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pristine"]


def test_a_side_that_does_not_do_its_work_is_found_out(engine: ModuleType, tmp_path: Path) -> None:
    toy = engine.Toy("3 quanta", "all", 3, 1, 1, tmp_path / "pristine")
    toy.make()
    half = engine.Side(
        "half", "pipetask on a part", 1, lambda request, folder: partly(engine, request, folder)
    )
    engine.compare(toy, [half], 1, tmp_path)
    assert engine.summary(toy, [half])["half"]["executed"] == [1]
    assert engine.summary(toy, [half])["half"]["wrong_outputs"] == 2


def partly(engine: ModuleType, request: RunRequest, folder: Path) -> str:
    pipeline = request.pipeline.replace("#all", "#one")
    config = {key: value for key, value in request.config.items() if key.startswith("drillOne")}
    assert request.inputs == [INPUTS]
    return str(engine.pipetask(1)(replace(request, pipeline=pipeline, config=config), folder))


def test_a_command_that_fails_is_told_with_the_end_of_its_log(engine: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)pipetask nosuch ended with 2:.*No such command"):
        engine.call(["pipetask", "nosuch"], tmp_path)


def test_a_peer_that_fails_is_left_out_and_told(engine: ModuleType, tmp_path: Path) -> None:
    def broken(request: RunRequest, folder: Path) -> str:
        raise RuntimeError("no such peer")

    toy = engine.Toy("1 quantum", "one", 1, 1, 1, tmp_path / "pristine")
    toy.make()
    peer = engine.Side("peer", "", 1, broken)
    idle = engine.Side("idle", "", 1, lambda request, folder: request.parent)
    assert engine.compare(toy, [peer, idle], 2, tmp_path) == []
    assert engine.summary(toy, [peer, idle]) == {}
    assert (peer.failure, idle.failure) == (
        "RuntimeError: no such peer",
        "RuntimeError: idle has not done a single quantum",
    )
    with pytest.raises(RuntimeError, match="no such peer"):
        engine.compare(toy, [engine.Side("ours", "", 1, broken)], 1, tmp_path)

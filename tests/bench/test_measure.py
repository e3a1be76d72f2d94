"""The benches' measure sees what detached processes spend, and its file has the form that others read."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A child that starts a detached grandchild and goes; the grandchild burns processor time and lives on.
DETACHED = """
import os, subprocess, sys, time
sys.path.insert(0, "bench")
import measure

measure.adopt_orphans()
burn = "import time\\nwhile time.process_time() < 0.4: pass\\nopen({0!r}, 'w'); time.sleep({1})"
popen = "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
start = f"import subprocess, sys; {popen}"

def action(done, rest):
    subprocess.run([sys.executable, "-c", start, burn.format(done, rest)], check=True)
    while not os.path.exists(done):
        time.sleep(0.01)

for name, rest in (("alive", 2), ("gone", 0)):
    _, cpu, _ = measure.cost(lambda: action(sys.argv[1] + name, rest))
    print(cpu)
    time.sleep(0.3)
print(measure.cost(lambda: None)[1])
"""


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    return load(ROOT / "bench" / "measure.py")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return load(ROOT / "docs" / "build.py")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tests_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_what_a_detached_process_spends_is_counted(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", DETACHED, f"{tmp_path}/"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    alive, gone, nothing = map(float, answer.stdout.split())
    assert alive > 0.35
    assert gone > 0.35
    assert nothing < 0.1


def make_rows(measure: ModuleType) -> list[object]:
    ours = measure.Row("step", "ours", "x")
    peer = measure.Row("step", "peer", "y")
    for wall in (2.0, 1.0, 9.0):
        ours.add(0.5, wall)
        peer.add(2.0, 10 * wall)
    return [ours, peer, *(measure.Row("alone", "peer", "y", [1.0], [1.0]) for _ in range(1))]


def test_ratios_are_the_peers_median_over_ours(measure: ModuleType) -> None:
    rows = make_rows(measure)
    assert measure.ratios(rows) == {"step": {"peer": 4.0}}
    assert measure.ratios(rows, by_wall=True) == {"step": {"peer": 10.0}}


def test_the_file_has_the_form_that_others_read(
    measure: ModuleType, build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLOLO_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "yardstick", lambda: (None, "not here"))
    rows = make_rows(measure)
    quality = {"step": {"ours": {"overhead_per_quantum_s": 0.0123}}}
    path = measure.write("some", measure.machine(), rows, measure.ratios(rows), quality)
    assert path == tmp_path / "bench" / "some.json"
    result = json.loads(path.read_text())
    assert set(result) == {"name", "machine", "yardstick_funpack_s", "rows", "ratios", "quality"}
    assert set(result["machine"]) == {"cpu", "cores", "memory_gb", "load"}
    assert result["yardstick_funpack_s"] is None
    assert result["quality"]["yardstick"] == "not here"
    assert result["rows"][1] == {
        "step": "step",
        "side": "peer",
        "command": "y",
        "runs_cpu_s": [2.0, 2.0, 2.0],
        "runs_wall_s": [20.0, 10.0, 90.0],
        "median_cpu_s": 2.0,
        "median_wall_s": 20.0,
    }
    ending = "<!-- /bench -->\nafter\n<!-- bench: none -->\nkept\n<!-- /bench -->\n"
    page = f"before\n<!-- bench: some -->\nold\n{ending}"
    filled = build.fill(page, tmp_path)
    assert filled.startswith("before\n<!-- bench: some -->\nMedians on ")
    assert "\n| step | ours | 3 | 2.00 | 0.50 |  | 0.012 |\n" in filled
    assert "\n| step | peer | 3 | 20.00 | 2.00 | 4.0 |  |\n" in filled
    assert filled.endswith(ending)
    assert "old" not in filled
    assert build.fill(filled, tmp_path) == filled


def test_the_yardstick_says_why_there_is_none(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "debian", lambda program, package: None)
    seconds, how = measure.yardstick()
    assert seconds is None
    assert "libcfitsio-bin" in how

"""How long Airflow takes to parse the DAG folder, each file in a fresh process: `make bench NAME=parse`."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 5
CODE = """
import resource, sys, time
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
cpu, wall = time.process_time(), time.perf_counter()
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
print(time.process_time() - cpu, time.perf_counter() - wall, len(bag.dags))
"""


def measure(folder: str) -> tuple[list[float], list[float]]:
    """Return processor and wall seconds of parsing a folder, several times in fresh processes."""
    cpu, wall = [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as home:
            environment = os.environ | {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
            answer = subprocess.run(
                [sys.executable, "-c", CODE, folder],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
        a, b, _ = answer.stdout.split()[-3:]
        cpu.append(round(float(a), 3))
        wall.append(round(float(b), 3))
    return cpu, wall


def main() -> int:
    """Measure, print and write var/bench/parse.json."""
    cpu, wall = measure(str(ROOT / "dags"))
    row = {
        "step": "parse dags/",
        "side": "ours",
        "command": "DagBag('dags')",
        "runs_cpu_s": cpu,
        "runs_wall_s": wall,
        "median_cpu_s": statistics.median(cpu),
        "median_wall_s": statistics.median(wall),
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    result = {
        "name": "parse",
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "memory_gb": round(memory, 1),
            "load": os.getloadavg()[0],
        },
        "yardstick_funpack_s": None,
        "rows": [row],
        "ratios": {},
        "quality": {},
    }
    path = Path(os.environ.get("TOLOLO_HOME") or ROOT / "var") / "bench" / "parse.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
    print(
        f"parse dags/: {row['median_wall_s']:.2f} s wall, {row['median_cpu_s']:.2f} s processor ({RUNS} runs)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

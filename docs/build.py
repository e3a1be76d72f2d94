"""Write what the documentation takes from elsewhere; ``--check`` only says whether the page of DAGs is fresh.

``docs/dags.md`` comes from the DAGs' own docstrings. A page with the two lines ``<!-- bench: NAME -->`` and
``<!-- /bench -->`` gets between them what ``make bench NAME=...`` has measured last on this machine; it stays
as it is where nothing was measured.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "dags.md"
_BENCH = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


FIGURES = {
    "overhead_per_quantum_s": "overhead per quantum (s)",
    "overhead_of_the_whole_run_s": "with the start (s)",
}
"""What a bench may tell of each side beside its times, and the column for it."""


def render() -> str:
    """Return the page: one section for each DAG file, in alphabetical order."""
    parts = [
        "# The DAGs\n\nWritten by `make docs` from the docstrings in `dags/`, which the web UI shows too.\n"
    ]
    for path in sorted((ROOT / "dags").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        title, _, body = text.strip().partition("\n")
        parts.append(f"## {title.lstrip('# ')} (`{path.stem}`)\n{body}\n")
    return "\n".join(parts)


def bench(result: dict[str, Any]) -> str:
    """Return what a bench has measured: the machine, and a table of every side of every step."""
    facts, unit = result["machine"], result["yardstick_funpack_s"]
    yardstick = f"; `funpack` of one raw CCD takes it {unit:.3f} s" if unit else ""
    steps = [result["quality"].get(row["step"], {}) for row in result["rows"]]
    told = [key for key in FIGURES if any(key in side for step in steps for side in step.values())]
    table = [["step", "side", "runs", "wall (s)", "processor (s)", "times ours"]]
    table[0] += [FIGURES[key] for key in told]
    for row in result["rows"]:
        step, side = row["step"], row["side"]
        times = result["ratios"].get(step, {}).get(side)
        quality = result["quality"].get(step, {}).get(side, {})
        table.append(
            [
                step,
                side,
                str(len(row["runs_wall_s"])),
                f"{row['median_wall_s']:.2f}",
                f"{row['median_cpu_s']:.2f}",
                "" if times is None else f"{times:.1f}",
                *(f"{quality[key]:.3f}" if key in quality else "" for key in told),
            ]
        )
    table.insert(1, ["---"] * len(table[0]))
    machine = (
        f"{facts['cores']} cores of {facts['cpu']}, {facts['memory_gb']:.0f} GB, load {facts['load']:.1f}"
    )
    return "\n".join(
        [f"Medians on {machine}{yardstick}.", "", *(f"| {' | '.join(line)} |" for line in table), ""]
    )


def fill(page: str, home: Path) -> str:
    """Return a page with the results of the benches that it shows."""

    def put(match: re.Match[str]) -> str:
        path = home / "bench" / f"{match[2]}.json"
        return f"{match[1]}{bench(json.loads(path.read_text()))}{match[3]}" if path.exists() else match[0]

    return _BENCH.sub(put, page)


def main() -> int:
    """Write or check the pages."""
    if "--check" in sys.argv:
        return 0 if PAGE.exists() and PAGE.read_text() == render() else 1
    PAGE.write_text(render())
    home = Path(os.environ.get("TOLOLO_HOME") or ROOT / "var")
    for path in sorted(PAGE.parent.glob("*.md")):
        page = path.read_text()
        if (filled := fill(page, home)) != page:
            path.write_text(filled)
    return 0


if __name__ == "__main__":
    sys.exit(main())

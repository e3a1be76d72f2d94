from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_of_the_dags_is_what_their_docstrings_say() -> None:
    done = subprocess.run([sys.executable, "docs/build.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "docs/dags.md is stale: run `make docs`"


def test_the_page_has_every_dag() -> None:
    page = (ROOT / "docs" / "dags.md").read_text()
    for path in (ROOT / "dags").glob("*.py"):
        assert f"(`{path.stem}`)" in page

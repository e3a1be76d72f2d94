"""Write docs/dags.md from the DAGs' own docstrings; ``--check`` only says whether it is fresh."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "dags.md"


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


def main() -> int:
    """Write or check the page."""
    if "--check" in sys.argv:
        return 0 if PAGE.exists() and PAGE.read_text() == render() else 1
    PAGE.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Simulate nights from the command line: ``python -m tololo.simulation FOLDER``."""

from __future__ import annotations

import argparse
import sys

from tololo.facility.errors import TololoError
from tololo.simulation.instcal import simulate_nights


def main() -> int:
    """Write the demo's simulation into a folder and say what it holds."""
    parser = argparse.ArgumentParser(prog="python -m tololo.simulation", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        truth = simulate_nights(arguments.folder, seed=arguments.seed)
    except TololoError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        f"{len(truth.exposures)} exposures in {truth.images}, {len(truth.stars)} stars, "
        f"{len(set(truth.transients['id']))} transients, reference catalogue {truth.reference}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

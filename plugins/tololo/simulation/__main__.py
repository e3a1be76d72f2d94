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
    parser.add_argument("--raw", action="store_true", help="raws with their calibrations, not InstCal files")
    parser.add_argument("--processes", type=int, default=1, help="detectors simulated at a time (raws)")
    arguments = parser.parse_args()
    try:
        if arguments.raw:
            return _raw(arguments.folder, arguments.seed, arguments.processes)
        truth = simulate_nights(arguments.folder, seed=arguments.seed)
    except TololoError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        f"{len(truth.exposures)} exposures in {truth.images}, {len(truth.stars)} stars, "
        f"{len(set(truth.transients['id']))} transients, reference catalogue {truth.reference}\n"
    )
    return 0


def _raw(folder: str, seed: int, processes: int) -> int:
    """Write raw nights; apart, because of what it imports."""
    from tololo.simulation.raw import simulate_raw_nights

    truth = simulate_raw_nights(folder, seed=seed, processes=processes)
    sys.stdout.write(
        f"{len(truth.exposures)} science exposures and {len(truth.calibrations)} calibrations in "
        f"{truth.images}, {len(truth.stars)} stars, reference catalogue {truth.reference}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

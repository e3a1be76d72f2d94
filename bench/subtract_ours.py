"""Our side of `make bench NAME=subtract`: a warm process with a pair of images and a detector of a night.

For each line on its input it subtracts the pair, by both methods, and does the whole chain of one detector;
it answers with a line of JSON: processor and wall seconds of each step, and what the differences are worth.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import subtract_pair
from subtract_chain import Detector
from subtract_scores import score

from tololo.reduction.kernels.subtraction import Subtraction, subtract

SUBTRACT, ZOGY, CHAIN = "subtraction, exact variance", "subtraction by ZOGY", "template to difference_image"


def timed[T](spent: dict[str, list[float]], step: str, action: Callable[[], T]) -> T:
    """Do something, and note its (processor, wall) seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = action()
    spent[step] = [time.process_time() - cpu, time.perf_counter() - wall]
    return result


def pair_subtraction(pair: subtract_pair.Pair, method: Any) -> Callable[[], Subtraction]:
    """Return what subtracts the pair by a method."""
    stars = pair.stars[pair.stars[:, 2] > 8000]
    psfs = [subtract_pair.model(fwhm) for fwhm in (subtract_pair.SCIENCE_FWHM, subtract_pair.TEMPLATE_FWHM)]

    def action() -> Subtraction:
        return subtract(
            pair.science,
            pair.science_variance,
            pair.science_bad,
            pair.template,
            pair.template_variance,
            pair.template_bad,
            stars[:, 0],
            stars[:, 1],
            science_fwhm=subtract_pair.SCIENCE_FWHM,
            template_fwhm=subtract_pair.TEMPLATE_FWHM,
            science_psf=psfs[0],
            template_psf=psfs[1],
            method=method,
        )

    return action


def worth(pair: subtract_pair.Pair, result: Subtraction) -> dict[str, Any]:
    """Score a subtraction of the pair."""
    ny, nx = pair.science.shape
    psf = result.psf.kernel(nx / 2, ny / 2)
    return {
        **score(result.difference, result.variance, result.bad, psf, pair.stars, pair.transients),
        "flux_ratio": round(result.flux_ratio, 4),
        "flux_ratio_true": subtract_pair.RATIO,
    }


def main(pair_file: Path, night: Path) -> None:
    """Do everything once for each line of input; the last line but one asks for nothing else."""
    pair = subtract_pair.Pair.load(pair_file)
    actions = {SUBTRACT: pair_subtraction(pair, "alard_lupton"), ZOGY: pair_subtraction(pair, "zogy")}
    detector = Detector(night)
    for _ in sys.stdin:
        spent: dict[str, list[float]] = {}
        results = {step: timed(spent, step, action) for step, action in actions.items()}
        parts: dict[str, list[float]] = {}
        timed(spent, CHAIN, partial(detector.difference, partial(timed, parts)))
        quality = {step: worth(pair, result) for step, result in results.items()}
        answer = {"steps": spent | parts, "quality": quality | {CHAIN: detector.quality()}}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    np.seterr(all="ignore")
    main(Path(sys.argv[1]), Path(sys.argv[2]))

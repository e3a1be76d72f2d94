"""Train the reliability of diaSources on injected sources.

    python -m tololo.reduction.train_reliability --repository R --collections C[,C] --output reliability.json

reads the injected sources and the diaSources of every detector in the collections (those of difference
imaging with injected sources, `..._injected`), takes the injected sources that were detected for real and all
other detections for artefacts, and writes a model with its provenance. docs/reliability.md tells the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tololo import __version__
from tololo.facility.errors import BadInputError, NothingToDoError, TololoError
from tololo.reduction.reliability import ReliabilityModel, Tree, read_model, write_model
from tololo.reduction.reliability_features import FEATURES
from tololo.reduction.reliability_sample import Sample, read_sample

TREES, DEPTH, RATE = 80, 3, 0.15

LEAST = 50
"""Sources of each kind without which there is nothing to learn."""

FOLDS = 5

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def train(sample: Sample, provenance: dict[str, Any], seed: int = 1) -> ReliabilityModel:
    """Fit and calibrate a model.

    The calibration and the curve of purity and completeness are those of detectors that a model has not seen
    (cross-validation over detectors).

    Raises
    ------
    NothingToDoError
        There are fewer than `LEAST` of a kind, or fewer than two detectors.
    """
    from sklearn.ensemble import GradientBoostingClassifier  # type: ignore[import-untyped]
    from sklearn.model_selection import GroupKFold  # type: ignore[import-untyped]

    n_real = int(sample.real.sum())
    if min(n_real, sample.real.size - n_real) < LEAST or sample.detectors < 2:
        raise NothingToDoError(
            f"{n_real} injected sources were detected and {sample.real.size - n_real} other things, on "
            f"{sample.detectors} detectors: too few to learn from",
            "training of the reliability",
            f"give {LEAST} of each and two detectors at least",
        )
    with np.errstate(invalid="ignore"):
        fill = np.nan_to_num(np.nanmedian(np.where(np.isfinite(sample.table), sample.table, np.nan), axis=0))
    table = np.where(np.isfinite(sample.table), sample.table, fill)

    def fitted(rows: NDArray[np.int64]) -> Any:
        machine = GradientBoostingClassifier(
            n_estimators=TREES,
            max_depth=DEPTH,
            learning_rate=RATE,
            subsample=0.7,
            min_samples_leaf=10,
            random_state=seed,
        )
        return machine.fit(table[rows], sample.real[rows])

    unseen = np.full(sample.real.size, np.nan)
    folds = GroupKFold(min(FOLDS, sample.detectors))
    for rows, others in folds.split(table, sample.real, sample.group):
        if 0 < sample.real[rows].sum() < rows.size:
            unseen[others] = fitted(rows).decision_function(table[others])
    seen = np.isfinite(unseen)
    slope, offset = calibrated(unseen[seen], sample.real[seen])
    odds = np.where(seen, slope * unseen + offset, -np.inf)
    machine = fitted(np.arange(sample.real.size))
    start = float(machine.decision_function(fill[None])[0])
    trees = tuple(_tree(stage[0].tree_, RATE) for stage in machine.estimators_)
    model = ReliabilityModel(FEATURES, tuple(map(float, fill)), trees, slope, 0.0)
    # What the machine begins with goes into the offset.
    begin = start - float(model.raw(fill[None])[0])
    quality = measured(1.0 / (1.0 + np.exp(-np.clip(odds, -50, 50))), sample)
    return ReliabilityModel(
        FEATURES, model.fill, trees, slope, offset + slope * begin, {**provenance, **quality}
    )


def calibrated(raw: NDArray[np.float64], real: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and offset of the line from the trees' sum to the log odds (Platt 1999).

    So many sources never make certain: of n real ones the target is (n + 1) / (n + 2), not 1, and so for the
    others; else a sample that the trees tell apart without a mistake would have an infinite slope.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    number = np.count_nonzero(real), np.count_nonzero(~real)
    target = np.where(real, (number[0] + 1) / (number[0] + 2), 1 / (number[1] + 2))
    line = LogisticRegression(C=1e6).fit(
        np.concatenate([raw, raw])[:, None],
        np.repeat([True, False], raw.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return float(line.coef_[0, 0]), float(line.intercept_[0])


def _tree(tree: Any, rate: float) -> Tree:
    leaf = tree.children_left < 0
    own = np.arange(tree.node_count)
    return Tree(
        feature=np.where(leaf, 0, tree.feature).tolist(),
        threshold=np.where(leaf, 0.0, tree.threshold).tolist(),
        left=np.where(leaf, own, tree.children_left).tolist(),
        right=np.where(leaf, own, tree.children_right).tolist(),
        value=(rate * tree.value[:, 0, 0]).tolist(),
    )


def measured(probability: NDArray[np.float64], sample: Sample) -> dict[str, Any]:
    """Return sample and quality of a model, from the probabilities of sources that it has not seen.

    Returns
    -------
    quality : `dict`
        ``sample`` (counts; ``real_share`` is the prior that the probabilities stand for), ``curve``
        (``completeness``: of the detected injected sources; ``purity``: share of real ones; the same of what
        has no rejection), ``calibration`` (by bins of the probability: mean and share of real ones),
        ``brier`` and ``area`` (under the curve of true against false positives).
    """
    from sklearn.metrics import brier_score_loss, roc_auc_score  # type: ignore[import-untyped]

    real, clean = sample.real, sample.unrejected

    def shares(chosen: NDArray[np.bool_]) -> dict[str, float | None]:
        return {
            "completeness": _share(chosen & real, real),
            "purity": _share(chosen & real, chosen),
            "completeness_unrejected": _share(chosen & real & clean, real),
            "purity_unrejected": _share(chosen & real & clean, chosen & clean),
        }

    bins = np.minimum((probability * 10).astype(int), 9)
    calibration = [
        {
            "mean": round(float(probability[bins == k].mean()), 4),
            "real": _share(real & (bins == k), bins == k),
            "number": int(np.count_nonzero(bins == k)),
        }
        for k in range(10)
        if (bins == k).any()
    ]
    return {
        "sample": {
            "visits": sample.visits,
            "detectors": sample.detectors,
            "injected": sample.injected,
            "detected": int(real.sum()),
            "others": int((~real).sum()),
            "others_unrejected": int((~real & clean).sum()),
            "real_share": round(float(real.mean()), 4),
        },
        "curve": [{"reliability": t, **shares(probability >= t)} for t in THRESHOLDS],
        "calibration": calibration,
        "brier": round(float(brier_score_loss(real, probability)), 5),
        "area": round(float(roc_auc_score(real, probability)), 5),
    }


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float | None:
    number = int(np.count_nonzero(whole))
    return round(int(np.count_nonzero(part)) / number, 4) if number else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tololo.reduction.train_reliability")
    parser.add_argument(
        "--repository", required=True, action="append", help="Butler repository; more than once for more"
    )
    parser.add_argument("--collections", required=True, help="collections with injected_source, by comma")
    parser.add_argument("--output", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--note", default="", help="what the sample is, for the file")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers of the fit")
    given = parser.parse_args(arguments)
    collections = [name for name in given.collections.split(",") if name]
    try:
        if not given.output.parent.is_dir():
            raise BadInputError("The folder of the output is not there", str(given.output))
        sample = read_sample(given.repository, collections)
        provenance = {
            "command": f"{parser.prog} --collections {given.collections} --seed {given.seed}",
            "code_version": __version__,
            "collections": collections,
            "note": given.note,
            "trees": {"number": TREES, "depth": DEPTH, "rate": RATE},
        }
        write_model(train(sample, provenance, given.seed), given.output)
        model = read_model(given.output)
    except TololoError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    quality = model.provenance
    (half,) = (row for row in quality["curve"] if row["reliability"] == 0.5)
    counts = quality["sample"]
    sys.stdout.write(
        f"{given.output}: {model.version}, learnt from {counts['detected']} injected sources and "
        f"{counts['others']} other detections on {counts['detectors']} detectors. At 0.5, of what has no "
        f"rejection: completeness {half['completeness_unrejected']}, purity {half['purity_unrejected']}.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

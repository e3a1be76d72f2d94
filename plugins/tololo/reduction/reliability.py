"""The reliability of diaSources: the probability that one is real, by a model of a few shallow trees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tololo.facility.configuration import INCLUDE
from tololo.facility.errors import BadInputError
from tololo.reduction.reliability_features import FEATURES, features

SHIPPED = INCLUDE / "configs" / "reliability.json"
"""The model that is used unless a run names another."""

FORMAT = 1

BY_HAND = "by hand"
"""Version of `reliability_by_hand`."""


@dataclass(frozen=True)
class Tree:
    """Regression tree: at node k left where feature[k] <= threshold[k]; a leaf is its own left and right."""

    feature: list[int]
    threshold: list[float]
    left: list[int]
    right: list[int]
    value: list[float]


@dataclass(frozen=True)
class ReliabilityModel:
    """Boosted trees whose sum, on a straight line, is the logarithm of the odds.

    Attributes
    ----------
    names : `tuple` [`str`, ...]
        Features, of `FEATURES`.
    fill : `tuple` [`float`, ...]
        Of each, what stands for a number that is not known.
    trees : `tuple` [`Tree`, ...]
    slope, offset : `float`
        Log odds = slope * sum of the trees + offset: the calibration.
    provenance : `dict`
        Where it comes from.
    """

    names: tuple[str, ...]
    fill: tuple[float, ...]
    trees: tuple[Tree, ...]
    slope: float
    offset: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Short name, of the content that makes the numbers; the APDB has 7 characters for it."""
        content = {
            key: value for key, value in self.as_dict().items() if key not in ("provenance", "version")
        }
        return f"t{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]}"

    @cached_property
    def _nodes(self) -> dict[str, NDArray[Any]]:
        """The trees side by side, (n_trees, most nodes)."""
        most = max(len(tree.value) for tree in self.trees)
        kinds = {"feature": int, "threshold": float, "left": int, "right": int, "value": float}
        nodes: dict[str, NDArray[Any]] = {
            name: np.zeros((len(self.trees), most), kind) for name, kind in kinds.items()
        }
        for row, tree in enumerate(self.trees):
            for name, plane in nodes.items():
                plane[row, : len(tree.value)] = getattr(tree, name)
        return nodes

    def raw(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the trees for features of shape (n, len(names))."""
        values = np.where(np.isfinite(table), table, np.asarray(self.fill)).astype(np.float32)
        nodes, rows = self._nodes, np.arange(len(values))
        total = np.zeros(len(values))
        for t in range(len(self.trees)):
            feature, threshold = nodes["feature"][t], nodes["threshold"][t]
            left, right = nodes["left"][t], nodes["right"][t]
            at = np.zeros(len(values), dtype=int)
            while True:
                onward = np.where(values[rows, feature[at]] <= threshold[at], left[at], right[at])
                if np.array_equal(onward, at):
                    break
                at = onward
            total += nodes["value"][t][at]
        return total

    def apply(self, columns: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the probability that each diaSource is real; (n,)."""
        order = [FEATURES.index(name) for name in self.names]
        odds = self.slope * self.raw(features(columns)[:, order]) + self.offset
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -50.0, 50.0))), np.float32)

    def as_dict(self) -> dict[str, Any]:
        """Return what a file holds, but for the version."""
        return {
            "format": FORMAT,
            "features": list(self.names),
            "fill": list(self.fill),
            "calibration": {"slope": self.slope, "offset": self.offset},
            "trees": [vars(tree) for tree in self.trees],
            "provenance": dict(self.provenance),
        }


def write_model(model: ReliabilityModel, path: Path) -> None:
    """Write a model beside its name and rename it."""
    text = json.dumps({"version": model.version, **model.as_dict()}, indent=1)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(f"{text}\n")
    beside.replace(path)


def read_model(path: Path | str = "") -> ReliabilityModel:
    """Read a model.

    Parameters
    ----------
    path : `str`, optional
        The JSON file; the shipped one unless given.

    Raises
    ------
    BadInputError
        If it is missing or broken: no JSON, another format, features that this version does not have, trees
        that are none.
    """
    file = Path(path) if path else SHIPPED
    try:
        content = json.loads(file.read_text())
        model = ReliabilityModel(
            names=tuple(content["features"]),
            fill=tuple(map(float, content["fill"])),
            trees=tuple(Tree(**tree) for tree in content["trees"]),
            slope=float(content["calibration"]["slope"]),
            offset=float(content["calibration"]["offset"]),
            provenance=content["provenance"],
        )
        fault = _fault(model, content["format"])
    except OSError as error:
        raise _broken(file, str(error.strerror or error)) from error
    except KeyError as error:
        raise _broken(file, f"it has no {error}") from error
    except (ValueError, TypeError) as error:
        raise _broken(file, str(error)) from error
    if fault:
        raise _broken(file, fault)
    return model


def _fault(model: ReliabilityModel, format_: Any) -> str:
    """Say what is wrong with a model; empty if nothing is."""
    if format_ != FORMAT:
        return f"its format is {format_!r}, not {FORMAT}"
    if unknown := [name for name in model.names if name not in FEATURES]:
        return f"it needs the features {', '.join(unknown)}, which this version does not have"
    if not model.trees or len(model.fill) != len(model.names):
        return "it has no trees, or not one fill value for each feature"
    if not np.isfinite([model.slope, model.offset, *model.fill]).all():
        return "a number in it is not finite"
    for number, tree in enumerate(model.trees):
        n = len(tree.value)
        columns = (tree.feature, tree.threshold, tree.left, tree.right)
        # Branches only lead onward: no walk through a tree can go round in circles.
        onward = all(
            (a == b == k) or (k < a < n and k < b < n)
            for k, (a, b) in enumerate(zip(tree.left, tree.right, strict=False))
        )
        known = all(0 <= feature < len(model.names) for feature in tree.feature)
        finite = np.isfinite([*tree.threshold, *tree.value]).all()
        if not n or any(len(column) != n for column in columns) or not (onward and known and finite):
            return f"tree {number} is none"
    return ""


def _broken(file: Path, why: str) -> BadInputError:
    return BadInputError(
        f"The reliability model cannot be used: {why}",
        str(file),
        "train one with `python -m tololo.reduction.train_reliability`; docs/reliability.md says how",
    )


def reliability_by_hand(columns: Mapping[str, Any]) -> NDArray[np.float32]:
    """Rank diaSources without a model: a logistic function of a few features, its weights set by hand.

    1 / (1 + exp(-s)), s = 0.8 (min(snr, 12) - 5) + 1 - 2 max(0, ln chi2) - 6 max(0, lobe - 0.4)
    - 8 (1 - good light) - ln(score / snr). A ranking, not a probability.
    """
    snr = np.abs(np.asarray(columns["snr"], dtype=float))
    score = np.abs(np.asarray(columns["detectionScore"], dtype=float))
    chi2, lobe = np.asarray(columns["chi2"], dtype=float), np.asarray(columns["lobeRatio"], dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = 0.8 * (np.minimum(snr, 12.0) - 5.0) + 1.0 - 8.0 * (1.0 - np.asarray(columns["goodFraction"]))
        s = s - 2.0 * np.log(np.maximum(chi2, 1.0)) - 6.0 * np.maximum(lobe - 0.4, 0.0)
        s = s - np.log(np.maximum(score / snr, 1.0))
    return np.asarray(np.nan_to_num(1.0 / (1.0 + np.exp(-s)), nan=0.0), np.float32)

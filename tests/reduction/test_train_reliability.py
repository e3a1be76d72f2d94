"""The model is trained by the command on what was injected and detected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from reduction.injected_repository import make, of_dates
from reduction.test_reliability import sources
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.reliability import read_model
from tololo.reduction.reliability_sample import labels, sample_of
from tololo.reduction.train_reliability import main, train


def truth_at(x: object, y: object, snr: object = 20.0, **changes: object) -> Table:
    """A table of injected sources."""
    n = len(np.atleast_1d(x))
    usual = {"inside": True, "masked": False, "saturated": False, "snr": snr} | changes
    columns = {name: np.broadcast_to(np.asarray(value), (n,)) for name, value in usual.items()}
    return Table({"x": np.atleast_1d(x), "y": np.atleast_1d(y), **columns})


def detections(x: object, y: object, **changes: object) -> Table:
    """A table of diaSources."""
    n = len(np.atleast_1d(x))
    table = Table({name: np.array(column) for name, column in sources(n, **changes).items()})
    table["x"], table["y"] = np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float)
    table["rejection"] = np.full(n, "")
    return table


def detector(seed: int, n: int = 60) -> tuple[Table, Table]:
    """Injected sources of a detector, and what was found: most of them, and as many dipoles elsewhere."""
    random = np.random.default_rng(seed)
    x, y = 40.0 * np.arange(n), np.full(n, 50.0)
    real = detections(
        x + random.normal(0, 0.2, n), y, lobeRatio=random.uniform(0, 0.35, n), chi2=random.normal(1, 0.1, n)
    )
    false = detections(x + 20, y + 30, lobeRatio=random.uniform(0.25, 1, n), chi2=random.uniform(0.9, 4, n))
    both = Table({name: np.concatenate([real[name][:-5], false[name]]) for name in real.colnames})
    return truth_at(x, y), both


def test_detections_are_real_false_or_neither() -> None:
    truth = truth_at([50.0, 100.0, 150.0], [50.0, 50.0, 50.0], snr=[20.0, 20.0, 2.0])
    found = detections([50.5, 55.0, 99.0, 101.5, 150.0, 300.0, np.nan], [50.0] * 7)
    real, known = labels(truth, found)
    # The second lies beside an injected source, the fourth is not its nearest, the fifth too faint to tell.
    assert real.tolist() == [True, False, True, False, False, False, False]
    assert known.tolist() == [True, False, True, False, False, True, True]
    assert labels(truth[:0], found)[1].all()


def test_the_model_learns_and_its_probabilities_are_right() -> None:
    pairs = [(("here", 1, number), *detector(number)) for number in range(8)]
    model = train(sample_of(iter(pairs), "here"), {"note": "made up"})
    source = model.provenance
    assert source["note"] == "made up"
    assert source["sample"] == {
        "visits": 1, "detectors": 8, "injected": 480, "detected": 440, "others": 480,
        "others_unrejected": 480, "real_share": 0.4783,
    }  # fmt: skip
    assert source["area"] > 0.97
    fresh_truth, fresh = detector(99)
    real, _ = labels(fresh_truth, fresh)
    found = model.apply(fresh)
    assert ((found >= 0.5) == real).mean() > 0.93
    assert abs(found.mean() - real.mean()) < 0.05
    again = train(sample_of(iter(pairs), "here"), {"note": "made up"})
    assert again.version == model.version


def test_too_few_sources_teach_nothing() -> None:
    with pytest.raises(NothingToDoError, match=r"55 injected sources .* on 1 detectors: too few"):
        train(sample_of(iter([(("here", 1, 1), *detector(1))]), "here"), {})
    with pytest.raises(NothingToDoError, match="no detector with injected sources"):
        sample_of(iter([]), "here")


def test_tables_of_an_older_version_are_named() -> None:
    truth, found = detector(1)
    found.remove_columns(["sharpness", "lobeRatio"])
    with pytest.raises(BadInputError, match=r"no columns lobeRatio, sharpness.*here, visit 4, detector 7"):
        sample_of(iter([(("here", 4, 7), truth, found)]), "here")


def test_a_repository_that_is_not_there_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "model.json"
    given = ["--repository", str(tmp_path / "none"), "--collections", "a,b", "--output", str(output)]
    assert main(given) == 1
    assert "The repository cannot be opened" in capsys.readouterr().err
    assert main([*given[:-1], str(tmp_path / "no" / "model.json")]) == 1
    assert "The folder of the output is not there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_the_command_trains_on_injected_nights(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    nights = make(tmp_path, of_dates(3, 2, detectors=(28,)), seed=31)
    output = tmp_path / "model.json"
    given = ["--repository", str(nights.repository), "--output", str(output), "--note", "two nights"]
    assert main([*given, "--collections", ",".join(nights.chains)]) == 0, capsys.readouterr().err
    model = read_model(output)
    source = model.provenance
    assert source["sample"]["detectors"] == 2
    assert source["sample"]["detected"] > 200
    assert source["collections"] == nights.chains
    assert str(tmp_path) not in json.dumps(dict(source))
    (half,) = (row for row in source["curve"] if row["reliability"] == 0.5)
    assert half["completeness"] > 0.9
    assert half["purity"] > 0.9
    assert main([*given, "--collections", "injection/grid"]) == 1
    assert "There is no detector with injected sources" in capsys.readouterr().err

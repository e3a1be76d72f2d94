from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tololo.facility.errors import BadInputError
from tololo.reduction.reliability import (
    SHIPPED,
    ReliabilityModel,
    Tree,
    read_model,
    reliability_by_hand,
    write_model,
)
from tololo.reduction.reliability_features import FEATURES, features, missing_columns

STUMP = Tree([0, 0, 0], [1.0, 0.0, 0.0], [1, 1, 2], [2, 1, 2], [0.0, -2.0, 2.0])


def sources(n: int = 4, **changes: Any) -> dict[str, Any]:
    """Columns of good diaSources, with changes."""
    usual: dict[str, Any] = {
        "detectionScore": 20.0, "snr": 18.0, "chi2": 1.0, "lobeRatio": 0.1, "goodFraction": 1.0,
        "sharpness": 0.6, "offset": 0.2, "psfFwhm": 4.0, "templateFlux": 0.0, "psfFlux": 500.0,
        "apFlux": 500.0, "ixx": 0.2, "iyy": 0.2, "ixy": 0.0, "ixxPSF": 0.2, "iyyPSF": 0.2, "ixyPSF": 0.0,
        "extendedness": 0.0, "neighbourShare": 1.0, "saturatedDistance": 50.0, "edgeDistance": 50.0,
        "trailLength": 0.0, "trailChi2": np.nan, "trailNdata": 0,
    }  # fmt: skip
    return {name: np.broadcast_to(np.asarray(value), (n,)) for name, value in (usual | changes).items()}


def model(**changes: Any) -> ReliabilityModel:
    """A model of one decision on the score at 10."""
    content: dict[str, Any] = {
        "names": ("log_score",),
        "fill": (0.5,),
        "trees": (STUMP,),
        "slope": 1.5,
        "offset": 0.25,
        "provenance": {"note": "test"},
    }
    return ReliabilityModel(**(content | changes))


def test_a_tree_decides_and_the_line_makes_a_probability() -> None:
    found = model().apply(sources(3, detectionScore=[5.0, -50.0, np.nan]))
    odds = np.array([-2.0, 2.0, -2.0]) * 1.5 + 0.25
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-odds)), rtol=1e-6)
    assert found.dtype == np.float32
    assert model().apply(sources(0)).shape == (0,)


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_model(model(), tmp_path / "model.json")
    again = read_model(tmp_path / "model.json")
    assert again == model()
    assert json.loads((tmp_path / "model.json").read_text())["version"] == again.version
    assert model(provenance={}).version == model().version != model(offset=0.3).version
    assert list(tmp_path.iterdir()) == [tmp_path / "model.json"]
    assert len(model().version) <= 7, "what DiaSource.reliabilityVersion holds"


def broken(**changes: Any) -> str:
    content = {**model().as_dict(), **changes}
    return json.dumps({name: value for name, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        (broken(features=None), "it has no 'features'"),
        (broken(format=9), "its format is 9, not 1"),
        (broken(features=["colour"]), "needs the features colour"),
        (broken(fill=[]), "not one fill value for each feature"),
        (broken(trees=[]), "no trees"),
        (broken(trees=[{**vars(STUMP), "left": [0, 1, 2]}]), "tree 0 is none"),
        (broken(trees=[{**vars(STUMP), "value": [0.0]}]), "tree 0 is none"),
        (broken(trees=[{**vars(STUMP), "feature": [3, 0, 0]}]), "tree 0 is none"),
        (broken(trees=[{"feature": [0]}]), "missing"),
        (broken(calibration={"slope": "NaN", "offset": 0}), "not finite"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=message) as caught:
        read_model(path)
    assert str(path) in str(caught.value)
    assert "train_reliability" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file"):
        read_model(tmp_path / "none.json")


def test_features_are_finite_for_good_sources_and_the_sign_is_none_of_them() -> None:
    table = features(sources(2, detectionScore=[20.0, -20.0], snr=[18.0, -18.0], psfFlux=[5.0, -5.0],
                             apFlux=[5.0, -5.0]))  # fmt: skip
    assert table.shape == (2, len(FEATURES))
    assert np.isfinite(table).all()
    np.testing.assert_array_equal(table[0], table[1])
    assert missing_columns(["psfFlux"])[0] == "detectionScore"
    assert missing_columns(sources()) == []


def test_a_trail_that_fits_is_not_held_against_a_source() -> None:
    shape = {"ixx": 2.0, "chi2": 9.0, "extendedness": 1.5, "apFlux": 900.0}
    point, long = features(
        sources(2, **shape, trailLength=[0.0, 3.0], trailChi2=[np.nan, 900.0], trailNdata=900)
    )
    names = list(FEATURES)
    assert point[names.index("elongation")] > 3
    assert point[names.index("log_chi2")] == pytest.approx(np.log10(9.0))
    fresh = features(sources(1))[0]
    different = [name for name in names if abs(long[names.index(name)] - fresh[names.index(name)]) > 0.01]
    assert different == []


def test_what_is_not_known_is_filled() -> None:
    row = features(sources(1, ixx=np.nan, templateFlux=np.nan))[0]
    assert np.isnan(row[[FEATURES.index("elongation"), FEATURES.index("template")]]).all()
    assert np.isfinite(model().apply(sources(1, ixx=np.nan))).all()


def test_the_ranking_by_hand_puts_artefacts_last() -> None:
    table = sources(4, lobeRatio=[0.1, 1.0, 0.1, 0.1], chi2=[1.0, 1.0, 9.0, 1.0], snr=[18.0, 18.0, 18.0, 3.0])
    found = reliability_by_hand(table)
    assert found[0] > 0.9
    assert (found[1:] < found[0] - 0.05).all()


def test_the_shipped_model_says_where_it_comes_from() -> None:
    shipped = read_model()
    assert json.loads(SHIPPED.read_text())["version"] == shipped.version
    source = shipped.provenance
    assert source["sample"]["detected"] > 1000
    assert source["sample"]["others"] > 200
    assert source["sample"]["detectors"] >= 10
    (half,) = (row for row in source["curve"] if row["reliability"] == 0.5)
    assert half["completeness"] > 0.95
    assert half["purity"] > 0.95
    assert half["purity_unrejected"] > 0.99
    # What is said to be so probable is so often right, on detectors that the model had not seen.
    error = sum(row["number"] * abs(row["mean"] - row["real"]) for row in source["calibration"])
    assert error / sum(row["number"] for row in source["calibration"]) < 0.03
    residual = {"snr": 2.0, "lobeRatio": 1.0, "chi2": 8.0, "templateFlux": 5e4, "offset": 3.0, "ixx": 1.0}
    assert shipped.apply(sources(1))[0] > 0.9
    assert shipped.apply(sources(1, **residual))[0] < 0.3

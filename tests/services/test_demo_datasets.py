from __future__ import annotations

import json
from pathlib import Path

import pytest

from tololo.facility.dataset_manager import read_manager_config
from tololo.services import demo_datasets
from tololo.services.demo_datasets import compare_datasets


def test_light_curves_are_compared_with_the_truth_point_by_point(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("A", "B")]
    folders[0].mkdir()
    times = {"60432.04950": 15.0, "60432.44277": 14.0, "60433.00000": 13.0}
    (tmp_path / demo_datasets.TRUTH).write_text(json.dumps({str(folder): times for folder in folders}))
    nothing = {"reduced": 0, "frames": 0, "set_aside": 0, "points": 0, "bias_mmag": None, "chi2": None}
    assert compare_datasets(tmp_path) == nothing

    points = [
        [60432.049502, 15.010, 0.005, None],
        [60432.442771, 14.0, 0.005, None],
        [60433.0, None, None, 17.2],
    ]
    made = {"frames": 3, "set_aside": {"x": "clouds"}, "light_curve_points": points}
    (folders[0] / "reduction_summary.json").write_text(json.dumps(made))
    figures = compare_datasets(tmp_path)
    assert (figures["reduced"], figures["frames"], figures["set_aside"], figures["points"]) == (1, 3, 1, 2)
    assert figures["bias_mmag"] == pytest.approx(5.0)
    assert figures["chi2"] == pytest.approx(2.0)


def test_the_managers_configuration_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / demo_datasets.MANAGER
    path.write_text(demo_datasets._MANAGER.format(root=tmp_path))
    config = read_manager_config(path)
    assert (config.root, config.group, config.max_parallel) == (tmp_path, "all", 2)
    assert demo_datasets.simulate_datasets(tmp_path) == path  # it is there: nothing is simulated again

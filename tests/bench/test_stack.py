"""The stack bench's figures tell a clipped mean from one that is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .modules import bench_module


def test_the_figures_tell_clipped_from_plain(tmp_path: Path) -> None:
    with bench_module("stack") as bench:
        hit = bench.simulate(tmp_path / "planes.npy", 20, (200, 300), 1)
        planes = np.load(tmp_path / "planes.npy")
        variances, masks = np.ones_like(planes), np.zeros(planes.shape, np.int32)
        clipped = bench.quality(bench.ours(planes, variances, masks).image, 20, hit)
        plain = bench.quality(planes.mean(axis=0), 20, hit)
    assert clipped["scatter_over_expected"] == pytest.approx(1.0, abs=0.02)
    assert abs(clipped["mean_at_artefacts"]) < 0.1
    assert plain["mean_at_artefacts"] > 10

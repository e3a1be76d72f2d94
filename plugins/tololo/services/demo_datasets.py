"""The demo's datasets of frames: two microlensing events, and how well their light curves come out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tololo.facility.run import write_json

MANAGER = "reduction_manager_config.yaml"
TRUTH = "truth.json"
"""Magnitudes of the target by folder and time (MJD UTC of the middle of the exposure, to five digits)."""

_TARGETS = {"OGLE-2024-BLG-0034": (262.60625, 15.5), "OGLE-2024-BLG-0516": (268.1125, 16.2)}
"""Names, right ascensions, and magnitudes out of the event."""

_CONFIG = """\
target:
  name: '{name}'
  RA: '{ra:.6f}'
  Dec: '{dec:.6f}'
photometry:
  aperture_arcsec: 2.0
  reference_catalog: {catalog}
tom:
  upload: True
  data_label: demo
"""
_MANAGER = """\
data_reduction_dir: '{root}'
instrument_list: ['sinistro']
dataset_selection:
  group: all
max_parallel: 2
"""


def simulate_datasets(root: Path) -> Path:
    """Write the frames of two datasets, unless they are there; return the manager's configuration."""
    path = root / MANAGER
    if path.exists():
        return path
    from tololo.simulation.timeseries import SeriesPlan, simulate_series

    plan = SeriesPlan(n_frames=12, shape=(600, 600), n_stars=300, clouds={4: 0.6}, lost=(7,))
    truth: dict[str, dict[str, float]] = {}
    for seed, (name, (ra, magnitude)) in enumerate(_TARGETS.items(), 1):
        made = simulate_series(root, replace(plan, target=name, ra=ra, source=magnitude), seed)
        config = _CONFIG.format(name=name, ra=ra, dec=plan.dec, catalog=made.reference)
        (made.folder / "reduction_config.yaml").write_text(config)
        times = [f"{time:.5f}" for time in made.frames["mjd_utc"]]
        truth[str(made.folder)] = dict(zip(times, made.magnitude[:, 0].tolist(), strict=True))
    write_json(root / TRUTH, truth)
    path.write_text(_MANAGER.format(root=root))
    return path


def compare_datasets(root: Path) -> dict[str, Any]:
    """Compare the light curves of the demo's datasets with the truth.

    Returns
    -------
    figures : `dict`
        ``reduced``: datasets with a light curve; ``frames`` that count; ``set_aside``: frames that do not;
        ``points`` of their targets; ``bias_mmag``: the mean of measured less true magnitudes, each weighted
        by its error; ``chi2``: of the points about this mean, for each degree of freedom.
    """
    figures: dict[str, Any] = {"reduced": 0, "frames": 0, "set_aside": 0, "points": 0}
    errors: list[tuple[float, float]] = []
    for folder, magnitudes in json.loads((root / TRUTH).read_text()).items():
        path = Path(folder) / "reduction_summary.json"
        if not path.exists():
            continue
        made = json.loads(path.read_text())
        figures["reduced"] += 1
        figures["frames"] += made["frames"]
        figures["set_aside"] += len(made["set_aside"])
        for mjd, magnitude, error, _ in made["light_curve_points"]:
            if magnitude is not None:
                figures["points"] += 1
                errors.append((magnitude - magnitudes[f"{mjd:.5f}"], error))
    if len(errors) < 2:
        return figures | {"bias_mmag": None, "chi2": None}
    weights = [error**-2 for _, error in errors]
    bias = sum(weight * off for weight, (off, _) in zip(weights, errors, strict=True)) / sum(weights)
    chi2 = sum(((off - bias) / error) ** 2 for off, error in errors) / (len(errors) - 1)
    return figures | {"bias_mmag": round(1000 * bias, 2), "chi2": round(chi2, 2)}

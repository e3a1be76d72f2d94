"""A root folder of small simulated datasets, made once and copied."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from tololo.simulation.timeseries import SeriesPlan, simulate_series

FRAMES = 7

_CONFIG = """\
target:
  name: '{name}'
  RA: '17:30:25.5'
  Dec: '-25:30:30.5'
photometry:
  aperture_arcsec: 2.0
  reference_catalog: {catalog}
tom:
  upload: {upload}
  config_file:
  data_label: 'TEST'
"""
_MANAGER = """\
log_dir: '{root}'
data_reduction_dir: '{root}'
software_dir: '/path/to/software/installation/directory/'
instrument_list: ['sinistro', 'qhy']
dataset_selection:
  group: {group}
  file: '{root}/reduce_datasets.txt'
  start_date: {start}
  end_date: {end}
  ndays: {ndays}
max_parallel: {max_parallel}
"""


@functools.cache
def _simulated() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="tololo-series-")
    plan = SeriesPlan(target="A", n_frames=FRAMES, shape=(300, 300), n_stars=120, variables=0, clouds={})
    simulate_series(Path(folder.name), plan, seed=2)
    return folder


def make_root(root: Path, *names: str, upload: bool = True) -> list[Path]:
    """Make datasets ``<name>/sinistro/ip``, all of the same frames; return their folders."""
    series = Path(_simulated().name) / "A"
    folders = []
    for name in names:
        folder = Path(shutil.copytree(series / "sinistro" / "ip", root / name / "sinistro" / "ip"))
        text = _CONFIG.format(name=name, catalog=series / "reference.ecsv", upload=upload)
        (folder / "reduction_config.yaml").write_text(text)
        folders.append(folder)
    return folders


def manager(root: Path, group: str = "all", **keys: object) -> Path:
    """Write the configuration of a manager, as its users have it."""
    filled = {"start": "'None'", "end": "'None'", "ndays": 0, "max_parallel": 2} | keys
    path = root / "reduction_manager_config.yaml"
    path.write_text(_MANAGER.format(root=root, group=group, **filled))
    return path

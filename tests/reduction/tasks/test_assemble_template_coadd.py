"""The task that makes a template puts what it is made of beside it, and names a warp that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler, DatasetType
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor

from conftest import GOOD_VISITS
from reduction.moving_sky import NOISE, MovingSky
from tololo.reduction.formats.skymap import from_definition
from tololo.reduction.formats.tract import Patch
from tololo.reduction.patch_warp import PatchWarp, to_cell_coadd
from tololo.reduction.tasks.assemble_template_coadd import (
    AssembleTemplateCoaddConfig,
    AssembleTemplateCoaddTask,
)

RUN, BAND = "warps", "r"
PRODUCTS = ("template_coadd", "template_coadd_n_image", "template_coadd_inputs")


def place(butler: Butler) -> tuple[dict[str, Any], Patch]:
    """Return a patch that both visits reach."""
    where = f"visit IN ({', '.join(map(str, GOOD_VISITS))}) AND instrument = 'DECam'"
    found = butler.query_data_ids(["visit", "skymap", "tract", "patch"], where=where, limit=None)
    keys = [(d["skymap"], d["tract"], d["patch"]) for d in found]
    skymap, tract, patch = next(key for key in keys if keys.count(key) == len(GOOD_VISITS))
    definition = butler.get("skyMap", skymap=skymap, collections="skymaps")
    return {"skymap": skymap, "tract": tract, "patch": patch}, from_definition(definition)[tract].patch(patch)


def put_warps(repository: Path, kind: str = "direct_warp") -> tuple[dict[str, Any], Patch, list[Path]]:
    """Put a warp with a trail in the second visit."""
    with Butler.from_config(str(repository), writeable=True) as butler:
        data_id, patch = place(butler)
        sky = MovingSky((4.0, 5.0), patch=patch)
        sky.trail(1, 20 * NOISE)
        dimensions = ("instrument", "visit", "skymap", "tract", "patch")
        butler.registry.registerDatasetType(
            DatasetType(kind, dimensions, "CellCoadd", universe=butler.dimensions)
        )
        butler.collections.register(RUN)
        files = []
        for visit, item in zip(GOOD_VISITS, sky.inputs(), strict=True):
            warped = PatchWarp(item.planes, item.psfs)
            image = to_cell_coadd(
                warped, data_id["skymap"], patch, BAND, {"VISIT": visit, "DAY_OBS": 20190309}
            )
            ref = butler.put(image, kind, data_id | {"instrument": "DECam", "visit": visit}, run=RUN)
            files.append(Path(butler.getURI(ref).ospath))
    return data_id, patch, files


def assemble(repository: Path, **config: Any) -> None:
    settings = AssembleTemplateCoaddConfig()
    settings.update(**config)
    with SimplePipelineExecutor.prep_butler(str(repository), [RUN, "skymaps"], "made") as butler:
        executor = SimplePipelineExecutor.from_task_class(AssembleTemplateCoaddTask, settings, butler=butler)
        executor.run(register_dataset_types=True)


def test_a_template_comes_with_its_depth_and_its_inputs(own_repository: Path) -> None:
    data_id, patch, _ = put_warps(own_repository)
    assemble(own_repository, method="mean")
    with Butler.from_config(str(own_repository), collections="made") as butler:
        coadd, depth, table = (butler.get(kind, data_id, band=BAND) for kind in PRODUCTS)
        path = butler.getURI(PRODUCTS[1], data_id, band=BAND).ospath
    assert depth.array.dtype == np.int16
    assert depth.bbox == coadd.bbox
    assert sorted(np.unique(depth.array)) == [1, 2]
    assert table["visit"].tolist() == list(GOOD_VISITS)
    assert int(table["used"].sum()) == int(depth.array.sum(dtype=int))
    assert table["clipped"][1] > 1000 > table["clipped"][0]
    assert set(table.colnames) == {"visit", "day_obs", "weight", "seeing", "noise", "used", "clipped"}
    metadata = coadd.metadata
    assert (metadata["METHOD"], metadata["WARP"], metadata["DEPTH"]) == ("mean", "direct", 2.0)
    assert metadata["VISITS"] == ",".join(map(str, GOOD_VISITS))
    assert metadata["NIGHTS"] == "20190309"
    x0, y0, x1, y1 = patch.outer
    assert metadata["COVERAGE"] == pytest.approx(440**2 / (x1 - x0) / (y1 - y0))
    assert metadata["CLIPPED"] == pytest.approx((depth.array == 1).mean(), rel=0.01)
    # Any program opens it.
    with fits.open(path) as hdus:
        plane = next(hdu for hdu in hdus if hdu.data is not None and hdu.data.ndim == 2)
        np.testing.assert_array_equal(plane.data, depth.array)
        wcs = WCS(plane.header)
        expected = patch.tract.pixel_to_sky(np.array([x0 + 10.0]), np.array([y0 + 20.0]))
        np.testing.assert_allclose(wcs.all_pix2world(10, 20, 0), [v[0] for v in expected], atol=1e-7)


def test_matched_warps_are_combined_when_asked_for(own_repository: Path) -> None:
    data_id, _, _ = put_warps(own_repository, "psf_matched_warp")
    assemble(own_repository, warp="psf_matched")
    with Butler.from_config(str(own_repository), collections="made") as butler:
        assert butler.get("template_coadd", data_id, band=BAND).metadata["WARP"] == "psf_matched"


def test_artefacts_stay_when_that_is_asked_for(own_repository: Path) -> None:
    data_id, _, _ = put_warps(own_repository)
    assemble(own_repository, method="mean", compare_warps=False)
    with Butler.from_config(str(own_repository), collections="made") as butler:
        assert (butler.get("template_coadd_n_image", data_id, band=BAND).array == 2).all()
        assert butler.get("template_coadd", data_id, band=BAND).metadata["CLIPPED"] == 0.0


def test_a_truncated_warp_is_named(own_repository: Path) -> None:
    _, _, files = put_warps(own_repository)
    content = files[1].read_bytes()
    files[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(
        Exception, match=rf"The warp of visit {GOOD_VISITS[1]} cannot be read.*RUN {RUN}.*remove"
    ):
        assemble(own_repository)
    with Butler.from_config(str(own_repository)) as butler:
        for kind in PRODUCTS:
            assert not butler.query_datasets(kind, "*", find_first=False, explain=False)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import Butler
from lsst.sphgeom import LonLat, UnitVector3d

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.skymap import DiscreteSkyMap, RingsSkyMap, SkyMap, circle, from_definition
from tololo.reduction.formats.tract import hull

# HSC's survey map, whose tracts are known: 9813 is the COSMOS field (lsst.skymap, tests/test_ringsSkyMap.py).
HSC = RingsSkyMap(numRings=120, tractOverlap=1 / 60, pixelScale=0.168)


def test_known_values_of_lsst_skymap() -> None:
    assert len(RingsSkyMap(numRings=3)) == 26
    cosmos = HSC[9813]
    assert (cosmos.ra, cosmos.dec) == pytest.approx((150.2479338842975, 2.2314049586776834), abs=1e-12)
    assert len(HSC) == 18938
    assert cosmos.grid == (9, 9)
    assert cosmos.size == (36000, 36000)
    assert cosmos.wcs_header()["CRPIX1"] == 18000.0
    assert (HSC[0].dec, HSC[len(HSC) - 1].dec) == (-90, 90)
    assert (HSC[1].ra, RingsSkyMap(numRings=3, raStart=234.0)[1].ra) == (0, 234)


def test_tract_is_a_tan_plane() -> None:
    tract = HSC[9813]
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-100, 36100, (2, 200))
    ra, dec = tract.pixel_to_sky(x, y)
    np.testing.assert_allclose([ra, dec], tract.wcs().all_pix2world(x, y, 0), atol=1e-11)
    np.testing.assert_allclose(tract.sky_to_pixel(ra, dec), [x, y], atol=1e-6)
    assert np.isnan(tract.sky_to_pixel(tract.ra + 180, 0.0)).all()
    patch = tract.patch(10)
    corner = patch.wcs_header()
    assert (corner["CRPIX1"], corner["CRPIX2"]) == (18000 - patch.outer[0], 18000 - patch.outer[1])


def test_patches_tile_the_tract_and_overlap() -> None:
    tract = DiscreteSkyMap(
        raList=[20.0], decList=[-70.0], radiusList=[0.3], patchInnerDimensions=[1000, 700], patchBorder=50
    )[0]
    nx, ny = tract.grid
    assert tract.size == (nx * 1000, ny * 700)
    covered = np.zeros(tract.size[::-1], dtype=int)
    for patch in tract.patches:
        x0, y0, x1, y1 = patch.inner
        covered[y0:y1, x0:x1] += 1
        assert patch.id == patch.y * nx + patch.x
        assert patch.outer[0] == (x0 - 50 if patch.x else x0)
        assert patch.outer[3] == (y1 + 50 if patch.y < ny - 1 else y1)
    assert (covered == 1).all()
    # it reaches at least its radius to all sides
    reach = np.tan(np.radians(0.3)) * 206264.806 / tract.pixel_scale
    for centre, size in zip(tract.centre, tract.size, strict=True):
        assert min(centre, size - centre) >= reach - 1
    with pytest.raises(IndexError):
        tract.patch(nx * ny)


@pytest.mark.parametrize(
    ("ra", "dec"), [(0.0, 0.0), (359.999, 10.0), (77.0, -89.0), (180.0, 89.9), (123.4, -54.3)]
)
def test_rings_cover_the_sky(ra: float, dec: float) -> None:
    sky = RingsSkyMap(numRings=30)
    found = sky.find_tracts(circle(ra, dec, 1e-6))
    assert found
    vector = UnitVector3d(LonLat.fromDegrees(ra, dec))
    assert all(tract.region.contains(vector) for tract in found)
    brute = [tract.id for tract in sky if tract.region.contains(vector)]
    assert set(brute) <= {tract.id for tract in found}


def test_find_patches_finds_those_that_hold_a_pixel() -> None:
    corners = ([150.0, 150.3, 150.3, 150.0], [2.1, 2.1, 2.3, 2.3])
    found = {(patch.tract.id, patch.id) for patch in HSC.find_patches(corners)}
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(150.0, 150.3, 300), rng.uniform(2.1, 2.3, 300)
    needed = set()
    for tract in HSC.find_tracts(hull(*corners)):
        x, y = tract.sky_to_pixel(ra, dec)
        for patch in tract.patches:
            x0, y0, x1, y1 = patch.outer
            if ((x > x0) & (x < x1 - 1) & (y > y0) & (y < y1 - 1)).any():
                needed.add((tract.id, patch.id))
    assert needed == found


def test_register_over_a_footprint(tmp_path: Path) -> None:
    Butler.makeRepo(str(tmp_path / "repo"))
    with Butler.from_config(str(tmp_path / "repo"), writeable=True) as butler:
        first = HSC.register(butler, "hsc", [circle(150, 2, 1)])
        assert first == len(HSC.find_tracts(circle(150, 2, 1))) > 1
        assert HSC.register(butler, "hsc", [circle(150, 2, 1)]) == 0
        assert HSC.register(butler, "hsc", [circle(150, 2, 3)]) > 0
        records = butler.query_dimension_records("tract", skymap="hsc")
        assert {r.id for r in records} == {tract.id for tract in HSC.find_tracts(circle(150, 2, 3))}
        assert len(butler.query_dimension_records("patch", skymap="hsc")) == 81 * len(records)
        (patch,) = butler.query_dimension_records("patch", skymap="hsc", tract=9813, patch=40)
        assert (patch.cell_x, patch.cell_y) == (4, 4)
        assert patch.region.contains(UnitVector3d(LonLat.fromDegrees(150.2479, 2.2314)))
        assert SkyMap.load(butler, "hsc") == HSC
        with pytest.raises(BadInputError, match="another definition"):
            RingsSkyMap(numRings=7).register(butler, "hsc", [])
        with pytest.raises(BadInputError, match="as 'hsc'"):
            HSC.register(butler, "copy", [])


@pytest.mark.long
def test_killed_registration_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tololo.reduction.formats.skymap as module

    monkeypatch.setattr(module, "_BATCH", 9)
    sky = RingsSkyMap(numRings=3, patchInnerDimensions=[200000, 200000])
    Butler.makeRepo(str(tmp_path / "repo"))
    with Butler.from_config(str(tmp_path / "repo"), writeable=True) as butler:
        insert = butler.registry.insertDimensionData
        calls = []

        def killed(element: str, *rows: object) -> None:
            calls.append(element)
            if len(calls) == 4:  # in the second batch, between tracts and patches
                raise KeyboardInterrupt
            insert(element, *rows)

        with monkeypatch.context() as patched:
            patched.setattr(type(butler.registry), "insertDimensionData", lambda self, *rows: killed(*rows))
            with pytest.raises(KeyboardInterrupt):
                sky.register(butler, "few")
        assert len(butler.query_dimension_records("tract", skymap="few")) == 9
        assert sky.register(butler, "few") == len(sky) - 9
        patches = sum(tract.grid[0] * tract.grid[1] for tract in sky)
        assert len(butler.query_dimension_records("patch", skymap="few")) == patches
        assert SkyMap.load(butler, "few") == sky


def test_definitions() -> None:
    sky = from_definition(
        {"name": "discrete", "config": {"raList": [1], "decList": [2], "radiusList": [0.5]}}
    )
    assert from_definition(sky.definition()) == sky
    for bad in (
        {"name": "healpix"},
        {"name": "rings", "config": {"numRings": 0}},
        {"name": "rings", "config": {"rings": 3}},
        {"name": "rings", "config": {"projection": "STG"}},
        {"name": "rings", "config": {"pixelScale": 0}},
        {"name": "discrete", "config": {"raList": [1], "decList": [2, 3], "radiusList": [0.5]}},
        {"name": "discrete"},
    ):
        with pytest.raises(BadInputError):
            from_definition(bad)

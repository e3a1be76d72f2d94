"""Images as LSST's types hold them, through files that others open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import DifferenceImage, VisitImage
from lsst.images.cells import CellCoadd
from lsst.images.serialization import read_archive, write_archive

from reduction.chain import Simulation
from tololo.reduction.coadd_input import cell_psfs
from tololo.reduction.formats.images import Planes, VisitContext, patch_cells, planes_of, snap_to_cells
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.psfs import from_piff
from tololo.reduction.formats.tract import Tract

KEY = (840004, 28)


@pytest.fixture(scope="module")
def written(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "visit_image.fits"
    write_archive(simulation.chain.detector(*KEY).image, path)
    return path


def test_a_visit_image_comes_back_from_its_file(simulation: Simulation, written: Path) -> None:
    detector = simulation.chain.detector(*KEY)
    image = read_archive(written, VisitImage)
    planes, original = planes_of(image), detector.calibrated.planes
    np.testing.assert_array_equal(planes.image, original.image)
    np.testing.assert_array_equal(planes.variance, original.variance)
    np.testing.assert_array_equal(planes.bits, original.bits)
    assert from_piff(image.psf).order == detector.calibrated.psf.order == 2
    for x, y in ((0.0, 0.0), (1000.0, 20.0), (511.5, 511.5)):
        expected = detector.calibrated.psf.kernel(x, y)
        np.testing.assert_allclose(from_piff(image.psf).kernel(x, y), expected, atol=1e-6)
    context = VisitContext.from_visit_image(image)
    assert (context.detector, context.band) == (28, "r")
    exposure = simulation.exposure(KEY[0])
    # TAI - UTC is 37 s in 2019.
    middle = exposure["mjd_utc"] + (37 + exposure["exptime"] / 2) / 86400
    assert context.midpoint_mjd_tai == pytest.approx(middle, abs=0.5 / 86400)
    assert image.summary_stats.zeroPoint == pytest.approx(detector.summary["zero_point"])


def test_astropy_opens_the_file_with_the_archives_astrometry(simulation: Simulation, written: Path) -> None:
    detector = simulation.chain.detector(*KEY)
    with fits.open(written) as hdus:
        assert {"IMAGE", "MASK", "VARIANCE"} <= {hdu.name for hdu in hdus}
        np.testing.assert_array_equal(hdus["IMAGE"].data, detector.image.image.array)
        np.testing.assert_array_equal(hdus["VARIANCE"].data, detector.image.variance.array)
        assert hdus["MASK"].data.shape[-2:] == detector.image.image.array.shape
        for name in ("IMAGE", "MASK", "VARIANCE"):
            wcs = WCS(hdus[name].header, hdus).celestial
            x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, 1023, 9), np.linspace(0, 1023, 9)))
            ra, dec = detector.calibrated.wcs.all_pix2world(x, y, 0)
            px, py = wcs.all_world2pix(ra, dec, 0)
            assert np.hypot(px - x, py - y).max() < 0.1


def test_a_difference_comes_back_with_what_was_subtracted(simulation: Simulation, tmp_path: Path) -> None:
    subtracted = simulation.differences[0]
    write_archive(subtracted.image, tmp_path / "difference.fits")
    back = read_archive(tmp_path / "difference.fits", DifferenceImage)
    np.testing.assert_array_equal(planes_of(back).image, subtracted.planes.image)
    np.testing.assert_array_equal(planes_of(back).bits, subtracted.planes.bits)
    assert back.metadata["TEMPLATE VISITS"] == "840001,840002,840003"
    assert back.metadata["NOISE RATIO"] == pytest.approx(subtracted.image.metadata["NOISE RATIO"])


def test_a_template_comes_back_with_the_psf_of_its_cells(simulation: Simulation, tmp_path: Path) -> None:
    image = simulation.chain.detector(*KEY).image
    coadd, patch = simulation.chain.coadds(simulation.template_visits, image)[0]
    write_archive(coadd, tmp_path / "coadd.fits")
    back = read_archive(tmp_path / "coadd.fits", CellCoadd)
    planes, original = planes_of(back), planes_of(coadd)
    np.testing.assert_array_equal(planes.image, original.image)
    np.testing.assert_array_equal(planes.bits, original.bits)
    assert (planes.x0, planes.y0) == (original.x0, original.y0)
    psfs = cell_psfs(back, patch_cells(patch), planes)
    assert np.isfinite(psfs).all(axis=(2, 3)).any()
    np.testing.assert_allclose(psfs, cell_psfs(coadd, patch_cells(patch), original), rtol=1e-5, atol=1e-8)
    assert back.metadata["VISITS"] == coadd.metadata["VISITS"]


def test_cells_fill_a_patch_and_boxes_snap_to_them(simulation: Simulation) -> None:
    (_, patch), *_ = simulation.chain.coadds(
        simulation.template_visits, simulation.chain.detector(*KEY).image
    )
    grid = patch_cells(patch)
    x0, y0, x1, y1 = patch.outer
    assert (x1 - x0) % grid.cell_shape.x == 0
    assert (y1 - y0) % grid.cell_shape.y == 0
    box = snap_to_cells(grid, (x0 + 3, y0 + 300, x0 + 4, y0 + 301))
    assert box[0] == x0
    assert box[1] <= y0 + 300 < y0 + 301 <= box[3]
    assert all((edge - y0) % grid.cell_shape.y == 0 for edge in (box[1], box[3]))


def test_what_is_bad() -> None:
    image = np.ones((2, 4), np.float32)
    variance = np.ones((2, 4), np.float32)
    bits = np.zeros((2, 4), np.int32)
    image[0, 0], variance[0, 1], variance[0, 2] = np.nan, 0, np.inf
    bits[0, 3], bits[1, 0] = BIT["SATURATED"], BIT["SUSPECT"]
    assert Planes(image, variance, bits).bad.tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize(
    ("length", "cell"),
    [(2200, 220), (2100, 210), (4000, 250), (40, 40), (1124, 281), (4196, 1049), (4099, 4099)],
)
def test_cells_fill_a_patch_of_any_size_and_are_not_too_small(length: int, cell: int) -> None:
    # 1024 and 4096 pixels with a border of 100 make such patches at the edge of a tract.
    tract = Tract(1, 10.0, -20.0, 0.5, 0.0, 0.263, (length, 2000), 0)
    grid = patch_cells(tract.patch(0))
    assert (grid.cell_shape.x, grid.cell_shape.y) == (cell, 250)
    assert grid.bbox.x.size % grid.cell_shape.x == 0

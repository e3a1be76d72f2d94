"""What is measured of a template whose truth is known, and what is made of many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from astropy.table import Table, vstack
from lsst.images.cells import CellCoadd
from numpy.typing import NDArray
from scipy import ndimage

from tololo.facility.templates import Judgement, judge
from tololo.reduction.coadd_input import PSF_SIZE
from tololo.reduction.formats.images import Planes, cell_coadd, patch_cells
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.tract import Patch, Tract
from tololo.reduction.template_metrics import measure
from tololo.reduction.template_plots import plot_template
from tololo.reduction.template_summary import describe, report, rows_of, summarise

SIGMA, NOISE = 1.8, 20.0
"""Width of the PSF, pixels; noise of a pixel, nJy."""


@pytest.fixture(scope="module")
def patch() -> Patch:
    tract = Tract(
        id=3,
        ra=150.0,
        dec=2.0,
        radius=0.05,
        overlap=0.0,
        pixel_scale=0.263,
        patch_size=(600, 600),
        border=60,
    )
    return tract.patch(0)


def coadd(
    patch: Patch, *, told: float = NOISE, uneven: float = 0.0, covered: float = 1.0, psf: bool = True
) -> CellCoadd:
    """A template of blank sky with some stars."""
    rng = np.random.default_rng(7)
    x0, y0, x1, y1 = patch.outer
    shape = (y1 - y0, x1 - x0)
    image = rng.normal(0, NOISE, shape)
    image += uneven * np.sin(np.arange(shape[1]) / 60)
    for x, y in rng.integers(10, 590, (300, 2)):
        image[y - 2 : y + 3, x - 2 : x + 3] += 40 * NOISE
    bits = np.zeros(shape, np.int32)
    bits[:, int(covered * shape[1]) :] = BIT["NO_DATA"]
    image[:, int(covered * shape[1]) :] = np.nan
    bits[:10] |= BIT["CLIPPED"]
    variance = np.full(shape, told**2)
    grid = patch_cells(patch)
    cells = shape[0] // grid.cell_shape.y, shape[1] // grid.cell_shape.x
    psfs = np.broadcast_to(gaussian() if psf else np.nan, (*cells, PSF_SIZE, PSF_SIZE)).copy()
    metadata: dict[str, Any] = {"VISITS": "1,2,3", "DEPTH": 3.0}
    planes = Planes(image.astype(np.float32), variance.astype(np.float32), bits, x0, y0)
    return cell_coadd(planes, psfs, "s", patch.tract, patch, "r", metadata)


def gaussian() -> NDArray[np.float64]:
    axis = np.arange(PSF_SIZE) - PSF_SIZE // 2
    profile = np.exp(-0.5 * (axis / SIGMA) ** 2)
    stamp = np.outer(profile, profile)
    return np.asarray(stamp / stamp.sum())


def measured(patch: Patch, **changes: Any) -> dict[str, Any]:
    (row,) = rows_of(measure(coadd(patch, **changes), patch))
    return row


def test_a_template_is_as_it_was_made(patch: Patch) -> None:
    row = measured(patch)
    assert (row["tract"], row["patch"], row["band"], row["visits"], row["inputs"]) == (3, 0, "r", 3, 3.0)
    assert row["coverage"] == 1.0
    assert row["seeing"] == pytest.approx(2.3548 * SIGMA * 0.263, rel=0.02)
    assert row["noise"] == pytest.approx(NOISE, rel=0.02)
    assert row["noise_ratio"] == pytest.approx(1.0, rel=0.02)
    area = 4 * math.pi * SIGMA**2
    assert row["depth"] == pytest.approx(31.4 - 2.5 * math.log10(5 * NOISE * math.sqrt(area)), abs=0.06)
    assert row["background"] < 0.06
    y0, y1 = patch.outer[1], patch.outer[3]
    assert row["clipped"] == pytest.approx(10 / (y1 - y0))
    assert row["size"] == pytest.approx(600 * 0.263 / 3600)
    assert patch.inner_region.contains(_vector(row["ra"], row["dec"]))


def _vector(ra: float, dec: float) -> Any:
    from lsst.sphgeom import LonLat, UnitVector3d

    return UnitVector3d(LonLat.fromDegrees(ra, dec))


def test_noise_that_is_not_what_the_variance_says_is_found(patch: Patch) -> None:
    assert measured(patch, told=2 * NOISE)["noise_ratio"] == pytest.approx(0.5, rel=0.02)
    assert measured(patch, told=2 * NOISE)["noise"] == pytest.approx(NOISE, rel=0.02)


def test_the_depth_is_that_of_fluxes_where_pixels_share_their_noise(patch: Patch) -> None:
    image = coadd(patch)
    white = measure(image, patch)["depth"][0]
    # Convolved, with the variance that each pixel has then: a star is known no better than before.
    smooth = ndimage.gaussian_filter(image.image.array, 1.5)
    image.image.array[:] = smooth
    image.variance.array[:] = NOISE**2 / (4 * math.pi * 1.5**2)
    (row,) = rows_of(measure(image, patch))
    assert row["noise_ratio"] == pytest.approx(1.0, rel=0.1)
    by_pixels = 31.4 - 2.5 * math.log10(5 * row["noise"] * math.sqrt(4 * math.pi) * SIGMA)
    assert by_pixels - white > 1.0
    assert row["depth"] < by_pixels - 0.8


def test_an_uneven_background_is_found(patch: Patch) -> None:
    assert measured(patch, uneven=2 * NOISE)["background"] > 0.5


def test_what_is_not_covered_is_not_counted(patch: Patch) -> None:
    row = measured(patch, covered=0.5)
    assert 0.4 < row["coverage"] < 0.6
    assert row["noise_ratio"] == pytest.approx(1.0, rel=0.03)


def test_what_cannot_be_measured_is_not_known(patch: Patch) -> None:
    empty = measured(patch, covered=0.0)
    assert empty["coverage"] == 0
    unknown = ("noise", "noise_ratio", "background", "depth", "clipped")
    assert all(math.isnan(empty[name]) for name in unknown)
    assert math.isnan(measured(patch, psf=False)["seeing"])
    assert math.isnan(measured(patch, psf=False)["depth"])


@pytest.fixture
def table(patch: Patch) -> Table:
    """Two patches in r, the second with bad seeing, and one in g that nothing is known of."""
    rows = [measure(coadd(patch), patch) for _ in range(3)]
    rows[1]["patch"], rows[1]["seeing"] = 1, 4.0
    rows[2]["band"] = "g"
    for name in ("seeing", "depth", "noise_ratio", "background"):
        rows[2][name] = math.nan
    return vstack(rows)


def test_the_summary_is_by_band_and_names_what_is_beyond_the_limits(table: Table) -> None:
    summary = summarise(table, "2019/min/coadd/v2", 4, {"warp": "direct"})
    assert (summary["templates"], summary["unmeasured"]) == (4, 1)
    assert {band: values["patches"] for band, values in summary["bands"].items()} == {"g": 1, "r": 2}
    assert summary["bands"]["g"]["seeing"] is None
    assert summary["poor"] == {"r 3/1": ["seeing 4 arcsec, above 2.5"]}
    judgement = judge(rows_of(table))
    text = describe(summary, judgement)
    assert "Version 2019/min/coadd/v2 (warp direct): 4 templates, 1 of them not measured" in text
    assert "Beyond the limits: r 3/1: seeing 4 arcsec, above 2.5" in text
    assert text.endswith("The limits refuse it.")
    shown = report(summary, Judgement(True), "/somewhere/plot.png")
    assert "| g | 1 |" in shown
    assert "**The limits accept it.**" in shown
    assert shown.endswith("`/somewhere/plot.png`")


def test_the_figure_has_a_row_for_each_band(table: Table) -> None:
    figure = plot_template(table, summarise(table, "v", 3, {}))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 8
    assert titles[0].startswith("g · Depth")
    empty = table[:0]
    assert plot_template(empty, summarise(empty, "v", 0, {})).axes

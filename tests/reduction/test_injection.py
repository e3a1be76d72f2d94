"""Sources on the pixels of raw and InstCal detectors: their light, its noise, where it is full."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from astro_metadata_translator import ObservationInfo
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS
from lsst.images import Image, ObservationSummaryStats

from tololo.reduction.formats.images import Planes, VisitContext, visit_image
from tololo.reduction.formats.instcal import InstcalPixels
from tololo.reduction.formats.masks import BIT
from tololo.reduction.formats.raw import RawAmplifier, RawDetector
from tololo.reduction.injection import Added, Scene, marked, stacked, truth_table
from tololo.reduction.injection_catalog import no_sources
from tololo.reduction.injection_pixels import add_to_instcal, add_to_raw
from tololo.reduction.measurement import first_psf

SHAPE, VISIT, DETECTOR, SKY = (200, 240), 840001, 28, 1000
GAINS, LIMIT, NJY_PER_ELECTRON = (4.0, 5.0), 40000.0, 2.0
PIXEL = 0.26
"""Arcseconds."""


@cache
def scene() -> Scene:
    """A small detector with a round PSF; an electron is 2 nJy on both of its amplifiers."""
    ny, nx = SHAPE
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, -30.0]
    # North is along x and east along y, as on DECam.
    wcs.wcs.crpix, wcs.wcs.cd = [nx / 2, ny / 2], np.array([[0.0, 1.0], [1.0, 0.0]]) * PIXEL / 3600
    info = ObservationInfo.makeObservationInfo(
        instrument="DECam",
        visit_id=VISIT,
        observing_day=20190401,
        physical_filter="r DECam SDSS c0002 6415.0 1480.0",
        datetime_begin=Time(58575.1, format="mjd", scale="tai"),
        exposure_time=90.0 * u.s,
    )
    planes = Planes(
        np.zeros(SHAPE, np.float32), np.full(SHAPE, 4000.0, np.float32), np.zeros(SHAPE, np.int32)
    )
    planes.bits[50:53, 50:53] = BIT["BAD"]
    context = VisitContext.from_wcs(wcs, SHAPE, DETECTOR, "r", info)
    stats = ObservationSummaryStats(pixelScale=PIXEL)
    njy_per_adu = NJY_PER_ELECTRON * float(np.mean(GAINS))
    return Scene.of(visit_image(planes, first_psf(4.0), context, stats, njy_per_adu, {}), VISIT)


def sources(x: Any, y: Any, electrons: Any, **more: Any) -> Table:
    """Return sources at pixels, as bright as some electrons."""
    x, y = np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float)
    sky = scene().image.sky_projection.pixel_to_sky(x=x, y=y)
    flux = np.broadcast_to(np.asarray(electrons, float) * NJY_PER_ELECTRON, x.shape)
    columns = {
        "injection_id": np.arange(1, len(x) + 1),
        "ra": sky.ra.deg,
        "dec": sky.dec.deg,
        "mag": 31.4 - 2.5 * np.log10(flux),
        "band": np.full(len(x), "r"),
        "visit": np.zeros(len(x), int),
        "source_type": np.full(len(x), "DeltaFunction"),
        **{name: np.full(len(x), np.nan) for name in ("n", "half_light_radius", "q", "pa")},
    }
    return Table(columns | {name: np.broadcast_to(value, x.shape) for name, value in more.items()})


def raw() -> RawDetector:
    """A detector whose amplifiers have their overscans at the outer edges, with nothing but a flat sky."""
    ny, nx = SHAPE
    half, over = nx // 2, 20
    pixels = np.full((ny, nx + 2 * over), SKY, np.uint16)
    rows = slice(0, ny)
    a = RawAmplifier(
        "A",
        (rows, slice(over, over + half)),
        (rows, slice(0, over)),
        (rows, slice(0, half)),
        GAINS[0],
        6.0,
        LIMIT,
    )
    b = replace(
        a,
        name="B",
        data=(rows, slice(over + half, over + nx)),
        overscan=(rows, slice(over + nx, 2 * over + nx)),
        target=(rows, slice(half, nx)),
        gain=GAINS[1],
    )
    return RawDetector(VISIT, DETECTOR, "N4", pixels, (a, b), fits.Header())


def on_raw(table: Table, flat: Any = 1.0) -> tuple[np.ndarray, Added]:
    """Return what is added, in electrons per flat field on the assembled detector."""
    response = np.broadcast_to(np.float32(flat), SHAPE)
    detector = raw()
    pixels, added = add_to_raw(detector, response, scene(), scene().place(table))
    assert (pixels[:, :20] == SKY).all()
    assert (pixels[:, -20:] == SKY).all()
    assert (detector.pixels == SKY).all()
    counts = pixels[:, 20:-20].astype(float) - SKY
    return counts * np.repeat(GAINS, SHAPE[1] // 2) / response, added


def instcal() -> tuple[InstcalPixels, tuple[Image, Image, Image]]:
    image = Image(np.full(SHAPE, float(SKY), np.float32))
    weight = Image(np.full(SHAPE, 1 / 300.0, np.float32))
    mask = Image(np.zeros(SHAPE, np.int32))
    mask.metadata["PLVER"] = "V4.8.2"
    pixels = InstcalPixels(
        image=image.array, variance=1 / weight.array, mask=mask.array.astype(np.uint8), header={},
        wcs=WCS(naxis=2), gain=float(np.mean(GAINS)), read_noise=1.5, saturation=LIMIT, sky=float(SKY),
    )  # fmt: skip
    return pixels, (image, weight, mask)


def test_flux_and_place_are_those_of_the_catalogue() -> None:
    x, y = 80.3, 99.7
    electrons, added = on_raw(sources(x, y, 4e6), flat=0.8)
    assert electrons.sum() == pytest.approx(4e6, rel=2e-3)
    assert added.flux[0] == pytest.approx(4e6 * NJY_PER_ELECTRON, rel=2e-3)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    assert (electrons * columns).sum() / electrons.sum() == pytest.approx(x, abs=0.01)
    assert (electrons * rows).sum() / electrons.sum() == pytest.approx(y, abs=0.01)
    expected, x0, y0 = scene().psf.stamp(x, y)
    box = electrons[y0 : y0 + len(expected), x0 : x0 + len(expected)]
    np.testing.assert_allclose(box, 4e6 * expected, atol=4 * math.sqrt(4e6 * expected.max()) + 10)


def test_the_noise_is_poissons_and_faint_wings_are_not_lost() -> None:
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(20, 225, 12), np.arange(20, 185, 12)))
    faint = 300.0
    _, added = on_raw(sources(x, y, faint))
    fluxes = added.flux / NJY_PER_ELECTRON
    assert len(fluxes) > 200
    assert fluxes.mean() == pytest.approx(faint, abs=4 * math.sqrt(faint / len(fluxes)))
    assert fluxes.var() == pytest.approx(faint, rel=0.35)
    electrons, _ = on_raw(sources(x, y, faint))
    # Whole counts: each source's light is spread thinner than one of them, and yet the sum is right.
    assert electrons.sum() == pytest.approx(faint * len(x), rel=0.02)


def test_a_source_is_the_same_whatever_others_there_are() -> None:
    both = sources([60.0, 180.0], [100.0, 100.0], 5e4)
    first, _ = on_raw(both[:1])
    together, _ = on_raw(both)
    again, _ = on_raw(both[::-1])
    np.testing.assert_array_equal(together[:, :120], first[:, :120])
    np.testing.assert_array_equal(again, together)
    other = both.copy()
    other["injection_id"] += 7
    assert not np.array_equal(on_raw(other)[0], together)


def test_the_full_well_is_respected() -> None:
    electrons, added = on_raw(sources([60.0, 180.0, 60.0], [100.0, 100.0, 30.0], [1e8, 1e4, 4e12]))
    counts = electrons / np.repeat(GAINS, SHAPE[1] // 2) + SKY
    assert added.saturated.tolist() == [True, False, True]
    assert counts.max() == LIMIT
    assert counts[100, 60] == counts[30, 60] == LIMIT


def test_pixels_that_were_full_stay_so() -> None:
    detector = raw()
    detector.pixels[100, 80] = 45000
    pixels, _ = add_to_raw(
        detector, np.ones(SHAPE, np.float32), scene(), scene().place(sources(60.0, 100.0, 1e7))
    )
    assert pixels[100, 80] == 45000


def test_a_flat_without_meaning_is_left_alone() -> None:
    flat = np.ones(SHAPE, np.float32)
    flat[99:102, 59:62] = [[np.nan, 0.0, 0.01]] * 3
    electrons, added = on_raw(sources(60.0, 100.0, 1e6), flat=1.0)
    response = add_to_raw(raw(), flat, scene(), scene().place(sources(60.0, 100.0, 1e6)))
    assert response[1].flux[0] == pytest.approx(added.flux[0], rel=0.01)
    assert electrons.sum() == pytest.approx(1e6, rel=0.01)


def test_sources_beside_the_detector_or_of_other_visits_have_no_light() -> None:
    table = sources([-4.0, 500.0, 60.0, 70.0, -30.0], [100.0, 100.0, 100.0, 100.0, 100.0], 1e6)
    table["visit"] = [0, 0, VISIT + 1, VISIT, 0]
    placed = scene().place(table)
    assert placed.table["injection_id"].tolist() == [1, 4]
    truth = truth_table(scene(), scene().image, placed, Added(np.zeros(2), np.zeros(2, bool)))
    assert truth["inside"].tolist() == [False, True]
    assert placed.stamps[0].light.sum() < 0.2 * placed.table["flux"][0]


def test_the_truth_says_what_could_be_measured() -> None:
    placed = scene().place(sources([51.0, 120.0], [52.0, 100.0], 1e4))
    truth = truth_table(scene(), scene().image, placed, Added(np.zeros(2), np.zeros(2, bool)))
    assert truth["masked"].tolist() == [True, False]
    assert truth["visit"].tolist() == [VISIT, VISIT]
    kernel = scene().psf.kernel(120, 100)
    assert truth["snr"][1] == pytest.approx(
        1e4 * NJY_PER_ELECTRON * math.sqrt((kernel**2).sum() / 4000.0), rel=0.01
    )
    assert truth["flux"].tolist() == pytest.approx([1e4 * NJY_PER_ELECTRON] * 2)


def test_no_sources_are_allowed() -> None:
    placed = scene().place(stacked([]))
    assert len(placed) == 0
    truth = truth_table(scene(), scene().image, placed, Added(np.empty(0), np.empty(0, bool)))
    assert len(truth) == 0
    assert set(no_sources().colnames) < set(truth.colnames)
    image = marked(scene().image, placed)
    assert not image.mask.get("INJECTED").any()
    assert "INJECTED" not in scene().image.mask.schema.names


def test_weights_and_mask_of_instcal_follow() -> None:
    pixels, planes = instcal()
    table = sources([60.0, 150.0], [100.0, 100.0], [2e5, 1e8])
    (image, weight, mask), added = add_to_instcal(pixels, planes, scene(), scene().place(table))
    light = image.array - SKY
    box = np.s_[80:121, 40:81]
    assert light[box].sum() * pixels.gain == pytest.approx(2e5, rel=0.01)
    assert added.flux[0] == pytest.approx(2e5 * NJY_PER_ELECTRON, rel=0.01)
    np.testing.assert_allclose(
        1 / weight.array[box], 300.0 + np.maximum(light[box], 0) / pixels.gain, rtol=1e-4
    )
    assert added.saturated.tolist() == [False, True]
    assert image.array.max() == LIMIT
    assert mask.array[100, 150] == 3
    assert not mask.array[box].any()
    assert (planes[0].array == SKY).all()
    bits = planes[2].copy()
    bits.metadata["PLVER"] = "V2.0"
    (_, _, mask), _ = add_to_instcal(pixels, (*planes[:2], bits), scene(), scene().place(table))
    assert mask.array[100, 150] == 2


def test_a_galaxy_has_its_size_and_direction() -> None:
    galaxy = {"source_type": "Sersic", "n": 1.0, "half_light_radius": 8 * PIXEL, "q": 0.3, "pa": 90.0}
    (stamp,) = scene().place(sources(120.4, 99.8, 1e5, **galaxy)).stamps
    light = stamp.light / stamp.light.sum()
    assert stamp.light.sum() == pytest.approx(1e5 * NJY_PER_ELECTRON, rel=0.03)
    y, x = np.mgrid[stamp.box]
    assert (light * x).sum() == pytest.approx(120.4, abs=0.05)
    assert (light * y).sum() == pytest.approx(99.8, abs=0.05)
    # East is along y.
    width, height = (math.sqrt((light * (v - (light * v).sum()) ** 2).sum()) for v in (x, y))
    assert height > 2 * width
    point = scene().place(sources(120.4, 99.8, 1e5)).stamps[0]
    assert point.light.size < stamp.light.size

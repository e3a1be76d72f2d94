"""The simulated camera is laid out and looks where the real one does."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from real_data import REAL, needs
from tololo.reduction.instrument.detectors import detector_geometry
from tololo.simulation.raw_camera import Chip, make_chip, section
from tololo.simulation.raw_cards import CENTRED, raw_detector_header
from tololo.simulation.raw_plan import RawNight, RawPlan
from tololo.simulation.raw_schedule import schedule
from tololo.simulation.sky import wcs_header, wcs_of

PLAN = RawPlan(nights=(RawNight(20190305, zeros=0, flats=0, objects=1),), detectors=tuple(range(1, 63)))
RAW = REAL / "decam_raw"


@pytest.fixture(scope="module")
def chips() -> list[Chip]:
    return [make_chip(PLAN, 1, number) for number in range(1, 63)]


@pytest.fixture(scope="module")
def real() -> dict[int, fits.Header]:
    texts = [path.read_text() for path in sorted((RAW / "headers_txt").glob("*.hdr"))]
    headers = [fits.Header.fromstring(text, sep="\n") for text in texts[1:]]
    return {header["CCDNUM"]: header for header in headers}


def test_amplifiers_lie_where_the_camera_has_them(chips: list[Chip]) -> None:
    for chip in chips:
        assert chip.raw_shape == (4146, 2160)
        for amplifier, real in zip(chip.amplifiers, detector_geometry(chip.ccd.id).amplifiers, strict=True):
            raw = real.assembled_raw_geometry
            assert amplifier.name == real.name
            for mine, box in (
                (amplifier.data, raw.data_bbox),
                (amplifier.overscan, raw.serial_overscan_bbox),
                (amplifier.postscan, raw.parallel_overscan_bbox),
                (amplifier.prescan, raw.prescan_bbox),
                (amplifier.target, real.bbox),
            ):
                assert mine == (
                    slice(box.y.start, box.y.stop),
                    slice(box.x.start, box.x.stop),
                ), (chip.ccd.name, amplifier.name)


def test_nominal_wcs_is_the_geometry_of_the_camera(chips: list[Chip]) -> None:
    y, x = (grid.ravel() for grid in np.mgrid[0:4095:7j, 0:2047:5j])
    for chip in chips:
        field = detector_geometry(chip.ccd.id).to_field_angle.apply_forward(x=x, y=y)
        wcs = wcs_of(wcs_header(chip.nominal, PLAN.sky))
        east, north = _tangent(*wcs.all_pix2world(x, y, 0), PLAN.ra, PLAN.dec)
        assert np.abs(east - np.asarray(field.y)).max() * 206265 < 1e-3
        assert np.abs(north + np.asarray(field.x)).max() * 206265 < 1e-3


def test_header_is_arcseconds_off_and_distorted_a_little_otherwise(chips: list[Chip]) -> None:
    exposure = schedule(PLAN, np.random.default_rng(3))[0]
    turned, offsets = [], []
    for chip in chips:
        header = WCS(raw_detector_header(PLAN, exposure, chip))
        offset = ((exposure.seen.ra - PLAN.ra) * np.cos(np.radians(PLAN.dec)), exposure.seen.dec - PLAN.dec)
        true = wcs_of(wcs_header(chip.true, PLAN.sky, offset, exposure.turn))
        x, y = np.array([0.0, 2047.0, 1023.5]), np.array([0.0, 4095.0, 2047.5])
        ra, dec = true.all_pix2world(x, y, 0)
        believed_ra, believed_dec = header.all_pix2world(x, y, 0)
        east = (ra - believed_ra) * np.cos(np.radians(dec)) * 3600
        north = (dec - believed_dec) * 3600
        offsets.append((east[2], north[2]))
        turned.append(np.hypot(east[1] - east[0], north[1] - north[0]))
    size = np.hypot(*np.array(offsets).T)
    assert 0.3 < np.median(size) < 15
    assert 0.05 < np.std(offsets, axis=0).max() < 2  # CCDs differ: turn and places of the CCDs
    assert 0.005 < np.median(turned) < 1


@needs(RAW)
def test_sections_are_those_of_the_real_headers(chips: list[Chip], real: dict[int, fits.Header]) -> None:
    exposure = schedule(PLAN, np.random.default_rng(3))[0]
    cards = [
        f"{name}{amplifier}"
        for name in ("TRIMSEC", "DATASEC", "DETSEC", "CCDSEC")
        for amplifier in ("", *"AB")
    ]
    cards += [f"{name}SEC{amplifier}" for name in ("AMP", "BIAS", "PRE", "POST") for amplifier in "AB"]
    for chip in chips:
        header = raw_detector_header(PLAN, exposure, chip)
        for card in cards:
            ours, theirs = (list(map(int, re.findall(r"\d+", h[card]))) for h in (header, real[chip.ccd.id]))
            # Some real tiles overlap by a pixel.
            tolerance = 1 if card.startswith("DETSEC") else 0
            assert np.abs(np.subtract(ours, theirs)).max() <= tolerance, (chip.ccd.name, card)
        assert (header["LTV1"], header["LTV2"]) == (real[chip.ccd.id]["LTV1"], real[chip.ccd.id]["LTV2"])


@needs(RAW)
def test_real_crpix_of_2020_fit_the_camera_when_centred(
    chips: list[Chip], real: dict[int, fits.Header]
) -> None:
    plan = RawPlan(nights=PLAN.nights, detectors=PLAN.detectors, centred_crpix=True)
    exposure = schedule(plan, np.random.default_rng(3))[0]
    for chip in chips:
        header = raw_detector_header(plan, exposure, chip)
        difference = [header[f"CRPIX{axis}"] - real[chip.ccd.id][f"CRPIX{axis}"] for axis in (1, 2)]
        # Some tens of pixels at the edge: real terms count other pixels of other scales; half a CCD is more.
        assert np.abs(difference).max() < 60
    assert CENTRED == (2160 // 2 - 50, 4146 // 2 - 50)


def test_small_ccds_have_sections_that_fit() -> None:
    plan = RawPlan(shape=(300, 400), detectors=(28, 35))
    for number in plan.detectors:
        chip = make_chip(plan, 1, number)
        assert chip.raw_shape == (350, 512)
        covered = np.zeros(chip.raw_shape, int)
        for amplifier in chip.amplifiers:
            for part in (amplifier.data, amplifier.overscan, amplifier.prescan, amplifier.postscan):
                covered[part] += 1
        assert covered.max() == 1
        assert (covered == 0).sum() == 50 * 2 * 56  # the corners beside the postscan
        assert (
            section(chip.amplifiers[0].data)
            == {"S": "[257:456,51:350]", "N": "[57:256,1:300]"}[chip.ccd.side]
        )
        # Its pixels look where those of the whole CCD do.
        whole = make_chip(RawPlan(detectors=(28, 35)), 1, number)
        assert chip.true.pv1 == whole.true.pv1


def _tangent(ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates on the plane that touches the sky, radians."""
    a, d, d0 = np.radians(ra - ra0), np.radians(dec), np.radians(dec0)
    ahead = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    return (
        np.cos(d) * np.sin(a) / ahead,
        (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / ahead,
    )

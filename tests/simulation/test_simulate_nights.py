"""What the simulator writes is what its truth says, and is read back as a real exposure would be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astro_metadata_translator import ObservationInfo
from astro_metadata_translator.translators import DecamTranslator
from astropy.io import fits
from astropy.table import Table
from scipy.spatial import cKDTree

from tololo.facility.errors import BadInputError
from tololo.reduction.formats.dqmask import DQ
from tololo.reduction.formats.instcal import InstcalExposure, InstcalPixels, read_instcal
from tololo.reduction.formats.instcal_search import find_instcal
from tololo.simulation.instcal import simulate_nights
from tololo.simulation.plan import Plan, PlannedExposure
from tololo.simulation.truth import Truth, positions_at

SMALL = Plan.of_nights(
    template={20190305: 2}, science={20190402: 1, 20190403: 1}, shape=(800, 760), transients=20
)


@dataclass(frozen=True)
class Simulation:
    truth: Truth
    exposures: tuple[InstcalExposure, ...]

    def pixels(self, exposure: int, detector: int) -> InstcalPixels:
        ccd = self.exposures[exposure].detectors[detector]
        return read_instcal(ccd.image.path, ccd.weight.path, ccd.mask.path, ccd.ccdnum)

    def row(self, exposure: int) -> Table.Row:
        return self.truth.exposures[exposure]

    def njy_per_adu(self, exposure: int) -> float:
        return float(10 ** (0.4 * (31.4 - self.row(exposure)["zero_point"])))

    def enclosed(self, exposure: int, radius: float) -> float:
        """Share of a Moffat profile (exponent 3) inside a circle, pixels."""
        alpha = self.row(exposure)["fwhm"] / 0.2623 / (2 * np.sqrt(2 ** (1 / 3) - 1))
        return float(1 - (1 + (radius / alpha) ** 2) ** -2)


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    truth = simulate_nights(tmp_path_factory.mktemp("simulation") / "nights", plan=SMALL, seed=5)
    return Simulation(truth, find_instcal(truth.folder).triples)


def isolated_stars(simulation: Simulation, pixels: InstcalPixels, exposure: int, radius: float) -> Table:
    """Stars well inside the frame, without defects, with less than 0.5 % of their flux nearby."""
    truth = simulation.truth
    stars = truth.stars[truth.stars["detector"] == pixels.header["CCDNUM"]]
    x, y = pixels.wcs.all_world2pix(*positions_at(stars, float(simulation.row(exposure)["mjd_utc"])), 0)
    gx, gy = pixels.wcs.all_world2pix(truth.galaxies["ra"], truth.galaxies["dec"], 0)
    transients = truth.transients[truth.transients["visit"] == simulation.row(exposure)["visit"]]
    others = np.concatenate(
        [np.stack([x, y], 1), np.stack([gx, gy], 1), np.stack([transients["x"], transients["y"]], 1)]
    )
    flux = np.concatenate([stars["flux_r"], truth.galaxies["flux_r"], transients["flux"]])
    tree = cKDTree(others)
    ny, nx = pixels.image.shape
    bad = pixels.mask != 0
    kept = []
    for row in range(len(stars)):
        if not (30 < x[row] < nx - 30 and 30 < y[row] < ny - 30 and 15.8 < stars["g"][row] < 19.5):
            continue
        near = [other for other in tree.query_ball_point(others[row], 2.2 * radius) if other != row]
        inside = bad[round(y[row]) - 12 : round(y[row]) + 13, round(x[row]) - 12 : round(x[row]) + 13].any()
        if not inside and sum(flux[near]) < 0.005 * flux[row]:
            kept.append(row)
    found = stars[kept]
    found["x"], found["y"] = x[kept], y[kept]
    return found


def growth(pixels: InstcalPixels, x: float, y: float, radius: float) -> tuple[float, float, float]:
    """Flux above the local sky in a circle, and the centroid found with a Gaussian window."""
    x0, y0 = max(round(x) - 40, 0), max(round(y) - 40, 0)
    cut = np.s_[y0 : y0 + 81, x0 : x0 + 81]
    image, mask = pixels.image[cut].astype(float), pixels.mask[cut]
    yy, xx = np.mgrid[y0 : y0 + image.shape[0], x0 : x0 + image.shape[1]]
    distance = np.hypot(xx - x, yy - y)
    ring = (distance > radius + 8) & (distance < radius + 22) & (mask == 0)
    sky = np.median(image[ring])
    # Pixels cut by the circle count in part.
    share = np.clip(radius + 0.5 - distance, 0, 1)
    cx, cy = x, y
    for _ in range(20):
        weight = (image - sky) * np.exp(-((xx - cx) ** 2 + (yy - cy) ** 2) / (2 * 2.0**2)) * (distance < 10)
        cx, cy = (c + 2 * (((axis - c) * weight).sum() / weight.sum()) for c, axis in ((cx, xx), (cy, yy)))
    return float(((image - sky) * share).sum()), float(cx), float(cy)


def test_every_exposure_is_found_and_everything_else_ignored(simulation: Simulation) -> None:
    search = find_instcal(simulation.truth.folder)
    assert [exposure.expnum for exposure in search.triples] == list(simulation.truth.exposures["visit"])
    assert [exposure.day_obs for exposure in search.triples] == list(simulation.truth.exposures["night"])
    assert {exposure.band for exposure in search.triples} == {"r"}
    assert all([ccd.ccdnum for ccd in exposure.detectors] == [28, 35] for exposure in search.triples)
    assert not search.superseded
    ignored = {item.path.name for item in search.ignored}
    assert ignored == {"simulation.json", "chunk-00000.fits"} | {
        f"{name}.ecsv" for name in ("stars", "galaxies", "transients", "exposures")
    }


def test_stars_stand_and_shine_as_the_truth_says(simulation: Simulation) -> None:
    radius = 8.0
    offsets, ratios = [], []
    for exposure in range(4):
        pixels = simulation.pixels(exposure, 0)
        scale = simulation.njy_per_adu(exposure) / simulation.enclosed(exposure, radius)
        for star in isolated_stars(simulation, pixels, exposure, radius):
            if star["g"] < 18.8:
                adu, x, y = growth(pixels, star["x"], star["y"], radius)
                offsets.append((x - star["x"], y - star["y"]))
                ratios.append(adu * scale / star["flux_r"])
    assert len(ratios) >= 20
    assert np.abs(np.median(offsets, axis=0)).max() < 0.01
    assert np.hypot(*np.array(offsets).T).max() < 0.05
    assert np.median(ratios) == pytest.approx(1, abs=0.01)
    assert np.std(ratios) < 0.02


def test_blank_sky_scatters_as_the_variance_says(simulation: Simulation) -> None:
    pixels = simulation.pixels(0, 0)
    truth = simulation.truth
    ny, nx = pixels.image.shape
    yy, xx = np.mgrid[:ny, :nx]
    blank = pixels.mask == 0
    for table, reach in ((truth.stars, 25), (truth.galaxies, 40)):
        x, y = pixels.wcs.all_world2pix(table["ra"], table["dec"], 0)
        flux = np.asarray(table["flux_r"])
        for one, other, size in zip(x, y, np.interp(np.log10(flux), (2.5, 5), (8, reach)), strict=True):
            if -50 < one < nx + 50 and -50 < other < ny + 50:
                blank &= np.hypot(xx - one, yy - other) > size
    assert blank.sum() > 20_000
    u, v = xx[blank] / nx, yy[blank] / ny
    plane = np.stack([np.ones(blank.sum()), u, v, u**2, v**2], 1)
    image = pixels.image[blank].astype(float)
    residual = image - plane @ np.linalg.lstsq(plane, image, rcond=None)[0]
    assert np.std(residual / np.sqrt(pixels.variance[blank])) == pytest.approx(1, abs=0.02)
    # The variance is not that of the pixel's own noise: a mean weighted by it is the mean.
    weighted = np.average(residual, weights=1 / pixels.variance[blank])
    assert abs(weighted - residual.mean()) < 0.05


def test_masked_pixels_have_no_weight_and_their_planes(simulation: Simulation) -> None:
    pixels = simulation.pixels(0, 0)
    weight = fits.getdata(simulation.exposures[0].detectors[0].weight.path, 1)
    assert np.array_equal(weight == 0, pixels.mask != 0)
    planes = {plane: int((pixels.mask & plane > 0).sum()) for plane in DQ}
    assert planes[DQ.BAD] > 100
    assert planes[DQ.CR] > 10
    assert planes[DQ.NO_DATA] == planes[DQ.STREAK] == 0
    saturated = pixels.image[pixels.mask & DQ.SAT > 0]
    assert len(saturated)
    assert saturated.max() <= pixels.saturation * 1.001


def test_transients_are_where_and_as_bright_as_the_table_says(simulation: Simulation) -> None:
    truth = simulation.truth
    rows = truth.transients
    assert len(set(rows["id"])) == 40
    assert set(rows["visit"]) == {840003, 840004}
    assert rows["snr"].min() > 6
    assert np.mean(rows["snr"] > 10) > 0.7
    assert np.mean(rows["galaxy"] > 0) == pytest.approx(0.5, abs=0.15)
    ratios = []
    for row in rows[(rows["galaxy"] < 0) & (rows["snr"] > 20)]:
        exposure = list(truth.exposures["visit"]).index(row["visit"])
        pixels = simulation.pixels(exposure, [28, 35].index(row["detector"]))
        x, y = (float(value) for value in pixels.wcs.all_world2pix(row["ra"], row["dec"], 0))
        assert (x, y) == (pytest.approx(row["x"], abs=1e-3), pytest.approx(row["y"], abs=1e-3))
        assert not pixels.mask[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4].any()
        others = [
            pixels.wcs.all_world2pix(table["ra"], table["dec"], 0) for table in (truth.stars, truth.galaxies)
        ]
        flux = np.concatenate([truth.stars["flux_r"], truth.galaxies["flux_r"]])
        near = np.hypot(*(np.hstack(others) - [[x], [y]])) < 18
        if flux[near].sum() < 0.05 * row["flux"]:
            measured, cx, cy = growth(pixels, x, y, 8)
            assert np.hypot(cx - x, cy - y) < 0.3
            ratios.append(
                measured * simulation.njy_per_adu(exposure) / simulation.enclosed(exposure, 8) / row["flux"]
            )
    assert len(ratios) >= 6
    assert np.median(ratios) == pytest.approx(1, abs=0.06)


def test_epochs_differ_in_seeing_and_pointing_yet_overlap(simulation: Simulation) -> None:
    centres = [simulation.pixels(k, 0).wcs.all_pix2world(380, 400, 0) for k in range(4)]
    shifts = [
        simulation.pixels(0, 0).wcs.all_world2pix(*centre, 0) - np.array([380, 400]) for centre in centres[1:]
    ]
    assert 0.5 < np.abs(shifts).max() < 2 * SMALL.dither + 1
    assert np.ptp(simulation.truth.exposures["fwhm"]) > 0.05


def test_reference_catalogue_is_the_stars_with_the_errors_of_gaia(simulation: Simulation) -> None:
    reference = Table.read(simulation.truth.reference)
    stars = simulation.truth.stars
    row = {int(star): number for number, star in enumerate(stars["id"])}
    twin = stars[[row[int(source - 3_000_000_000_000_000_000)] for source in reference["source_id"]]]
    pull = (reference["dec"] - twin["dec"]) * 3.6e6 / reference["dec_error"]
    assert np.std(pull) == pytest.approx(1, abs=0.2)
    assert twin["g"].max() < SMALL.reference_limit
    assert np.std(reference["phot_g_mean_mag"] - twin["g"]) < 0.02
    real = {
        "ra",
        "dec",
        "pmra",
        "pmdec",
        "parallax",
        "ref_epoch",
        "source_id",
        "phot_bp_mean_mag",
        "phot_rp_mean_mag",
    }
    assert real <= set(reference.colnames)


def test_headers_are_those_of_a_decam_exposure(simulation: Simulation) -> None:
    exposure = simulation.exposures[2]
    with fits.open(exposure.detectors[0].image.path) as hdus:
        header = hdus[1].header.copy()
        header.update(hdus[0].header)
    info = ObservationInfo(header, translator_class=DecamTranslator, pedantic=True)
    assert (info.exposure_id, info.visit_id, info.observing_day) == (840003, 840003, 20190402)
    assert info.physical_filter == "r DECam SDSS c0002 6415.0 1480.0"
    assert (info.detector_num, info.detector_unique_name, info.observation_type) == (28, "S4", "science")
    assert info.exposure_time.to_value("s") == 90
    assert info.datetime_begin.utc.mjd == pytest.approx(exposure.mjd_utc, abs=1e-7)
    assert 1 / np.cos(np.radians(90 - info.altaz_begin.alt.deg)) == pytest.approx(
        info.boresight_airmass, abs=0.01
    )
    # The zenith distance follows from where the telescope points, when, and from where.
    assert info.tracking_radec.ra.deg == pytest.approx(exposure.ra, abs=1e-3)


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def _tiny(**others: object) -> Plan:
    fields: dict[str, object] = {
        "exposures": (PlannedExposure(20190305), PlannedExposure(20190402, science=True)),
        "detectors": (35,),
        "shape": (256, 256),
        "transients": 2,
        "galaxies": 5,
    }
    return Plan(**(fields | others))  # type: ignore[arg-type]


def test_same_plan_and_seed_same_bytes_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    simulate_nights(tmp_path / "a", plan=_tiny(), seed=3)
    simulate_nights(tmp_path / "b", plan=_tiny(), seed=3)
    simulate_nights(tmp_path / "c", plan=_tiny(), seed=4)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b") != _digest(tmp_path / "c")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    simulate_nights(tmp_path / "a", plan=_tiny(), seed=3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


def test_another_plan_replaces_a_simulation_and_nothing_else(tmp_path: Path) -> None:
    simulate_nights(tmp_path / "a", plan=_tiny(), seed=3)
    simulate_nights(tmp_path / "a", plan=_tiny(transients=1), seed=3)
    assert len(set(Truth.read(tmp_path / "a").transients["id"])) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(BadInputError, match="holds no simulation"):
        simulate_nights(tmp_path / "mine", plan=_tiny())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".a.partial" / "exposures").mkdir(parents=True)
    (tmp_path / ".a.partial" / "exposures" / "half.fits").write_bytes(b"SIMPLE")
    simulate_nights(tmp_path / "a", plan=_tiny())
    assert os.listdir(tmp_path) == ["a"]
    assert json.loads((tmp_path / "a" / "simulation.json").read_text())["digest"] == _tiny().digest(1)


def test_several_bands_and_variable_stars(tmp_path: Path) -> None:
    plan = Plan.of_nights(
        {20190305: 1},
        {20190402: 1},
        bands=("g", "z"),
        detectors=(34,),
        shape=(400, 400),
        variable_fraction=0.3,
    )
    truth = simulate_nights(tmp_path / "a", plan=plan)
    assert [exposure.band for exposure in find_instcal(truth.images).triples] == ["g", "z", "g", "z"]
    color = -2.5 * np.log10(truth.stars["flux_g"] / truth.stars["flux_z"])
    slope = np.polyfit(truth.stars["bp"] - truth.stars["rp"], color, 1)[0]
    assert 0.8 < slope < 2.5
    variable = truth.transients[truth.transients["kind"] == "variable"]
    assert len(variable)
    assert set(variable["band"]) == {"g", "z"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: _tiny(detectors=(61,)), "no geometry of detector 61"),
        (lambda: _tiny(exposures=(PlannedExposure(20190305, band="VR"),)), "no band 'VR'"),
        (lambda: _tiny(exposures=()), "no exposure"),
        (lambda: _tiny(shape=(64, 64)), "too small"),
    ],
)
def test_plans_that_cannot_be_carried_out(tmp_path: Path, change: Callable[[], Plan], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        simulate_nights(tmp_path / "a", plan=change())
    assert not (tmp_path / "a").exists()

"""A whole series against its truth: what is promised of a light curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from reduction.timeseries.datasets import configure, files, make_dataset, residuals
from tololo.facility.errors import NothingToDoError
from tololo.reduction.timeseries import measurements
from tololo.reduction.timeseries.dataset import DatasetReport, reduce_dataset
from tololo.reduction.timeseries.outputs import read_light_curve
from tololo.reduction.timeseries.plots import scatter_table
from tololo.reduction.timeseries.series import Series, build_series
from tololo.reduction.timeseries.stars import Stars, read_stars
from tololo.simulation.timeseries import EXTINCTION, SeriesPlan, SeriesTruth

EVENT = SeriesPlan()
"""60 frames, drifting pointing, clouds, seeing that changes, an event, constant stars and some variables."""


def series_of(folder: Path) -> tuple[Series, Stars]:
    stars = read_stars(folder)
    assert stars is not None
    return build_series([measurements.read(folder, path) for path in files(folder)], stars), stars


@pytest.fixture(scope="module")
def event(tmp_path_factory: pytest.TempPathFactory) -> tuple[SeriesTruth, DatasetReport]:
    truth = make_dataset(tmp_path_factory.mktemp("event"), EVENT, seed=1)
    return truth, reduce_dataset(truth.folder, plots=False)


def constant_stars(truth: SeriesTruth, series: Series, stars: Stars) -> list[tuple[int, np.ndarray]]:
    """Return stars that do not vary and are alone in their aperture, with their residuals."""
    scale = np.cos(np.radians(stars.dec[0]))
    tree = cKDTree(np.column_stack([truth.stars["ra"] * scale, truth.stars["dec"]]))
    distance, row = tree.query(np.column_stack([stars.ra * scale, stars.dec]))
    lonely = np.array([len(near) for near in tree.query_ball_point(tree.data, 7 / 3600)]) == 1
    found = []
    for star in range(1, len(stars.ra)):
        good = (series.flags[:, star] == 0) & np.isfinite(series.magnitude[:, star])
        alone = distance[star] * 3600 < 0.5 and lonely[row[star]]
        if alone and good.sum() > 40 and not truth.stars["variable"][row[star]]:
            found.append((star, np.where(good, series.magnitude[:, star], np.nan)))
    return found


def chi_square(value: np.ndarray, error: np.ndarray) -> float:
    """Return the reduced chi-square of values about their weighted mean."""
    good = np.isfinite(value)
    weight = 1 / error[good] ** 2
    mean = (weight * value[good]).sum() / weight.sum()
    return float((weight * (value[good] - mean) ** 2).sum() / (good.sum() - 1))


def test_the_event_is_unbiased_and_its_errors_are_right(event: tuple[SeriesTruth, DatasetReport]) -> None:
    truth, report = event
    table = read_light_curve(truth.folder)
    assert len(table) == report.frames == 60
    off, weight = residuals(table, truth), 1 / np.asarray(table["error"]) ** 2
    assert abs((weight * off).sum() / weight.sum()) < 0.002
    assert 0.8 < chi_square(off, np.asarray(table["error"])) < 1.2
    bright = table["magnitude"] < np.percentile(table["magnitude"], 25)
    for part in (bright, ~bright):  # as unbiased at the peak as beside it
        assert abs((weight * off)[part].sum() / weight[part].sum()) < 0.003


def test_constant_stars_scatter_as_photons_do(event: tuple[SeriesTruth, DatasetReport]) -> None:
    truth, _ = event
    series, stars = series_of(truth.folder)
    constant = constant_stars(truth, series, stars)
    assert len(constant) > 40
    chi = [chi_square(values, series.error[:, star]) for star, values in constant]
    assert 0.8 < np.median(chi) < 1.2
    table = scatter_table(series)
    of = {int(row["star"]): row for row in table}
    ratios = [of[star]["scatter"] / of[star]["photon"] for star, _ in constant]
    assert np.median(ratios) < 1.2
    bright = [of[star]["scatter"] / of[star]["photon"] for star, _ in constant if of[star]["magnitude"] < 16]
    assert len(bright) >= 5
    assert np.median(bright) < 1.2


def test_zero_point_colour_term_and_extinction(event: tuple[SeriesTruth, DatasetReport]) -> None:
    truth, report = event
    assert report.calibrated
    assert report.color_term == pytest.approx(0.05, abs=0.015)
    assert report.extinction == pytest.approx(EXTINCTION, abs=0.03)
    series, _ = series_of(truth.folder)
    rows = [list(truth.frames["image_id"]).index(m.image_id) for m in series.measurements]
    # A count a second above the air is of magnitude 23.1 at the mean colour 1.2; clouds take some of it.
    color = 0.05 * (series.calibration.color - 1.2)
    expected = 23.1 - EXTINCTION * truth.frames["airmass"][rows] - truth.frames["transparency"][rows] + color
    np.testing.assert_allclose(series.scale, expected, atol=0.05)


def test_variables_do_not_tell_the_scale_and_are_seen_to_vary(
    event: tuple[SeriesTruth, DatasetReport],
) -> None:
    truth, _ = event
    series, stars = series_of(truth.folder)
    for place in truth.stars[truth.stars["variable"]]:
        star = int(np.argmin(np.hypot(stars.ra - place["ra"], stars.dec - place["dec"])))
        close = np.hypot(stars.ra[star] - place["ra"], stars.dec[star] - place["dec"]) < 1e-4
        if close and place["mag"] < 17.5:
            assert series.ensemble.excess[star] > 0.05


def test_limits_where_nothing_is_seen(tmp_path: Path) -> None:
    plan = SeriesPlan(
        n_frames=6, shape=(320, 320), n_stars=140, clouds={}, variables=0, source=26.0, blend=26.0
    )
    truth = make_dataset(tmp_path, plan, seed=3)
    report = reduce_dataset(truth.folder, plots=False)
    table = read_light_curve(truth.folder)
    assert report.limits >= 5
    assert report.limits + report.detections == 6
    unseen = table[np.isfinite(table["limit"])]
    assert (unseen["flux"] < 3 * unseen["flux_err"]).all()
    expected = unseen["zero_point"] - 2.5 * np.log10(3 * unseen["flux_err"])
    np.testing.assert_allclose(unseen["limit"], expected, atol=1e-6)
    assert ((unseen["limit"] > 18) & (unseen["limit"] < 21.5)).all()
    lines = report.light_curve.read_text().splitlines()[1:]
    assert (
        sum(line.split(",")[2:4] == ["", ""] and line.split(",")[4] != "" for line in lines) == report.limits
    )


def test_a_series_of_nothing() -> None:
    nothing = np.zeros(3)
    stars = Stars(nothing, nothing, nothing, nothing, nothing, nothing, "a", "ip")
    bad = measurements.Measurement("a", "too cloudy", {}, np.zeros(0, [("flux", "f8")]))
    with pytest.raises(NothingToDoError, match="1 of them: too cloudy"):
        build_series([bad], stars)


CROWD = SeriesPlan(
    n_frames=6, shape=(256, 256), n_stars=700, clouds={}, variables=0, alone=0.0, faintest=20.0,
    source=17.0, blend=18.5,
)  # fmt: skip
"""A bulge field: a star in every few apertures' area."""


def test_in_a_crowd_the_psf_is_better_than_an_aperture(tmp_path: Path) -> None:
    truth = make_dataset(tmp_path, CROWD, seed=2, aperture_arcsec=2.0)
    spread, bias = {}, {}
    for method in ("aperture", "psf"):
        configure(truth, CROWD, aperture_arcsec=2.0, method=method)
        report = reduce_dataset(truth.folder, plots=False)
        assert (report.method, report.frames) == (method, 6)
        series, stars = series_of(truth.folder)
        scale = np.cos(np.radians(stars.dec[0]))
        tree = cKDTree(np.column_stack([truth.stars["ra"] * scale, truth.stars["dec"]]))
        _, row = tree.query(np.column_stack([stars.ra * scale, stars.dec]))
        known = np.isfinite(stars.magnitude) & (truth.stars["mag"][row] < 17) & (np.arange(len(row)) > 0)
        off = np.where(series.flags == 0, series.magnitude, np.nan)[:, known] - truth.stars["mag"][row[known]]
        off = off[:, np.isfinite(off).sum(axis=0) > 3]
        spread[method] = float(np.median(np.nanmedian(np.abs(off - np.nanmedian(off, axis=0)), axis=0)))
        bias[method] = float(np.median(np.abs(np.nanmedian(off, axis=0))))
    assert spread["psf"] < 1.2 * spread["aperture"], "it is the mean that neighbours spoil"
    assert bias["psf"] < 0.5 * bias["aperture"]
    off = residuals(read_light_curve(truth.folder), truth)
    assert abs(np.median(off)) < 0.03

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from reduction.timeseries.datasets import configure, copied, edit, files, make_dataset, residuals
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.timeseries import measurements
from tololo.reduction.timeseries.dataset import DatasetReport, reduce_dataset
from tololo.reduction.timeseries.outputs import COLUMNS, read_light_curve
from tololo.reduction.timeseries.plots import plot_apertures, plot_light_curve
from tololo.reduction.timeseries.series import build_series
from tololo.reduction.timeseries.stars import read_stars
from tololo.simulation.timeseries import SeriesTruth


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> SeriesTruth:
    return make_dataset(tmp_path_factory.mktemp("series"))


@pytest.fixture
def folder(truth: SeriesTruth, tmp_path: Path) -> Path:
    """A dataset of its own for each test."""
    return copied(truth.folder, tmp_path / "target" / "sinistro" / "ip")


def reduced(folder: Path, **options: Any) -> DatasetReport:
    """Reduce a dataset; figures take longer than all the rest of so few frames."""
    return reduce_dataset(folder, plots=False, **options)


def curves(folder: Path) -> dict[str, bytes]:
    """What must be equal to the bit."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".csv", ".dat", ".parquet")}


def test_what_a_dataset_gets(folder: Path, truth: SeriesTruth) -> None:
    before = {path: sha256(path.read_bytes()).hexdigest() for path in files(folder)}
    beats: list[int] = []
    report = reduce_dataset(folder, heartbeat=lambda: beats.append(1))
    assert (report.frames, report.measured, report.known, report.set_aside) == (8, 8, 0, {})
    assert len(beats) == 8 + 3
    assert {path: sha256(path.read_bytes()).hexdigest() for path in files(folder)} == before
    made = {path.name for path in folder.iterdir()} - {path.name for path in before}
    assert made == {
        "reduction_config.yaml", "aperture_pipeline.log", "frames", "star_catalog.ecsv", "photometry.parquet",
        "OGLE-2024-BLG-0034_ip_lc.csv", "OGLE-2024-BLG-0034_ip_lc.dat", "light_curve.png", "scatter.png",
        "apertures.png", "reduction_summary.json",
    }, "and nothing half-written"  # fmt: skip
    table = read_light_curve(folder)
    assert list(table["image_id"]) == list(truth.frames["image_id"])
    np.testing.assert_allclose(table["mjd_utc"], truth.frames["mjd_utc"], atol=1e-7)
    assert (np.abs(residuals(table, truth)) < 5 * table["error"] + 0.02).all()
    n_stars = pq.read_metadata(report.photometry).num_rows // 8
    assert n_stars == report.stars
    for picture in report.plots:
        assert picture.read_bytes().startswith(b"\x89PNG")
    log = (folder / "aperture_pipeline.log").read_text()
    assert all(path.stem in log for path in files(folder))


def test_the_light_curve_as_text(folder: Path, truth: SeriesTruth) -> None:
    configure(SeriesTruth(folder, *list(vars(truth).values())[1:]), label="mine")
    report = reduced(folder)
    head, *rows = report.light_curve.read_text().splitlines()
    assert head == ",".join(COLUMNS)
    assert len(rows) == 8
    table = read_light_curve(folder)
    for row, there in zip(rows, table, strict=True):
        value = dict(zip(COLUMNS, row.split(","), strict=True))
        assert float(value["time"]) == pytest.approx(there["mjd_utc"], abs=1e-8)
        assert value["filter"] == "mine_ip"
        assert float(value["magnitude"]) == pytest.approx(there["magnitude"], abs=1e-5)
        assert (value["image"], value["telescope"]) == (there["image_id"], "1m0-12")
        assert value["limit"] == ""
    dat = report.light_curve.with_suffix(".dat").read_text().splitlines()
    assert dat[0] == "# HJD flux err_flux mag err_mag file"
    assert float(dat[1].split()[0]) == pytest.approx(table["hjd_utc"][0], abs=1e-7)
    summary = json.loads((folder / "reduction_summary.json").read_text())
    assert (summary["target"], summary["frames"], summary["detections"]) == ("OGLE-2024-BLG-0034", 8, 8)
    assert summary["light_curve"] == str(report.light_curve)
    assert len(summary["light_curve_points"]) == 8


def test_bad_frames_are_set_aside_each_with_its_reason(folder: Path) -> None:
    paths = files(folder)
    edit(paths[1], WCSERR=4)
    edit(paths[2], FILTER="gp")
    edit(paths[3], FILTER=None)
    paths[4].write_bytes(paths[4].read_bytes()[:300000])
    edit(paths[5], CRVAL1=270.0)
    with fits.open(paths[6], mode="update") as hdus:
        hdus["CAT"].data["ellipticity"] += 0.5
    report = reduced(folder)
    assert report.frames == 2
    said = [report.set_aside[path.stem] for path in paths[1:7]]
    for reason, words in zip(
        said, ("WCSERR 4", "its filter is gp", "lacks FILTER", "", "recognised", "trailed"), strict=True
    ):
        assert words in reason
    assert "cannot be read" in said[3] or "lacks" in said[3]
    assert list(read_light_curve(folder)["image_id"]) == [paths[0].stem, paths[7].stem]


def test_a_cloud(folder: Path) -> None:
    paths = files(folder)
    with fits.open(paths[5], mode="update") as hdus:
        sky = np.median(hdus["SCI"].data)
        hdus["SCI"].data[:] = sky + (hdus["SCI"].data - sky) * 0.1
    report = reduced(folder)
    assert "clouds: 2." in report.set_aside[paths[5].stem]
    assert report.frames == 7


def test_a_frame_without_a_catalogue_and_without_errors_is_measured_as_well(
    folder: Path, truth: SeriesTruth
) -> None:
    for path in files(folder)[::2]:
        edit(path, drop=("CAT", "ERR", "BPM"), L1FWHM=None, PIXSCALE=None)
    report = reduced(folder)
    assert report.set_aside == {}
    table = read_light_curve(folder)
    assert (np.abs(residuals(table, truth)) < 5 * table["error"] + 0.02).all()


def test_frames_that_come_later_give_the_same(folder: Path, tmp_path: Path) -> None:
    """Also where the first ones, by name and by time, come last."""
    names = [path.name for path in files(folder)]
    grown = copied(folder, tmp_path / "grown" / "ip", names[3:6])
    reduced(grown)
    copied(folder, grown, names[5:])
    assert reduced(grown).measured == 2
    copied(folder, grown)
    reduced(grown)
    assert reduced(grown).measured == 0, "all is known"
    reduced(folder)
    assert curves(grown) == curves(folder)
    assert reduced(grown, again=True).measured == 8
    assert curves(grown) == curves(folder)


def test_a_frame_that_goes_takes_its_flux_with_it(folder: Path, truth: SeriesTruth) -> None:
    reduced(folder)
    gone = files(folder)[4]
    gone.unlink()
    assert reduced(folder).measured == 0
    table = read_light_curve(folder)
    assert gone.stem not in table["image_id"]
    assert not (folder / "frames" / f"{gone.stem}.parquet").exists()
    assert (np.abs(residuals(table, truth)) < 5 * table["error"] + 0.02).all()


def test_names_say_nothing_about_times(folder: Path, truth: SeriesTruth) -> None:
    """No frame's flux on another frame's time: names shuffled, one frame missing, one bad in the middle."""
    paths = files(folder)
    order = np.random.default_rng(5).permutation(len(paths))
    time_of = {}
    for number, index in enumerate(order):
        name = f"frame-{number}"
        paths[index].rename(folder / f"{name}.fits")
        time_of[name] = index
    (folder / "frame-2.fits").unlink()
    edit(folder / "frame-5.fits", WCSERR=4)
    reduced(folder)
    table = read_light_curve(folder)
    assert len(table) == 6
    assert (np.diff(table["mjd_utc"]) > 0).all()
    for row in table:
        index = time_of[row["image_id"]]
        assert row["mjd_utc"] == pytest.approx(truth.frames["mjd_utc"][index], abs=1e-7)
        assert row["magnitude"] == pytest.approx(truth.magnitude[index, 0], abs=0.04)
        assert row["airmass"] == truth.frames["airmass"][index]


KILLED = """
import os, signal, sys
from pathlib import Path
from tololo.reduction.timeseries.dataset import DatasetReport, reduce_dataset
beats = []
def beat():
    beats.append(1)
    if len(beats) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
reduce_dataset(Path(sys.argv[1]), heartbeat=beat)
"""


@pytest.mark.parametrize("after", [3, 9])
def test_killed_and_run_again(folder: Path, tmp_path: Path, after: int) -> None:
    """Between frames, and between the figures."""
    whole = copied(folder, tmp_path / "whole" / "ip")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(after)], check=False, env=os.environ
    )
    assert ended.returncode == -signal.SIGKILL
    assert not (folder / "reduction_summary.json").exists()
    assert reduced(folder).measured == max(0, 8 - after)
    reduced(whole)
    assert curves(folder) == curves(whole)
    assert not list(folder.rglob("*.part"))


def test_another_aperture_measures_anew(folder: Path, truth: SeriesTruth) -> None:
    reduced(folder)
    first = curves(folder)
    own = SeriesTruth(folder, *list(vars(truth).values())[1:])
    configure(own, aperture_arcsec=3.5)
    assert reduced(folder).measured == 8
    assert curves(folder) != first


def test_packed_beside_unpacked_and_reduced_twice(folder: Path) -> None:
    paths = files(folder)
    with fits.open(paths[0]) as hdus:
        fits.HDUList([hdu.copy() for hdu in hdus]).writeto(paths[0].with_suffix(".fits.fz"))
    quick = folder / f"{paths[1].stem}-quick.fits"
    shutil.copy2(paths[1], quick)
    edit(quick, RLEVEL=11)
    report = reduced(folder)
    assert report.frames == 8
    assert report.set_aside == {quick.stem: f"it is the exposure of {paths[1].stem}, reduced again"}
    assert "is left out" in (folder / "aperture_pipeline.log").read_text()


def test_without_a_reference_catalogue_magnitudes_are_instrumental(folder: Path, truth: SeriesTruth) -> None:
    configure(SeriesTruth(folder, *list(vars(truth).values())[1:]), reference_catalog=None)
    report = reduced(folder)
    assert not report.calibrated
    assert report.zero_point == 25.0
    assert report.as_dict()["zero_point_error"] is None
    off = residuals(read_light_curve(folder), truth)
    assert np.ptp(off) < 0.06
    facility = reduced(folder, reference_catalog=truth.reference)
    assert facility.calibrated


def test_one_frame_is_enough(folder: Path) -> None:
    for path in files(folder)[1:]:
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reduced(folder).detections == 1


@pytest.mark.parametrize("bad", ["another field", "clouded over"])
def test_a_bad_first_frame_does_not_give_the_stars(folder: Path, truth: SeriesTruth, bad: str) -> None:
    """Without a reference catalogue nothing else would tell that it is of no use."""
    configure(SeriesTruth(folder, *list(vars(truth).values())[1:]), reference_catalog=None)
    first, second, *rest = files(folder)
    for path in rest[1:]:
        path.unlink()
    if bad == "another field":
        with fits.open(first) as hdus:
            edit(first, CRVAL2=hdus["SCI"].header["CRVAL2"] + 0.5)
    else:
        with fits.open(first, mode="update") as hdus:
            hdus["CAT"].data = hdus["CAT"].data[:3]
    report = reduced(folder)
    assert (report.frames, list(report.set_aside)) == (2, [first.stem])
    assert second.stem in (folder / "star_catalog.ecsv").read_text()


@pytest.mark.parametrize("off", [0.03, 5.0])
def test_a_target_beside_all_frames_is_an_error(folder: Path, off: float) -> None:
    for path in files(folder)[2:]:
        path.unlink()
    config = folder / "reduction_config.yaml"
    before = config.read_text()
    config.write_text(before.replace("'-25.50847'", f"'{off - 25.50847}'"))
    assert config.read_text() != before
    with pytest.raises(
        BadInputError, match=r"lies on none of the 2 frames.*reduction_config\.yaml.*target\.RA"
    ):
        reduce_dataset(folder)
    config.write_text(before)
    assert reduced(folder).detections == 2


def test_a_target_that_is_saturated_everywhere(folder: Path) -> None:
    for path in files(folder)[3:]:
        path.unlink()
    for path in files(folder):
        edit(path, SATURATE=3000.0)
    report = reduced(folder)
    assert (report.frames, report.detections, report.limits) == (3, 0, 0)
    assert report.light_curve.read_text().splitlines() == [",".join(COLUMNS)]
    assert "saturated on 3 frames" in (folder / "aperture_pipeline.log").read_text()


def test_a_target_beside_the_sharpest_frame(folder: Path, truth: SeriesTruth) -> None:
    """The figure is of another one."""
    paths = files(folder)
    reduced(folder)
    stars = read_stars(folder)
    assert stars
    series = build_series([measurements.read(folder, path) for path in paths], stars)
    sharpest = min(series.measurements, key=lambda m: (m.facts["fwhm"], m.image_id))
    sharpest.stars["flags"][0] = 1
    sharpest.stars["x"][0] = np.nan
    figure = plot_apertures(series, "x", {path.stem: path for path in paths})
    assert figure.axes[0].get_title() not in ("", sharpest.image_id)


def test_times_of_one_night_can_be_told_apart_in_the_figure(folder: Path) -> None:
    paths = files(folder)[:4]
    reduced(folder)
    stars = read_stars(folder)
    assert stars
    measured = [measurements.read(folder, path) for path in paths]
    for n, item in enumerate(measured):
        item.facts["mjd_utc"] = 60432.1 + 0.01 * n
    for few in (measured, measured[:1]):
        figure = plot_light_curve(build_series(few, stars), "x")
        figure.canvas.draw()
        shown = [label.get_text() for label in figure.axes[2].get_xticklabels()]
        assert len(set(shown)) == len(shown) > 2
        low, high = figure.axes[2].get_xlim()
        assert high - low <= 1


def test_the_catalogue_of_the_facility_may_lack_a_filter(
    folder: Path, truth: SeriesTruth, tmp_path: Path
) -> None:
    catalog = tmp_path / "other.csv"
    catalog.write_text("ra,dec,gmag,rmag\n262.6,-25.5,16,15\n")
    own = SeriesTruth(folder, *list(vars(truth).values())[1:])
    configure(own, reference_catalog=None)
    report = reduced(folder, reference_catalog=catalog)
    assert (report.frames, report.calibrated) == (8, False)
    assert "no magnitudes for the filter ip" in (folder / "aperture_pipeline.log").read_text()
    configure(own, reference_catalog=str(catalog))
    with pytest.raises(BadInputError, match="no magnitudes for the filter ip"):
        reduced(folder)


def test_what_could_not_be_read_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, opened = files(folder)[4], fits.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr(fits, "open", refuse)
    report = reduced(folder)
    assert (report.frames, report.unread, list(report.set_aside)) == (7, 1, [locked.stem])
    monkeypatch.undo()
    report = reduced(folder)
    assert (report.frames, report.measured, report.unread, report.set_aside) == (8, 1, 0, {})


def test_what_cannot_be_done_is_said_at_once(folder: Path, truth: SeriesTruth, tmp_path: Path) -> None:
    own = SeriesTruth(folder, *list(vars(truth).values())[1:])
    configure(own, reference_image="nothing.fits")
    with pytest.raises(BadInputError, match=r"no frame nothing\.fits.*photometry\.reference_image"):
        reduced(folder)
    configure(own, reference_catalog="nowhere.csv")
    with pytest.raises(BadInputError, match=r"no such reference catalogue.*nowhere\.csv"):
        reduced(folder)
    configure(own)
    for path in files(folder):
        edit(path, WCSERR=4)
    with pytest.raises(NothingToDoError, match=r"None of the 8 frames.*WCSERR 4"):
        reduced(folder)
    assert "WCSERR 4" in (folder / "aperture_pipeline.log").read_text()
    for path in files(folder):
        path.unlink()
    with pytest.raises(NothingToDoError, match="no frames"):
        reduced(folder)
    assert not (folder / "photometry.parquet").exists()

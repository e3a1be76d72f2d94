"""Scorecards of nights whose measurements are given, and of real exposures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table, vstack

from real_data import FIELD, needs
from tololo.facility.scorecard import CLEAR, Limits
from tololo.reduction.scorecard import (
    COLUMNS,
    FROM_CONFIGURATION,
    FROM_NIGHT,
    NO_REFERENCE,
    Night,
    Visit,
    is_same,
    score,
    summarise,
)
from tololo.reduction.scorecard_plots import plot_night
from tololo.reduction.scorecard_text import describe

from .chain import Chain

SECONDS = 90.0
DETECTORS = (25, 28, 35)


def summary(transparency: float = 0.95, band: str = "r", detectors: int = 3, **changes: Any) -> Table:
    """Rows of ``detector_summary``, of a sky of some transparency at airmass 1.2."""
    zero_point = CLEAR.get(band, 25.0) + 2.5 * math.log10(SECONDS * transparency) - 0.1 * 0.2
    row = {
        "fwhm": 1.1,
        "ellipticity": 0.04,
        "sky": 900.0,
        "zero_point": zero_point,
        "zero_point_scatter": 0.012,
        "limiting_magnitude": 23.5,
        "n_zero_point": 70,
        "astrometric_rms": 0.2,
        "astrometric_rms_bright": 0.05,
        "pixel_scale": 0.263,
    } | changes
    return Table({"detector": DETECTORS[:detectors], **{name: [row[name]] * detectors for name in row}})


def visit(number: int, band: str = "r", **changes: Any) -> Visit:
    known = {"exposure_time": SECONDS, "mjd": 58575.0 + 0.002 * number, "airmass": 1.2, "expected": 3}
    return Visit(number, band, **known | {"calibration_age": 0.0} | changes)


def scored(*transparencies: float, band: str = "r", proc_type: str = "drp") -> Night:
    visits = [(visit(n, band), summary(light, band)) for n, light in enumerate(transparencies)]
    return score(visits, proc_type)


def rest(table: Table) -> dict[str, Any]:
    """The parts of ``night_summary`` that do not follow from the table."""
    done, whole = int(table["detectors"].sum()), int(table["detectors_expected"].sum())
    by_detector = [{"detector": d, "expected": len(table), "done": len(table)} for d in DETECTORS]
    use = {"kind": "flat", "physical_filter": "r DECam", "night": 20190330, "age": -2, "detectors": [25, 28]}
    failure = {"label": "calibrateVisit", "count": 3, "visits": [1], "example": "", "reason": "no stars"}
    return {
        "night": 20190401,
        "proc_type": "drp",
        "detectors": {
            "expected": whole,
            "done": done,
            "completeness": done / whole,
            "by_detector": by_detector,
        },
        "calibrations": [use | {"reason": "the night has none of its own"}],
        "failures": [failure],
        "seconds": {"visit": 63.2},
    }


def test_a_clear_night_is_accepted_as_a_whole() -> None:
    night = scored(0.95, 0.9, 1.0)
    assert list(night.table.colnames) == list(COLUMNS)
    assert set(night.table["verdict"]) == {"accepted"}
    assert set(night.table["reasons"]) == {""}
    # The extinction of the configuration is that of the made-up sky.
    np.testing.assert_allclose(night.table["transparency"], [0.95, 0.9, 1.0], rtol=1e-6)
    np.testing.assert_allclose(night.table["astrometric_rms"], 1000 * 0.05 * 0.263)
    assert night.clear["r"].source == FROM_CONFIGURATION


def test_a_magnitude_of_cloud_is_flagged_and_two_are_rejected() -> None:
    night = scored(0.95, 0.398, 0.158)
    assert list(night.table["verdict"]) == ["accepted", "flagged", "rejected"]
    assert "transparency is 0.398" in night.table["reasons"][1]


def test_a_night_that_is_clouded_throughout_is_noticed_and_no_error() -> None:
    assert set(scored(0.2, 0.2, 0.21).table["verdict"]) == {"rejected"}


def test_a_band_that_is_not_known_is_compared_with_the_best_of_the_night() -> None:
    night = scored(0.9, 0.45, 0.9, band="N964")
    assert night.clear["N964"].source == FROM_NIGHT
    np.testing.assert_allclose(night.table["transparency"], [1.0, 0.5, 1.0], rtol=1e-6)
    assert list(night.table["verdict"]) == ["accepted", "flagged", "accepted"]


def test_with_too_few_visits_of_such_a_band_it_is_not_judged_and_that_is_said() -> None:
    night = scored(0.9, 0.1, band="N964")
    assert night.clear["N964"].source == NO_REFERENCE
    assert np.isnan(night.table["transparency"]).all()
    assert set(night.table["verdict"]) == {"accepted"}
    content = rest(night.table) | summarise(night)
    assert content["bands"]["N964"]["transparency"] is None
    assert "Transparency in N964 is not known" in describe(night.table, content)


@needs(FIELD)
def test_real_exposures_have_a_clear_sky(real_field: Chain) -> None:
    """Those that the Legacy Surveys took for their images; each cutout has two to four stars."""
    airmass = {int(row["expnum"]): row["airmass"] for row in Table.read(FIELD / "survey-ccds-1.fits.gz")}
    visits = []
    for number, exposure in real_field.exposures.items():
        rows = [{"detector": key[1]} | real_field.detector(*key).summary for key in real_field.keys(number)]
        known = visit(
            number,
            exposure.band,
            exposure_time=exposure.exptime,
            airmass=float(airmass[number]),
            expected=1,
            calibration_age=math.nan,
        )
        visits.append((known, Table(rows=rows)))
    night = score(visits, "instcal")
    assert len(night.table) == 9
    assert set(night.table["verdict"]) == {"accepted"}
    assert 0.8 < night.table["transparency"].min() < night.table["transparency"].max() < 1.05


def test_counts_of_instcal_are_adu() -> None:
    in_adu = summary()
    in_adu["zero_point"] -= 2.5 * math.log10(4.0)
    night = score([(visit(1), in_adu)], "instcal")
    assert night.table["transparency"][0] == pytest.approx(0.95)


def test_a_visit_without_detectors_has_its_row() -> None:
    night = score([(visit(2, failures="no stars, detectors 25-35"), None), (visit(1), summary())], "drp")
    assert list(night.table["visit"]) == [1, 2]
    row = night.table[1]
    assert (row["verdict"], row["detectors"], row["detectors_expected"], row["stars"]) == (
        "rejected",
        0,
        3,
        0,
    )
    assert row["reasons"] == "0 of 3 detectors were calibrated: no stars, detectors 25-35."
    assert math.isnan(row["seeing"])
    assert summarise(night)["rejected"] == [2]


def test_medians_pass_over_what_some_detectors_lack() -> None:
    one = summary(detectors=1, astrometric_rms_bright=math.nan, astrometric_rms=0.4)
    other = summary(detectors=1, fwhm=1.3)
    other.remove_column("astrometric_rms_bright")
    night = score([(visit(1), vstack([one, other]))], "drp")
    assert night.table["seeing"][0] == pytest.approx(1.2)
    # Without bright stars that of all counts: 0.4 and 0.2 pixels.
    assert night.table["astrometric_rms"][0] == pytest.approx(1000 * 0.3 * 0.263)


def test_limits_and_bands_stand_in_the_summary() -> None:
    night = scored(0.95, 0.3)
    content = summarise(night, Limits())
    assert (content["visits"], content["accepted"], content["flagged"]) == (2, 1, [1])
    assert content["limits"]["seeing"] == {"flag": 2.0, "reject": 3.5}
    assert content["limits"]["depth"] == {}
    band = content["bands"]["r"]
    assert (band["visits"], band["accepted"], band["clear"], band["clear_from"]) == (
        2,
        1,
        26.82,
        "configuration",
    )
    assert band["seeing"] == pytest.approx(1.1)


def test_scorecards_are_the_same_also_where_nothing_is_known() -> None:
    night = score([(visit(1), None), (visit(2), summary())], "drp").table
    assert is_same(night, night.copy())
    other = night.copy()
    other["seeing"][1] += 0.01
    assert not is_same(night, other)


def test_the_log_has_a_line_for_each_visit_and_what_went_wrong() -> None:
    night = score([(visit(1), summary()), (visit(2, failures="no stars, detector 25"), None)], "drp")
    text = describe(night.table, rest(night.table) | summarise(night))
    lines = text.splitlines()
    assert "2 visits, 1 accepted, 0 flagged, 1 rejected" in lines[0]
    # MJD 58575.002 TAI is 37 s later than the same in UTC.
    assert lines[2].split()[:3] == ["1", "00:02", "r"]
    assert lines[2].endswith("accepted")
    assert lines[1].index("verdict") == lines[2].index("accepted")
    assert "2 is rejected: 0 of 3 detectors were calibrated: no stars, detector 25." in text
    assert "Flat in r, detectors 25, 28: borrowed from 20190330 (2 days earlier)" in text
    assert "Missing 3 x: no stars" in text


@pytest.mark.parametrize(
    "visits",
    [
        [(visit(1), None)],
        [(visit(1), summary())],
        [(visit(1, mjd=math.nan), summary())],
        [(visit(1), summary()), (visit(2, "N964"), summary(0.1, "N964")), (visit(3), None)],
    ],
    ids=["nothing", "one", "undated", "bands"],
)
def test_the_plot_is_a_png_of_whatever_there_is(visits: list[Any], tmp_path: Path) -> None:
    night = score(visits, "drp")
    figure = plot_night(night.table, rest(night.table) | summarise(night))
    figure.savefig(tmp_path / "plot.png")
    content = (tmp_path / "plot.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20000

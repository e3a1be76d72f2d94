"""What a run publishes: lists of targets, and light curves from APDB and Butler."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler, CollectionType

from operators.airflow_context import COMMON, TEMPLATE
from reduction import alert_field as field
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.lightcurve import LightCurve
from tololo.hooks.visit_chains import difference_chains
from tololo.operators.tom_sources import forced_points, light_curves, read_targets

FIRST, SECOND = field.VISITS


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> field.AlertField:
    return field.build(tmp_path_factory.mktemp("light_curves"))


@pytest.fixture(autouse=True)
def connections(nights: field.AlertField, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"backend": "sqlite", "config_folder": str(nights.apdb_config.parent)}
    butler = {"conn_type": "butler", "host": str(nights.repository)}
    monkeypatch.setenv("AIRFLOW_CONN_APDB_DEFAULT", json.dumps({"conn_type": "apdb", "extra": extra}))
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_TEST", json.dumps(butler))


def place(name: str) -> str:
    ra, dec = field.wcs_of(FIRST).all_pix2world(*([value] for value in field.PLACES[name]), 0)
    return f"{name} {ra[0]:.7f} {dec[0]:.7f}"


def curves(**params: Any) -> tuple[str, list[LightCurve]]:
    usual = {"source": "apdb", "apdb": None, "selection": 20, "targets": None}
    return light_curves(COMMON | TEMPLATE | usual | params, logging.getLogger("test"))


def test_targets_are_read() -> None:
    text = "\n# name ra dec\nSN 2019abc 150.25 -2.5\n\n  AT2019x\t0 90\n"
    assert read_targets(text) == [("SN 2019abc", 150.25, -2.5), ("AT2019x", 0.0, 90.0)]


@pytest.mark.parametrize(
    "line",
    ["SN2019x", "SN2019x 150.1", "150.1 -2.5", "SN2019x 10:20:30 -2:30:00", "SN2019x 360 0", "SN2019x 10 91"],
)
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_targets(f"good 10 10\n\n{line}\n")
    assert line in caught.value.what
    assert caught.value.where == "param targets, line 3"
    assert "name ra dec" in caught.value.remedy


def test_nan_is_no_position() -> None:
    with pytest.raises(BadInputError, match="line 1"):
        read_targets("SN2019x nan 10")


def test_a_name_stands_for_one_place() -> None:
    with pytest.raises(BadInputError, match=r"'SN 1' is there twice.*line 2"):
        read_targets("SN 1 10 10\nSN  1 10 11")


def test_only_forced_points_with_a_flux_and_an_error_are_published() -> None:
    table = Table(
        {
            "kind": ["forced", "forced", "source", "forced", "forced"],
            "visit": [1, 2, 2, 3, 4],
            "psfFlux": [10.0, np.nan, 5.0, -3.0, 4.0],
            "psfFluxErr": [1.0, 1.0, 1.0, 2.0, 0.0],
        }
    )
    points = forced_points(table, 77)
    assert [(int(p["visit"]), p["diaObjectId"]) for p in points] == [(1, 77), (3, 77)]


def test_targets_are_measured_on_difference_images(caplog: pytest.LogCaptureFixture) -> None:
    """Those that are no diaObject too, and on nights before anything was detected there."""
    dark, outside = "dark 150.0 -30.0", "outside 150.5 -30.0"
    listed = "\n".join([place(field.STAR), place(field.BODY), dark, outside])
    label, (star, body, nothing) = curves(targets=listed)
    assert label == field.APDB
    assert [curve.target for curve in (star, body, nothing)] == [field.STAR, field.BODY, "dark"]
    assert "Target outside lies on none of the difference images" in caplog.text
    error = 20 * math.sqrt(4 * math.pi) * 1.6  # of a Gaussian PSF of 1.6 pixels on sky noise of 20 nJy
    for curve, fluxes in ((star, (5000, -3000)), (body, (0, 4000)), (nothing, (0, 0))):
        assert [point.visit for point in curve.points] == [FIRST, SECOND]
        for point, flux in zip(curve.points, fluxes, strict=True):
            assert point.flux_err_njy == pytest.approx(error, rel=0.1)
            assert abs(point.flux_njy - flux) < 4 * point.flux_err_njy
            assert point.mjd_tai == pytest.approx(field.context_of(point.visit or 0).midpoint_mjd_tai)
    assert [curve.n_detections for curve in (star, body, nothing)] == [1, 1, 0]


def test_a_target_beside_an_image_has_no_point_there() -> None:
    _, (edge,) = curves(targets=place(field.EDGE))
    assert [point.visit for point in edge.points] == [SECOND]


def test_diaobjects_come_from_the_apdb(nights: field.AlertField) -> None:
    label, found = curves()
    names = {f"Tololo-{nights.object_of(name)}" for name in (field.STAR, field.EDGE)}
    assert (label, {curve.target for curve in found}) == (field.APDB, names)
    assert {point.flux_njy for curve in found for point in curve.points} == {12.5}
    assert len(curves(selection=1)[1]) == 1


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(NothingToDoError, match=r"no difference images with the template 2031/mean"):
        curves(targets=place(field.STAR), coadd_subset="2031", template_type="mean")
    with pytest.raises(NothingToDoError, match="no APDB 2031_mean yet"):
        curves(coadd_subset="2031", template_type="mean")
    with pytest.raises(NothingToDoError, match=r"no visits.*nightly_decam"):
        curves(source="visits", targets=place(field.STAR))
    with pytest.raises(BadInputError, match="There are no targets"):
        curves(source="visits")


def test_chains_of_difference_images(nights: field.AlertField, tmp_path: Path) -> None:
    """Those from raws before those from InstCal; none that is empty, injected, or of no night."""
    own = {field.night_of(visit): field.chain_of(visit) for visit in field.VISITS}
    tail = f"{field.SUBSET}/{field.TYPE}"
    with Butler.from_config(
        str(shutil.copytree(nights.repository, tmp_path / "repository")), writeable=True
    ) as butler:
        filled = (
            *(f"20190401/{tail}/diff_instcal", f"20190403/{tail}/diff_instcal"),
            *(f"20190405/{tail}/diff_drp_injected", f"2019/{tail}/diff_drp", f"u/ana/{tail}/diff_drp"),
            *(f"20190406/{tail}_2/diff_drp", f"20190406/x/{tail}/diff_drp"),
        )
        for name in (*filled, f"20190404/{tail}/diff_drp"):
            butler.collections.register(name, CollectionType.CHAINED)
            butler.collections.redefine_chain(name, [field.chain_of(FIRST)] if name in filled else [])
        found = difference_chains(butler, field.SUBSET, field.TYPE)
    assert found == own | {20190403: f"20190403/{tail}/diff_instcal"}


def test_visit_images(nights: field.AlertField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(nights.repository, tmp_path / "repository")
    with Butler.from_config(str(other), writeable=True) as butler:
        butler.collections.register("20190401/drp", CollectionType.CHAINED)
        butler.collections.redefine_chain("20190401/drp", [field.chain_of(FIRST)])
    butler_connection = {"conn_type": "butler", "host": str(other)}
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_TEST", json.dumps(butler_connection))
    label, (star,) = curves(source="visits", targets=place(field.STAR))
    assert (label, [point.visit for point in star.points]) == ("visits", [FIRST])

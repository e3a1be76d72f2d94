"""Light curves of datasets into a real TOM."""

from __future__ import annotations

import csv
import json
import math
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from astropy.time import Time

from hooks.tom.server import INSTALLED, RealTom
from operators.airflow_context import context
from reduction.timeseries.datasets import make_dataset
from tololo.operators.tom_datasets import PublishDatasetOperator
from tololo.reduction.timeseries.dataset import reduce_dataset

from .test_tom_approval import answer

pytestmark = [pytest.mark.services, INSTALLED]

_numbers = count(1)
CONFIG = """\
target:
  name: '{name}'
  RA: '17:30:25.5'
  Dec: '-25:30:30.5'
photometry:
  aperture_arcsec: 2.0
tom:
  upload: {upload}
  config_file: '{file}'
  data_label: '{label}'
"""


def dataset(
    root: Path,
    name: str = "",
    *,
    filter_name: str = "ip",
    label: str = "TEST",
    file: str = "",
    n: int = 5,
    rise: float = 0.0,
    calibrated: bool = True,
) -> Path:
    """A reduced dataset: the target fades by 0.5 mag a frame, is not seen on one, saturated on the last."""
    folder = root / "OB1" / "sinistro" / filter_name
    folder.mkdir(parents=True, exist_ok=True)
    name = name or f"OB-2019-BLG-{next(_numbers)}"
    (folder / "reduction_config.yaml").write_text(
        CONFIG.format(name=name, upload=True, file=file, label=label)
    )
    flux = [1000 * 10 ** (-0.2 * i) + rise for i in range(n)] + [-1.0, 9e5]
    start = [58683.1 + 0.01 * i for i in range(len(flux))]
    zero_point = [23.1 + 0.01 * i for i in range(len(flux))]
    rows = [
        {
            "image_id": f"lsc1m005-fa15-20190719-{i:04d}-e91",
            "mjd_utc": start[i],
            "hjd_utc": start[i] + 2400000.5 + 0.004,
            "filter": filter_name,
            "telescope": "1m0-05",
            "instrument": "fa15",
            "flux": star_flux,
            "flux_err": 2.0,
            "magnitude": zero_point[i] - 2.5 * math.log10(star_flux) if star_flux > 0 else math.nan,
            "error": math.hypot(2.5 / math.log(10) * 2.0 / star_flux, 0.003),
            "zero_point": zero_point[i],
            "flags": 4 if star_flux == 9e5 else 0,
            "star": star,
        }
        for i, target_flux in enumerate(flux)
        for star, star_flux in enumerate((target_flux, 5000.0))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "photometry.parquet")
    (folder / "reduction_summary.json").write_text(json.dumps({"calibrated": calibrated}))
    return folder


def name_of(folder: Path) -> str:
    return (folder / "reduction_config.yaml").read_text().split("'")[1]


def publish(folder: Path, xcoms: dict[str, Any] | None = None, upload: bool = True, **params: Any) -> Any:
    usual = {"tom": "tom_test", "create_targets": None, "publish": "yes"}
    reduced = {"folder": str(folder), "upload": upload}
    operator = PublishDatasetOperator(task_id="publish_datasets", dataset=reduced)
    return operator.execute(context(**usual | params, xcoms=xcoms))


def held(tom: RealTom, folder: Path) -> list[dict[str, Any]]:
    rows = tom.sql("SELECT id FROM tom_targets_basetarget WHERE name = ?", name_of(folder))
    return tom.points(rows[0][0]) if rows else []


def test_a_dataset(tom: RealTom, tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    result = publish(folder)
    assert (result["status"], result["points"], result["label"]) == ("created", 6, "TEST_sinistro_ip")
    json.dumps(result)
    points = held(tom, folder)
    for i, point in enumerate(points):
        assert point["source_location"] == f"image=lsc1m005-fa15-20190719-{i:04d}-e91"
        assert Time(point["timestamp"], scale="utc").mjd == pytest.approx(58683.1 + 0.01 * i, abs=1e-8)
        assert (point["bandpass"], point["telescope"], point["instrument"]) == ("TEST_ip", "1m0-05", "fa15")
        extra = json.loads(point["value"])
        assert extra["zero_point"] == pytest.approx(23.1 + 0.01 * i, abs=1e-4)
        assert extra["hjd_utc"] == pytest.approx(58683.104 + 2400000.5 + 0.01 * i, abs=1e-7)
        assert (extra["photometric_band"], extra["pipeline_version"][:7]) == ("ip", "tololo ")
    for i, point in enumerate(points[:5]):
        assert point["brightness"] == pytest.approx(23.1 + 0.01 * i - 7.5 + 0.5 * i, abs=1e-5)
        sky = 2.5 / math.log(10) * 2 / (1000 * 10 ** (-0.2 * i))
        assert point["brightness_error"] == pytest.approx(math.hypot(sky, 0.003), abs=1e-6)
    assert points[5]["brightness"] is None
    assert points[5]["limit"] == pytest.approx(23.15 - 2.5 * math.log10(3 * 2), abs=1e-5)
    assert {point["unit"] for point in points} == {"AB"}

    assert publish(folder)["status"] == "unchanged"
    again = publish(dataset(tmp_path, name_of(folder), rise=1.0))
    assert (again["status"], again["deleted"], len(held(tom, folder))) == ("created", 1, 6)


def test_datasets_of_one_target_stand_beside_each_other(tom: RealTom, tmp_path: Path) -> None:
    first = dataset(tmp_path)
    second = dataset(tmp_path, name_of(first), filter_name="gp")
    publish(first)
    publish(second)
    publish(dataset(tmp_path, name_of(first), rise=1.0))
    assert sorted({point["bandpass"] for point in held(tom, first)}) == ["TEST_gp", "TEST_ip"]
    assert len(held(tom, first)) == 12


def test_without_a_label_and_without_a_reference(tom: RealTom, tmp_path: Path) -> None:
    folder = dataset(tmp_path, label="", calibrated=False)
    assert publish(folder)["label"] == "sinistro_ip"
    points = held(tom, folder)
    assert {(point["bandpass"], point["unit"]) for point in points} == {("ip", "mag")}
    assert "flux_njy" not in json.loads(points[0]["value"])


def test_frames_that_do_not_say_their_telescope(tom: RealTom, tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    table = pq.read_table(folder / "photometry.parquet").to_pylist()
    pq.write_table(
        pa.Table.from_pylist([row | {"telescope": ""} for row in table]), folder / "photometry.parquet"
    )
    assert publish(folder)["points"] == 6
    assert {point["telescope"] for point in held(tom, folder)} == {"unknown"}


def test_the_tom_of_its_own_file(tom: RealTom, tmp_path: Path) -> None:
    info = tom.info
    login = f"url: {info.url}\ntom_user_id: {info.user}\ntom_password: {info.password}\n"
    (tmp_path / "tom_config.yaml").write_text(login + "create_targets: missing\n")
    folder = dataset(tmp_path, file="../../../tom_config.yaml")
    result = publish(folder, tom="tom_nowhere")
    assert (result["tom"], result["points"]) == (info.url, 6)
    (tmp_path / "tom_config.yaml").write_text(login)
    with pytest.raises(AirflowFailException, match="no such target"):
        publish(dataset(tmp_path, file=str(tmp_path / "tom_config.yaml")))
    with pytest.raises(AirflowFailException, match=r"nowhere\.yaml"):
        publish(dataset(tmp_path, file="/nowhere.yaml"))


def test_what_is_not_to_be_published(tom: RealTom, tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    asked = {"publish": "after approval"}
    for params, says in (
        ({"upload": False}, "tom.upload is off"),
        ({"publish": "no"}, "Not published"),
        ({"dry_run": True}, "Dry run"),
        (asked, "Nobody has approved"),
        (asked | {"xcoms": {"approve": answer("Reject", "clouds")}}, "rejected by ana: clouds"),
    ):
        with pytest.raises(AirflowSkipException, match=says):
            publish(folder, **params)
    with pytest.raises(AirflowSkipException, match="was not reduced"):
        PublishDatasetOperator(task_id="x", dataset=None).execute(context(publish="yes"))
    assert held(tom, folder) == []
    assert publish(folder, {"approve": answer("Approve")}, **asked)["points"] == 6


def test_datasets_that_cannot_be_published(tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match=r"filter_label .* key tom\.data_label"):
        publish(dataset(tmp_path, label="OGLE/MOA"))
    folder = dataset(tmp_path, n=0)
    table = pq.read_table(folder / "photometry.parquet")
    pq.write_table(table.slice(2), folder / "photometry.parquet")  # the saturated frame only
    with pytest.raises(AirflowSkipException, match="No frame tells"):
        publish(folder)
    pq.write_table(table.drop_columns("zero_point"), folder / "photometry.parquet")
    with pytest.raises(AirflowFailException, match=r"zero_point.*reduce the dataset again"):
        publish(folder)
    (folder / "photometry.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(AirflowFailException, match=r"cannot be read.*photometry\.parquet"):
        publish(folder)
    (folder / "photometry.parquet").unlink()
    with pytest.raises(AirflowSkipException, match="no photometry"):
        publish(folder)
    folder = dataset(tmp_path)
    (folder / "reduction_summary.json").unlink()
    with pytest.raises(AirflowFailException, match=r"reduction_summary\.json"):
        publish(folder)


def test_the_file_of_a_reduction_says_the_same(tom: RealTom, tmp_path: Path) -> None:
    truth = make_dataset(tmp_path / "data", label="mine")
    reduce_dataset(truth.folder)
    assert publish(truth.folder)["points"] == 8
    (path,) = truth.folder.glob("*_lc.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    (target,) = tom.sql("SELECT id FROM tom_targets_basetarget WHERE name = ?", "OGLE-2024-BLG-0034")
    points = tom.points(target[0])
    assert [point["source_location"] for point in points] == [f"image={row['image']}" for row in rows]
    for row, point in zip(rows, points, strict=True):
        assert point["bandpass"] == row["filter"] == "mine_ip"
        assert Time(point["timestamp"], scale="utc").mjd == pytest.approx(float(row["time"]), abs=1e-8)
        assert point["brightness"] == pytest.approx(float(row["magnitude"]), abs=1e-5)
        assert point["brightness_error"] == pytest.approx(float(row["error"]), abs=1e-5)
        assert (point["telescope"], point["instrument"]) == (row["telescope"], row["instrument"])
        assert json.loads(point["value"])["zero_point"] == pytest.approx(float(row["zero_point"]), abs=1e-4)

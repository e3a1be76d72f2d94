"""Alert packets as any reader of Avro finds them, against the rows of the APDB and the images' pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
import sqlalchemy
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, VarianceUncertainty
from lsst.alert.packet import Schema, retrieve_alerts
from lsst.daf.butler import Butler
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import NoWorkFound, PipelineGraph
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor

from reduction import alert_field as field
from tololo.engine.apdb_writers import retry_is_safe
from tololo.facility.errors import BadInputError
from tololo.reduction.alerts import alert_schema, pack, schema_version
from tololo.reduction.ephemerides import ss_object_id
from tololo.reduction.tasks.package_alerts import PackageAlertsConfig, PackageAlertsTask

FIRST, SECOND = field.VISITS
CUTOUTS = {
    "cutoutDifference": "difference_image",
    "cutoutScience": "visit_image",
    "cutoutTemplate": "template_detector",
}


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> field.AlertField:
    """Two nights whose alerts have been written."""
    nights = field.build(tmp_path_factory.mktemp("alerts"))
    for visit in field.VISITS:
        package(nights, visit)
    return nights


def config_of(nights: field.AlertField) -> PackageAlertsConfig:
    return PackageAlertsConfig(apdb_config=str(nights.apdb_config))


def package(nights: field.AlertField, visit: int, output: str = "alerts") -> None:
    inputs = [field.chain_of(visit)]
    with SimplePipelineExecutor.prep_butler(str(nights.repository), inputs, f"{output}/{visit}") as butler:
        executor = SimplePipelineExecutor.from_task_class(
            PackageAlertsTask, config=config_of(nights), butler=butler
        )
        assert len(executor.run(register_dataset_types=True)) == 1


def file_of(nights: field.AlertField, visit: int, output: str = "alerts") -> Path:
    with Butler.from_config(str(nights.repository)) as butler:
        uri = butler.getURI(
            "alert_packets",
            instrument="DECam",
            visit=visit,
            detector=field.DETECTOR,
            collections=f"{output}/{visit}",
        )
        return Path(uri.ospath)


def read(nights: field.AlertField, visit: int, output: str = "alerts") -> list[dict[str, Any]]:
    with open(file_of(nights, visit, output), "rb") as file:
        return [dict(record) for record in fastavro.reader(file)]


def row_of(nights: field.AlertField, table: str, **equal: Any) -> dict[str, Any]:
    """A row as the database has it."""
    engine = sqlalchemy.create_engine(f"sqlite:///{nights.apdb_config.with_suffix('.db')}")
    there = sqlalchemy.Table(table, sqlalchemy.MetaData(), autoload_with=engine)
    query = sqlalchemy.select(there).where(*(there.c[key] == value for key, value in equal.items()))
    with engine.begin() as connection:
        (row,) = connection.execute(query)
    return dict(row._mapping)


def assert_same(told: dict[str, Any], row: dict[str, Any]) -> None:
    for name, value in told.items():
        if isinstance(value, float):
            assert value == pytest.approx(row[name], rel=1e-6), name
        else:
            assert value == row[name], name


def test_the_file_is_avro_in_the_latest_schema_of_lsst(nights: field.AlertField) -> None:
    path = file_of(nights, SECOND)
    assert path.suffix == ".avro"
    with open(path, "rb") as file:
        schema, records = retrieve_alerts(file)
        alerts = list(records)
    assert schema.definition["name"] == Schema.from_file().definition["name"]
    assert f"v{schema_version().replace('.', '_')}" in schema.definition["name"]
    assert all(alert_schema().validate(alert) for alert in alerts)
    assert [alert["diaSourceId"] for alert in alerts] == field.sources_of(SECOND)["diaSourceId"].tolist()


def test_the_butler_gives_the_same_alerts(nights: field.AlertField) -> None:
    with Butler.from_config(str(nights.repository)) as butler:
        packets = butler.get(
            "alert_packets",
            instrument="DECam",
            visit=SECOND,
            detector=field.DETECTOR,
            collections=f"alerts/{SECOND}",
        )
    assert packets.records() == read(nights, SECOND)
    assert packets.schema["name"] == alert_schema().definition["name"]
    assert packets.content == file_of(nights, SECOND).read_bytes()


def test_fields_are_the_rows_of_the_apdb(nights: field.AlertField) -> None:
    alert = read(nights, SECOND)[0]
    source = row_of(nights, "DiaSource", diaSourceId=alert["diaSourceId"])
    assert_same(alert["diaSource"], source)
    assert alert["diaSource"]["psfFlux"] == -3000.0
    assert alert["diaSource"]["isNegative"] is True
    assert alert["diaSource"]["glint_trail"] is None  # nobody has measured it
    assert alert["diaSource"]["ssObjectId"] is None
    star = nights.object_of(field.STAR)
    assert alert["diaObject"]["diaObjectId"] == star
    assert_same(alert["diaObject"], row_of(nights, "DiaObject", diaObjectId=star, validityEndMjdTai=None))
    assert alert["diaObject"]["nDiaSources"] == 2
    (before,) = alert["prvDiaSources"]
    assert_same(before, row_of(nights, "DiaSource", visit=FIRST, diaObjectId=star))
    assert [row["visit"] for row in alert["prvDiaForcedSources"]] == [FIRST, SECOND]
    for row in alert["prvDiaForcedSources"]:
        assert_same(row, row_of(nights, "DiaForcedSource", visit=row["visit"], diaObjectId=star))


def test_an_alert_tells_nothing_of_later_visits(nights: field.AlertField) -> None:
    (alert,) = read(nights, FIRST)
    assert alert["diaObject"]["nDiaSources"] == 1
    assert alert["prvDiaSources"] == []
    assert [row["visit"] for row in alert["prvDiaForcedSources"]] == [FIRST]


def test_history_ends_where_it_is_told_to(nights: field.AlertField) -> None:
    task = PackageAlertsTask(
        config=PackageAlertsConfig(apdb_config=str(nights.apdb_config), history_days=0.5)
    )
    handles = {name: Handle(field.images_of(SECOND)[kind]) for name, kind in CUTOUTS.items()}
    alert = task.package(nights.apdb, SECOND, field.DETECTOR, handles).records()[0]
    assert alert["prvDiaSources"] == []
    assert [row["visit"] for row in alert["prvDiaForcedSources"]] == [SECOND]


class Handle:
    def __init__(self, image: Any) -> None:
        self.image = image

    def get(self) -> Any:
        return self.image


def test_a_known_body_has_no_object_but_says_who_it_is(nights: field.AlertField) -> None:
    alert = read(nights, SECOND)[list(field.FLUXES[SECOND]).index(field.BODY)]
    source, body = alert["diaSource"], alert["ssSource"]
    assert alert["diaObject"] is None
    assert (source["diaObjectId"], alert["prvDiaSources"], alert["prvDiaForcedSources"]) == (None, [], [])
    assert source["ssObjectId"] == body["ssObjectId"] == ss_object_id(field.NAME)
    assert body["designation"] == field.NAME
    place = SkyCoord(source["ra"], source["dec"], unit="deg")
    again = SkyCoord(body["galLon"], body["galLat"], unit="deg", frame="galactic").icrs
    assert place.separation(again).arcsec < 1e-3
    assert all(other["ssSource"] is None for other in read(nights, SECOND)[:2])


@pytest.mark.parametrize(("cutout", "kind"), CUTOUTS.items())
def test_cutouts_are_the_pixels_around_the_source(nights: field.AlertField, cutout: str, kind: str) -> None:
    image = field.images_of(SECOND)[kind]
    for alert in read(nights, SECOND):
        stamp = CCDData.read(io.BytesIO(alert[cutout]))
        assert (stamp.shape, stamp.unit) == ((31, 31), "nJy")
        assert isinstance(stamp.uncertainty, VarianceUncertainty)
        x, y = alert["diaSource"]["x"], alert["diaSource"]["y"]
        x0, y0 = int(x + 0.5) - 15, int(y + 0.5) - 15
        left, bottom = max(0, -x0), max(0, -y0)
        pixels = image.image.array[y0 + bottom : y0 + 31, x0 + left : x0 + 31]
        inside = stamp.data[bottom : bottom + pixels.shape[0], left : left + pixels.shape[1]]
        # The repository keeps images in steps of a sixteenth of their noise.
        np.testing.assert_allclose(inside, pixels, atol=20 / 16)
        assert np.isnan(stamp.data).sum() == 31 * 31 - pixels.size
        assert np.all(stamp.mask[np.isnan(stamp.data)])
        # The place of the source, and of two corners, on the sky.
        middle = stamp.wcs.all_pix2world([[x - x0, y - y0]], 0)[0]
        assert middle == pytest.approx([alert["diaSource"]["ra"], alert["diaSource"]["dec"]], abs=1e-7)
        corners = np.array([[0.0, 0.0], [30.0, 30.0]])
        truth = field.wcs_of(SECOND).all_pix2world(corners + np.array([x0, y0]), 0)
        np.testing.assert_allclose(stamp.wcs.all_pix2world(corners, 0), truth, atol=1e-7)
        assert (stamp.psf is None) == (kind == "template_detector")
        if stamp.psf is not None:
            assert stamp.psf.sum() == pytest.approx(1, abs=1e-5)


def test_a_source_at_the_edge_has_a_whole_cutout(nights: field.AlertField) -> None:
    alert = read(nights, SECOND)[list(field.FLUXES[SECOND]).index(field.EDGE)]
    stamp = CCDData.read(io.BytesIO(alert["cutoutDifference"]))
    x, y = field.pixel_of(SECOND, field.EDGE)
    assert (stamp.header["CUTMINX"], stamp.header["CUTMINY"]) == (int(x + 0.5) - 16, int(y + 0.5) - 16)
    beyond = np.isnan(stamp.data).all(axis=0)
    assert beyond.tolist() == [column < 15 - int(x + 0.5) for column in range(31)]
    assert beyond.sum() == 5
    assert np.nanmax(stamp.data) == np.nanmax(stamp.data[14:17, 14:17])


def test_run_again_it_writes_the_same_file(nights: field.AlertField) -> None:
    package(nights, FIRST, "again")
    assert file_of(nights, FIRST, "again").read_bytes() == file_of(nights, FIRST).read_bytes()


def test_what_the_apdb_does_not_hold_has_no_alerts(nights: field.AlertField, tmp_path: Path) -> None:
    empty = field.new_apdb(tmp_path / "empty")
    task = PackageAlertsTask(config=PackageAlertsConfig(apdb_config="here"))
    with pytest.raises(
        NoWorkFound, match=f"visit {FIRST}, detector 28: the APDB 2019_meanclip holds nothing"
    ):
        task.package(empty, FIRST, field.DETECTOR, {})


def test_a_detector_without_sources_has_an_empty_file_and_needs_no_image() -> None:
    packets = pack([])
    assert packets.records() == []
    with io.BytesIO(packets.content) as file:
        schema, records = retrieve_alerts(file)
    assert (schema.definition["name"], list(records)) == (alert_schema().definition["name"], [])


def test_an_alert_without_what_it_must_have_is_refused(nights: field.AlertField) -> None:
    record = read(nights, FIRST)[0]
    del record["diaSource"]["midpointMjdTai"]
    with pytest.raises(BadInputError, match="missing") as error:
        pack([record])
    assert "midpointMjdTai" in error.value.where
    with pytest.raises(BadInputError, match="There is no"):
        pack([{"diaSourceId": 5}])


def test_a_cutout_has_a_middle() -> None:
    with pytest.raises(FieldValidationError, match="stamp_pixels"):
        PackageAlertsConfig(stamp_pixels=30)


def test_it_may_be_run_again_whatever_became_of_it(nights: field.AlertField) -> None:
    graph = PipelineGraph()
    graph.add_task("packageAlerts", PackageAlertsTask, config_of(nights))
    assert retry_is_safe(graph.tasks["packageAlerts"])

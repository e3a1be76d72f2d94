"""The pages of candidates in Airflow's real web application, with a real APDB and real images behind them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from astropy.table import Table
from fastapi.testclient import TestClient
from lsst.daf.butler import Butler
from PIL import Image

from reduction import alert_field as field
from tololo.engine.candidate_questions import candidate_plot, candidates
from tololo.engine.questions import QUESTIONS
from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.operators.tom_sources import read_targets
from tololo.pages.views import PREFIX

from .conftest import token

Get = Callable[[str], Any]
FIRST, SECOND = field.VISITS


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> field.AlertField:
    return field.build(tmp_path_factory.mktemp("candidates"))


@pytest.fixture(autouse=True)
def connections(nights: field.AlertField, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The facility's connections lead to these nights."""
    extra = {"backend": "sqlite", "config_folder": str(nights.apdb_config.parent)}
    butler = {"conn_type": "butler", "host": str(nights.repository)}
    monkeypatch.setenv("AIRFLOW_CONN_APDB_DEFAULT", json.dumps({"conn_type": "apdb", "extra": extra}))
    monkeypatch.setenv("AIRFLOW_CONN_BUTLER_DEFAULT", json.dumps(butler))


@pytest.fixture
def star(nights: field.AlertField) -> int:
    return nights.object_of(field.STAR)


def ask(question: str, nights: field.AlertField, **arguments: Any) -> Any:
    answer = QUESTIONS[question](config=str(nights.apdb_config), **arguments)
    json.dumps(answer, allow_nan=False)  # it goes to another process
    return answer


def test_candidates_are_listed_the_newest_first(viewer: Get, star: int) -> None:
    found = viewer("candidates.json").json()
    assert (found["name"], found["apdb"]["counts"]["DiaObject"]) == (field.APDB, 2)
    assert [row["sources"] for row in found["candidates"]] == [2, 1]
    row = found["candidates"][0]
    assert (row["diaObjectId"], row["bands"], row["band"]) == (star, {"r": 2}, "r")
    assert (row["psfFlux"], row["psfFluxErr"]) == (-3000.0, field.ERROR)
    assert row["last"] == pytest.approx(field.context_of(SECOND).midpoint_mjd_tai, abs=1e-9)
    page = viewer("candidates").text
    for text in (
        f'href="{PREFIX}/candidates/{star}?apdb={field.APDB}"',
        "−3.00 ± 0.10",
        "2019-04-03 04:00",
        "2019/meanclip/coadd",
        "<b>the latest detection</b>",
    ):
        assert text in page


def test_the_most_significant_go_first_if_asked(nights: field.AlertField, viewer: Get, star: int) -> None:
    rows = viewer("candidates.json?order=significant").json()["candidates"]
    # The transient has 90 sigma; the star's two detections have a mean of 1000 nJy.
    assert [round(row["significance"]) for row in rows] == [90, 14]
    assert rows[1]["diaObjectId"] == star
    assert "<b>the most significant</b>" in viewer("candidates?order=significant").text
    first = ask("candidates", nights, order="significant", limit=1)
    assert ([row["diaObjectId"] for row in first["candidates"]], first["more"]) == (
        [rows[0]["diaObjectId"]],
        True,
    )
    second = ask("candidates", nights, order="significant", limit=1, offset=1)
    assert ([row["diaObjectId"] for row in second["candidates"]], second["more"]) == ([star], False)
    assert "No further" in viewer("candidates?after=100").text


def test_a_candidate_shows_its_points_and_detections(viewer: Get, star: int) -> None:
    told = viewer(f"candidates/{star}.json").json()
    assert [(row["visit"], row["kind"]) for row in told["light_curve"]] == [
        (FIRST, "detected"),
        (FIRST, "forced"),
        (SECOND, "detected"),
        (SECOND, "forced"),
    ]
    assert [row["visit"] for row in told["detections"]] == [SECOND, FIRST]
    page = viewer(f"candidates/{star}").text
    for text in (f"diaObject {star}", "5.00 ± 0.10", "detector 28", "light_curve.parquet", told["target"]):
        assert text in page
    for row in told["detections"]:
        assert f"{PREFIX}/candidates/{star}/cutouts/{row['diaSourceId']}.png?apdb={field.APDB}" in page


def test_every_address_on_the_pages_is_there(viewer: Get, client: TestClient, star: int) -> None:
    headers = {"Authorization": f"Bearer {token('viewer')}"}
    for start in ("candidates", f"candidates/{star}"):
        text = viewer(start).text.replace("&amp;", "&")
        parts = [part.split('"')[0] for key in ('href="', 'src="') for part in text.split(key)[1:]]
        links = {part for part in parts if part.startswith(f"{PREFIX}/candidates")}
        assert links
        for link in links:
            answer = client.get(link, headers=headers)
            assert (answer.status_code, urlsplit(link).path) == (200, urlsplit(link).path)


def test_the_plot_is_a_picture(viewer: Get, star: int) -> None:
    answer = viewer(f"candidates/{star}/plot.png")
    assert answer.headers["content-type"] == "image/png"
    picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
    assert picture.shape[1] > 1000
    assert picture.std() > 5


def test_cutouts_show_what_is_in_the_images(viewer: Get, nights: field.AlertField, star: int) -> None:
    bright, faint = field.sources_of(FIRST)["diaSourceId"][0], field.sources_of(SECOND)["diaSourceId"][0]
    pictures = []
    for source in (bright, faint):
        answer = viewer(f"candidates/{star}/cutouts/{source}.png")
        assert answer.headers["content-type"] == "image/png"
        pictures.append(np.asarray(Image.open(io.BytesIO(answer.content)), dtype=float))
    size, step = 31 * 5, 33 * 5
    assert pictures[0].shape == (size, 2 * step + size)
    middle = np.s_[size // 2 - 5 : size // 2 + 5]
    for picture, is_dark in zip(pictures, (True, False), strict=True):
        science, template, difference = (picture[:, n * step : n * step + size] for n in range(3))
        # What has brightened is darker than the sky on the difference, what has faded is lighter.
        assert (difference[middle, middle].mean() < difference.mean() - 40) == is_dark
        assert (difference[middle, middle].mean() > difference.mean() + 40) == (not is_dark)
        assert abs(template[middle, middle].mean() - template.mean()) < 40
        assert science.std() > 5


def test_a_cutout_at_the_edge_is_whole(viewer: Get, nights: field.AlertField) -> None:
    row = list(field.FLUXES[SECOND]).index(field.EDGE)
    source = field.sources_of(SECOND)["diaSourceId"][row]
    answer = viewer(f"candidates/{nights.object_of(field.EDGE)}/cutouts/{source}.png")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    difference = picture[:, 2 * 33 * 5 :]
    darkest = np.argwhere(difference == difference.min()).mean(axis=0)
    assert darkest / 5 == pytest.approx(15.5, abs=0.8)
    assert np.all(difference[:, :25] == 190)  # beyond the edge
    assert np.any(difference[:, 25:30] != 190)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_light_curve_can_be_taken_away(viewer: Get, star: int, kind: str) -> None:
    answer = viewer(f"candidates/{star}/light_curve.{kind}")
    assert f'filename="diaObject_{star}.{kind}"' in answer.headers["content-disposition"]
    file = io.BytesIO(answer.content)
    table = Table.read(file, format={"csv": "ascii.ecsv"}.get(kind, kind))
    assert table["psfFlux"].tolist() == [5000.0, 12.5, -3000.0, 12.5]
    assert (table["mjd_tai"].unit, table["psfFlux"].unit) == ("d", "nJy")


def test_the_target_that_is_told_is_this_object(viewer: Get, nights: field.AlertField, star: int) -> None:
    from tololo.hooks.apdb import ApdbHook

    ((name, ra, dec),) = read_targets(viewer(f"candidates/{star}.json").json()["target"])
    assert name == f"Tololo-{star}"
    assert list(ApdbHook().objects_near(field.APDB, ra, dec, 0.1)["diaObjectId"]) == [star]


@pytest.mark.parametrize(
    ("page", "status", "text"),
    [
        ("candidates/5", 400, "There is no diaObject 5"),
        ("candidates/5/plot.png", 400, "There is no diaObject 5"),
        ("candidates/five", 400, "&#39;five&#39; cannot be"),
        ("candidates?order=loudest", 400, "Candidates have no order"),
        ("candidates?apdb=2031_mean", 404, "There is no APDB 2031_mean yet"),
        ("candidates?apdb=../secret", 400, "cannot be the name of an APDB"),
    ],
)
def test_what_is_not_there_is_told(viewer: Get, page: str, status: int, text: str) -> None:
    answer = viewer(page)
    assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert "Traceback" not in answer.text


def test_what_a_candidate_does_not_have_is_told(viewer: Get, nights: field.AlertField, star: int) -> None:
    assert "no kind" in viewer(f"candidates/{star}/light_curve.fits").text.replace(
        "no light curve of kind", "no kind"
    )
    answer = viewer(f"candidates/{star}/cutouts/77.png")
    assert (answer.status_code, "none of the last detections" in answer.text) == (400, True)


def test_images_that_are_gone_are_told(nights: field.AlertField, star: int) -> None:
    with Butler.from_config(str(nights.repository), writeable=True) as butler:
        chain = field.chain_of(FIRST)
        runs = butler.collections.get_info(chain).children
        butler.collections.redefine_chain(chain, [])
        try:
            source = int(field.sources_of(FIRST)["diaSourceId"][0])
            with pytest.raises(NothingToDoError, match=f"no visit_image of visit {FIRST}"):
                ask(
                    "candidate_cutouts",
                    nights,
                    repository=str(nights.repository),
                    dia_object_id=star,
                    dia_source_id=source,
                )
        finally:
            butler.collections.redefine_chain(chain, runs)


@pytest.mark.parametrize("page", ["candidates", "candidates.json", "candidates/5", "candidates/5/plot.png"])
def test_nobody_reads_without_a_login(client: TestClient, page: str) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}):
        assert client.get(f"{PREFIX}/{page}", headers=headers).status_code in (401, 403)
    refused = client.get(f"{PREFIX}/{page}", headers={"Authorization": f"Bearer {token(None)}"})
    assert refused.status_code == 403


def test_an_apdb_that_was_made_anew_is_opened_anew(tmp_path: Any) -> None:
    for visits, expected in (((FIRST,), 1), (tuple(field.VISITS), 2)):
        apdb = field.new_apdb(tmp_path)
        field.associate(apdb, tmp_path, *visits)
        config = str(tmp_path / f"{field.APDB}.yaml")
        assert len(candidates(config)["candidates"]) == expected
        apdb._engine.dispose()
        for path in tmp_path.glob(f"{field.APDB}.*"):
            path.unlink()
    with pytest.raises(NothingToDoError, match=f"no APDB {field.APDB} yet"):
        candidates(config)


def test_a_database_that_is_away_is_told(tmp_path: Any) -> None:
    config = tmp_path / "away.yaml"
    field.new_apdb(tmp_path)
    text = (tmp_path / f"{field.APDB}.yaml").read_text()
    here = next(line for line in text.splitlines() if line.startswith("db_url"))
    config.write_text(text.replace(here, "db_url: postgresql+psycopg2://nobody@127.0.0.1:1/nothing"))
    credentials = {"url": "postgresql://127.0.0.1:1/nothing", "username": "nobody", "password": "secret"}
    with pytest.raises(UnavailableError, match="does not answer") as error:
        candidates(str(config), credentials)
    assert "secret" not in str(error.value)
    (tmp_path / "broken.yaml").write_text("nothing: [")
    with pytest.raises(BadInputError, match="no usable"):
        candidate_plot(str(tmp_path / "broken.yaml"), 5)

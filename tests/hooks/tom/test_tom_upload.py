"""Light curves into a real TOM Toolkit server, over networks and servers that fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.time import Time

from tololo import __version__
from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.lightcurve import LightCurve
from tololo.facility.tom import Target, UploadResult
from tololo.hooks.tom import TomHook
from tololo.services import tom as tom_service

from .server import DEC, INSTALLED, RA, Fault, MakeHook, Proxy, RealTom, check_holds, light_curve

pytestmark = [pytest.mark.services, INSTALLED]

POST = "/api/dataproducts/"
DELETE = "/api/dataproducts/"


def test_upload(hook: MakeHook, target: Target, tom: RealTom) -> None:
    tom_hook, curve = hook(groups=tom_service.GROUP), light_curve()
    result = tom_hook.upload_light_curve(target, curve, "diffim")
    assert (result.status, result.n_points, result.deleted) == ("created", 12, ())
    check_holds(tom, target, curve, result)

    points = tom_hook.points(target)
    truth = Time([p.mjd for p in curve.points], format="mjd", scale="tai").utc.mjd
    assert [p.mjd_utc for p in points] == pytest.approx(list(truth), abs=1e-6 / 10)
    assert [p.magnitude is None for p in points] == [True] * 4 + [False] * 8
    assert points[-1].magnitude == pytest.approx(31.4 - 2.5 * 2.892095, abs=1e-6)  # 780 nJy
    assert points[-1].magnitude_error == pytest.approx(1.085736 * 20 / 780, abs=1e-6)
    assert {(p.telescope, p.instrument) for p in points} == {("CTIO 4.0-m", "DECam")}
    assert [p.filter for p in points] == ["z", "r"] * 6

    first = tom.points(target.id)[0]
    assert first["limit"] == pytest.approx(31.4 - 2.5 * 2, abs=1e-6)  # 5 sigma = 100 nJy
    assert (first["unit"], first["source_name"]) == ("AB", "tololo")
    extra = json.loads(first["value"])
    assert (extra["time_scale"], extra["zero_point"], extra["flux_njy"]) == ("UTC", 31.4, -20.0)
    assert extra["pipeline_version"] == f"tololo {__version__}"
    assert extra["time_format"] == "mjd"
    assert extra["mjd_tai"] == pytest.approx(curve.points[0].mjd, abs=1e-9)


def test_same_again_changes_nothing(hook: MakeHook, target: Target, tom: RealTom, proxy: Proxy) -> None:
    curve = light_curve()
    first = hook().upload_light_curve(target, curve, "diffim")
    before = tom.points(target.id)
    turned = replace(curve, points=curve.points[::-1])
    again = hook(proxy.url).upload_light_curve(target, turned, "diffim")
    assert again == replace(first, status="unchanged")
    assert tom.points(target.id) == before
    assert {method for method, _ in proxy.seen} == {"GET"}


def test_one_point_changed(hook: MakeHook, target: Target, tom: RealTom) -> None:
    tom_hook, old, new = hook(), light_curve(), light_curve(flux_njy=700.0)
    first = tom_hook.upload_light_curve(target, old, "diffim")
    second = tom_hook.upload_light_curve(target, new, "diffim")
    assert (second.status, second.deleted) == ("created", (first.product_id,))
    check_holds(tom, target, new, second)  # the eleven points that both versions share survive the deletion
    longer = light_curve(13)
    check_holds(tom, target, longer, tom_hook.upload_light_curve(target, longer, "diffim"))
    back = tom_hook.upload_light_curve(target, old, "diffim")
    check_holds(tom, target, old, back)


def test_labels_do_not_touch_each_other(hook: MakeHook, target: Target, tom: RealTom) -> None:
    tom_hook, curve = hook(), light_curve()
    labels = ["dataset_1", "dataset_10", "Dataset_1", "new dataset_1"]
    for label in labels:
        assert tom_hook.upload_light_curve(target, curve, label).status == "created"
    other = tom_hook.upload_light_curve(target, light_curve(flux_njy=700.0), "dataset_1")
    assert len(other.deleted) == 1
    assert len(tom.products(target.id)) == len(labels)
    assert len(tom.points(target.id)) == len(labels) * len(curve)
    for label in labels[1:]:
        assert tom_hook.upload_light_curve(target, curve, label).status == "unchanged"


def test_somebody_elses_products_stay(hook: MakeHook, target: Target, tom: RealTom) -> None:
    tom_hook = hook()
    form = {"target": target.id, "data_product_type": "photometry", "product_id": f"diffim{target.id}"}
    csv = b"time,magnitude,error,filter\n58161.3,20.1,0.1,z\n"
    tom_hook.get_conn().call("POST", POST, data=form, files={"file": ("diffim.csv", csv, "text/csv")})
    tom_hook.upload_light_curve(target, light_curve(), "diffim")
    tom_hook.upload_light_curve(target, light_curve(flux_njy=700.0), "diffim")
    assert len(tom.products(target.id)) == 2
    assert len(tom.points(target.id)) == 13


def test_night_of_the_leap_second(hook: MakeHook, target: Target) -> None:
    curve = light_curve()
    points = tuple(replace(p, mjd=57753.1 + i / 8) for i, p in enumerate(curve.points))
    hook().upload_light_curve(target, replace(curve, points=points), "diffim")
    truth = Time([p.mjd for p in points], format="mjd", scale="tai").utc.mjd
    assert [p.mjd_utc for p in hook().points(target)] == pytest.approx(list(truth), abs=1e-9)


def test_nothing_to_upload(hook: MakeHook, target: Target, tom: RealTom) -> None:
    curve = light_curve()
    hook().upload_light_curve(target, curve, "diffim")
    with pytest.raises(NothingToDoError, match="no points"):
        hook().upload_light_curve(target, replace(curve, points=()), "diffim")
    with pytest.raises(BadInputError, match="label"):
        hook().upload_light_curve(target, curve, " ")
    check_holds(tom, target, curve)


# Networks and servers that fail


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([Fault("GET", "/", "refuse", 3)], id="502 three times"),
        pytest.param(
            [Fault("POST", "/", "refuse", 3, 503), Fault("DELETE", "/", "refuse", 3, 429)], id="busy"
        ),
        pytest.param([Fault("POST", POST, "forget", status=500)], id="500 after storing"),
        pytest.param([Fault("POST", POST, "drop")], id="line lost after storing"),
        pytest.param([Fault("POST", POST, "hang", seconds=1.5)], id="no answer after storing"),
        pytest.param([Fault("DELETE", DELETE, "forget", status=500)], id="500 after deleting"),
        pytest.param([Fault("DELETE", DELETE, "drop")], id="line lost after deleting"),
        pytest.param([Fault("GET", "/api/reduceddatums/", "drop", 3)], id="line lost while reading"),
    ],
)
def test_faults_lose_and_double_nothing(
    hook: MakeHook, target: Target, tom: RealTom, proxy: Proxy, faults: list[Fault]
) -> None:
    old = hook().upload_light_curve(target, light_curve(), "diffim")
    proxy.faults = [replace(fault) for fault in faults]
    new = light_curve(flux_njy=700.0)
    result = hook(proxy.url, timeout=(1, 1)).upload_light_curve(target, new, "diffim")
    assert all(fault.times == 0 for fault in proxy.faults)
    assert (result.status, result.deleted) == ("created", (old.product_id,))
    check_holds(tom, target, new, result)


def test_deletion_that_is_only_said(hook: MakeHook, target: Target, tom: RealTom, proxy: Proxy) -> None:
    old = hook().upload_light_curve(target, light_curve(), "diffim")
    new = light_curve(flux_njy=700.0)
    for status in (200, 404):  # a page to log in, a proxy that lets no deletion pass
        proxy.faults = [Fault("DELETE", DELETE, "refuse", 1, status)]
        with pytest.raises(UnavailableError, match=f"product {old.product_id}, but has it still"):
            hook(proxy.url).upload_light_curve(target, new, "diffim")
    check_holds(tom, target, new, hook().upload_light_curve(target, new, "diffim"))


def test_a_long_label(hook: MakeHook, tom: RealTom) -> None:
    target = hook().find_target("OGLE-2024-BLG-0034 " + "long" * 5, ra=RA, dec=DEC)
    for label in ("x" * 100, "x" * 99 + "y"):
        hook().upload_light_curve(target, light_curve(), label)
    assert len(tom.points(target.id)) == 24


def test_server_that_stays_down(hook: MakeHook, target: Target, tom: RealTom) -> None:
    tom_hook, old, new = hook(), light_curve(), light_curve(flux_njy=700.0)
    tom_hook.upload_light_curve(target, old, "diffim")
    tom.kill()
    with pytest.raises(UnavailableError) as caught:
        tom_hook.upload_light_curve(target, new, "diffim")
    assert f"Where: {tom.info.url}/api/" in str(caught.value)
    assert "ConnectionError" in str(caught.value)
    assert "run again" in str(caught.value)
    tom.start()
    check_holds(tom, target, old)
    check_holds(tom, target, new, tom_hook.upload_light_curve(target, new, "diffim"))


def test_server_killed_between_upload_and_deletion(
    hook: MakeHook, target: Target, tom: RealTom, proxy: Proxy
) -> None:
    old, new = light_curve(), light_curve(flux_njy=700.0)
    first = hook().upload_light_curve(target, old, "diffim")
    proxy.faults = [Fault("DELETE", DELETE, "act", action=tom.kill)]
    with pytest.raises(UnavailableError, match=r"gave no answer .*502 no TOM behind the proxy"):
        hook(proxy.url).upload_light_curve(target, new, "diffim")
    tom.start()
    assert len(tom.products(target.id)) == 2
    assert len(tom.points(target.id)) == 24
    result = hook().upload_light_curve(target, new, "diffim")
    assert (result.status, result.deleted) == ("unchanged", (first.product_id,))
    check_holds(tom, target, new, result)


@pytest.mark.parametrize("left", [0, 5])
def test_upload_that_was_broken_off(hook: MakeHook, target: Target, tom: RealTom, left: int) -> None:
    """What a server leaves that died between the product and its points."""
    old, new = light_curve(), light_curve(flux_njy=700.0)
    hook().upload_light_curve(target, old, "diffim")
    broken = hook().upload_light_curve(target, new, "diffim")
    tom.sql(
        "DELETE FROM tom_dataproducts_photometryreduceddatum WHERE data_product_id = ? AND id NOT IN"
        " (SELECT id FROM tom_dataproducts_photometryreduceddatum WHERE data_product_id = ? LIMIT ?)",
        broken.product_id, broken.product_id, left,
    )  # fmt: skip
    assert len(tom.points(target.id)) == left
    result = hook().upload_light_curve(target, new, "diffim")
    assert (result.status, result.deleted) == ("created", (broken.product_id,))
    check_holds(tom, target, new, result)
    assert hook().upload_light_curve(target, new, "diffim").status == "unchanged"


def test_tom_that_keeps_another_light_curve(
    hook: MakeHook, target: Target, tom: RealTom, proxy: Proxy
) -> None:
    old, new = light_curve(), light_curve(flux_njy=700.0)
    hook().upload_light_curve(target, old, "diffim")
    magnitude = new.rows()[-1]["magnitude"].encode()
    origin = new.rows()[4]["source_location"].encode()

    def change_one(body: bytes) -> bytes:
        return body.replace(magnitude, b"20.000000")

    def leave_one_out(body: bytes) -> bytes:
        return b"\n".join(line for line in body.split(b"\n") if origin not in line)

    for rewrite, words in (
        (change_one, r"sent .*magnitude=24\.287.* kept .*magnitude=20\.0"),
        (leave_one_out, "11 points instead of 12"),
    ):
        proxy.faults = [Fault("POST", POST, "rewrite", action=rewrite)]
        with pytest.raises(BadInputError, match=words):
            hook(proxy.url).upload_light_curve(target, new, "diffim")
        check_holds(tom, target, old)
    check_holds(tom, target, new, hook().upload_light_curve(target, new, "diffim"))


# Two at once


def test_the_same_twice_at_once(hook: MakeHook, target: Target, tom: RealTom) -> None:
    hook().upload_light_curve(target, light_curve(), "diffim")
    new = light_curve(flux_njy=700.0)
    hooks = [hook(settle=5) for _ in range(4)]
    start = threading.Barrier(len(hooks))

    def upload(tom_hook: TomHook) -> UploadResult:
        tom_hook.url  # noqa: B018
        start.wait()
        return tom_hook.upload_light_curve(target, new, "diffim")

    with ThreadPoolExecutor(len(hooks)) as pool:
        results = list(pool.map(upload, hooks))
    assert len({result.product_id for result in results}) == 1
    check_holds(tom, target, new, results[0])


def test_different_ones_at_once(hook: MakeHook, target: Target, tom: RealTom) -> None:
    hook().upload_light_curve(target, light_curve(), "diffim")
    curves = [light_curve(flux_njy=700.0 + i) for i in range(4)]
    hooks = [hook(settle=5) for _ in curves]
    start = threading.Barrier(len(hooks))

    def upload(tom_hook: TomHook, curve: LightCurve) -> UploadResult | UnavailableError:
        start.wait()
        try:
            return tom_hook.upload_light_curve(target, curve, "diffim")
        except UnavailableError as error:
            return error

    with ThreadPoolExecutor(len(hooks)) as pool:
        results = list(pool.map(upload, hooks, curves))
    (product,) = tom.products(target.id)
    winners = [
        (c, r) for c, r in zip(curves, results, strict=True) if getattr(r, "product_id", None) == product
    ]
    assert len(winners) == 1
    check_holds(tom, target, *winners[0])
    assert all("Another run" in str(r) for r in results if isinstance(r, UnavailableError))


def test_overtaken_before_deletion(hook: MakeHook, target: Target, tom: RealTom, proxy: Proxy) -> None:
    hook().upload_light_curve(target, light_curve(), "diffim")
    slow, quick = light_curve(flux_njy=700.0), light_curve(flux_njy=710.0)
    overtaking: list[UploadResult] = []
    proxy.faults = [
        Fault(
            "DELETE",
            DELETE,
            "act",
            action=lambda: overtaking.append(hook().upload_light_curve(target, quick, "diffim")),
        )
    ]
    with pytest.raises(UnavailableError, match="Another run replaced"):
        hook(proxy.url).upload_light_curve(target, slow, "diffim")
    check_holds(tom, target, quick, overtaking[0])


# Times


def test_tom_that_reads_no_julian_dates(hook: MakeHook, target: Target, tom: RealTom) -> None:
    curve = light_curve()
    hook().upload_light_curve(target, curve, "diffim")
    with pytest.raises(BadInputError, match=r"another light curve than was sent.*takes time for JD"):
        hook(time_format="jd").upload_light_curve(target, curve, "diffim")
    check_holds(tom, target, curve)


@pytest.fixture
def julian_tom(tom: RealTom) -> Iterator[RealTom]:
    """The TOM with a reader of photometry that takes large times for Julian Dates, as some TOMs have."""
    folder = tom.home.root / "tom"
    settings = folder / "tom_settings.py"
    usual = settings.read_text()
    (folder / "julian.py").write_text(JULIAN)
    settings.write_text(f'{usual}\nDATA_PROCESSORS["photometry"] = "julian.JulianProcessor"\n')
    tom.stop()
    tom.start()
    yield tom
    settings.write_text(usual)  # for the next start; until then MJDs are read as ever


JULIAN = """
from astropy.time import Time, TimezoneInfo
from tom_dataproducts.processors.photometry_processor import PhotometryProcessor


class JulianProcessor(PhotometryProcessor):
    def _process_photometry_from_plaintext(self, data_product):
        points = super()._process_photometry_from_plaintext(data_product)
        for point in points:
            if point["time"] > 2400000.5:
                point["timestamp"] = Time(point["time"], format="jd").to_datetime(timezone=TimezoneInfo())
        return points
"""


def test_tom_that_reads_julian_dates(hook: MakeHook, target: Target, julian_tom: RealTom) -> None:
    curve = light_curve()
    first = hook(time_format="jd").upload_light_curve(target, curve, "diffim")
    check_holds(julian_tom, target, curve, first)
    assert hook(time_format="jd").upload_light_curve(target, curve, "diffim").status == "unchanged"

    second = hook(time_format="hjd").upload_light_curve(target, curve, "diffim")
    assert second.deleted == (first.product_id,)
    place = EarthLocation.from_geodetic(-70.81489, -30.16606, 2215)
    times = Time([p.mjd for p in curve.points], format="mjd", scale="tai", location=place).utc
    delay = times.light_travel_time(SkyCoord(RA, DEC, unit="deg"), "heliocentric", ephemeris="builtin")
    kept = [point.mjd_utc for point in hook().points(target)]
    assert kept == pytest.approx(list((times + delay).mjd), abs=1e-8)
    extra = json.loads(julian_tom.points(target.id)[0]["value"])
    assert (extra["time_format"], extra["hjd_utc"]) == ("hjd", pytest.approx((times + delay).jd[0], abs=1e-8))

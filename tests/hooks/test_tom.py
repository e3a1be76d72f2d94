"""Light curves into a real TOM Toolkit server, over networks and servers that fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from itertools import count

import pytest
from astropy.time import Time

import tololo.hooks.tom as tom_module
from tololo.facility.errors import BadInputError, NothingToDoError, UnavailableError
from tololo.facility.lightcurve import LightCurve, PhotometryPoint
from tololo.facility.tom import Target, UploadResult
from tololo.hooks.rest import address
from tololo.hooks.tom import TomHook
from tololo.services import tom as tom_service
from tololo.services.home import Home

from .tom_server import Fault, Proxy, RealTom

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        not (tom_service.environment_folder() / "bin" / "python").exists(),
        reason="the TOM's environment .venv-tom is not installed",
    ),
]

RA, DEC = 186.744, 25.462
POST = "/api/dataproducts/"
DELETE = "/api/dataproducts/"
_numbers = count(1)

MakeHook = Callable[..., TomHook]


@pytest.fixture(scope="module")
def tom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealTom]:
    server = RealTom(Home(root=tmp_path_factory.mktemp("home"), tom_port=18001))
    yield server
    server.stop()


@pytest.fixture
def proxy(tom: RealTom) -> Iterator[Proxy]:
    proxy = Proxy(tom.info.url)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def hook(tom: RealTom, monkeypatch: pytest.MonkeyPatch) -> MakeHook:
    """Make hooks that lose patience soon."""

    def make(
        url: str = tom.info.url, token: str = tom.info.token, login: str | None = None, **options: object
    ) -> TomHook:
        name = f"tom_{next(_numbers)}"
        connection = {"conn_type": "tom", "host": url, "login": login, "password": token}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        return TomHook(
            name, **({"backoff": 0.02, "timeout": (2, 20), "attempts": 4, "settle": 0.3} | options)
        )

    return make


@pytest.fixture
def target(hook: MakeHook) -> Target:
    return hook().find_target(f"AT 2018t{next(_numbers)}", ra=RA, dec=DEC, create=True)


def light_curve(n: int = 12, **changes: object) -> LightCurve:
    """A rising transient of February 2018, the first third below the threshold, in z and r by turns."""
    points = [
        PhotometryPoint(
            mjd=58161.25 + 0.9 * i + 0.000123456,
            time_scale="TAI",
            flux_njy=-20.0 + 100 * max(0, i - n // 3 + 1),
            flux_err_njy=20.0,
            band="zr"[i % 2],
            visit=712000 + i,
            detector=29,
            dia_object_id=2**62 + 1,
        )
        for i in range(n)
    ]
    points[-1] = replace(points[-1], **changes)
    return LightCurve("AT 2018", RA, DEC, tuple(points))


def check_holds(tom: RealTom, target: Target, curve: LightCurve, result: UploadResult | None = None) -> None:
    """The TOM's database has one product of the target, and each point of the light curve once, as sent."""
    (product,) = tom.products(target.id)
    points = tom.points(target.id)
    rows = curve.rows()
    assert [point["source_location"] for point in points] == [row["source_location"] for row in rows]
    for point, row in zip(points, rows, strict=True):
        assert point["data_product_id"] == product
        mjd = Time(datetime.fromisoformat(point["timestamp"]), scale="utc").mjd
        assert mjd == pytest.approx(float(row["time"]), abs=1e-9)
        for kept, sent in (("brightness", "magnitude"), ("brightness_error", "error"), ("limit", "limit")):
            assert point[kept] == (pytest.approx(float(row[sent]), abs=1e-9) if row[sent] else None)
        assert point["bandpass"] == row["filter"]
    if result:
        assert (result.product_id, result.n_points) == (product, len(curve))
        assert {point["reduction_version"] for point in points} == {result.reduction_version}


# Targets


def test_find_target(hook: MakeHook, tom: RealTom) -> None:
    tom_hook = hook()
    demo = tom_hook.find_target(tom_service.TARGET["name"])
    assert (demo.ra, demo.dec) == (tom_service.TARGET["ra"], tom_service.TARGET["dec"])
    with pytest.raises(BadInputError, match="no such target"):  # a part of a name is not the name
        tom_hook.find_target(tom_service.TARGET["name"][:-1])
    with pytest.raises(BadInputError, match="no position"):
        tom_hook.find_target("SN 1987A", create=True)
    with pytest.raises(BadInputError, match=f"no group Nobody.*{tom_service.GROUP}"):
        tom_hook.find_target("SN 1987A", ra=1, dec=2, create=True, groups=["Nobody"])

    made = tom_hook.find_target(
        "SN 1987A, LMC", ra=83.8667, dec=-69.2697, create=True, groups=[tom_service.GROUP]
    )
    assert tom_hook.find_target("SN 1987A, LMC", create=True) == made
    tom.sql(
        "INSERT INTO tom_targets_targetname (target_id, name, created, modified)"
        " VALUES (?, 'Sanduleak', '2018-02-12', '2018-02-12')",
        made.id,
    )
    assert tom_hook.find_target("Sanduleak").id == made.id
    tom_hook.get_conn().call(
        "POST", "/api/targets/", json={"name": "Sanduleak", "type": "SIDEREAL", "ra": 83.9, "dec": -69.3}
    )
    with pytest.raises(BadInputError, match=r"2 targets .*SN 1987A, LMC \(id \d+\), Sanduleak"):
        tom_hook.find_target("Sanduleak")


def test_lists_are_read_to_their_end(
    hook: MakeHook, target: Target, tom: RealTom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tom_module, "PAGE_SIZE", 5)
    tom_hook, curve = hook(), light_curve(12)
    check_holds(tom, target, curve, tom_hook.upload_light_curve(target, curve, "diffim"))
    assert len(tom_hook.points(target)) == 12


# Uploads


def test_upload(hook: MakeHook, target: Target, tom: RealTom) -> None:
    tom_hook, curve = hook(), light_curve()
    result = tom_hook.upload_light_curve(target, curve, "diffim", groups=[tom_service.GROUP])
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


@pytest.mark.parametrize("how", ["forget", "drop"])
def test_target_is_made_once(hook: MakeHook, tom: RealTom, proxy: Proxy, how: str) -> None:
    proxy.faults = [Fault("POST", "/api/targets/", how, status=500)]
    name = f"AT 2018once{next(_numbers)}"
    made = hook(proxy.url).find_target(name, ra=RA, dec=DEC, create=True)
    assert tom.sql("SELECT id FROM tom_targets_basetarget WHERE name = ?", name) == [(made.id,)]
    assert [method for method, _ in proxy.seen].count("POST") == 1


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


# Connections


def test_wrong_token(hook: MakeHook, target: Target) -> None:
    tom_hook = hook(token="not-the-token")
    with pytest.raises(BadInputError, match=r"401 .*Invalid token.*credentials in connection tom_") as caught:
        tom_hook.upload_light_curve(target, light_curve(), "diffim")
    assert "not-the-token" not in str(caught.value)
    assert tom_hook.test_connection() == (False, str(caught.value).replace("dataproducts", "targets"))


def test_login_and_password(hook: MakeHook, tom: RealTom) -> None:
    assert hook(login=tom.info.user, token=tom.info.password).count("targets") == hook().count("targets") > 0
    with pytest.raises(BadInputError, match="Invalid username/password"):
        hook(login=tom.info.user, token="wrong").count("targets")


def test_refusal_says_what_the_tom_said(hook: MakeHook) -> None:
    with pytest.raises(BadInputError, match=r"400 .*Invalid pk .*999999"):
        hook().upload_light_curve(Target(999999, "nobody", None, None), light_curve(), "diffim")


def test_secrets_stay_out_of_messages_and_logs(
    hook: MakeHook, tom: RealTom, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.faults = [Fault("GET", "/", "refuse", 99, 500, words=f"<p>token {tom.info.token}</p>".encode())]
    with pytest.raises(UnavailableError, match=r"500 token \*\*\*") as caught:
        hook(proxy.url).count("targets")
    assert tom.info.token not in str(caught.value) + caplog.text


def test_wrong_addresses(hook: MakeHook, proxy: Proxy) -> None:
    proxy.faults = [
        Fault("GET", "/", "refuse", 1, 301, headers={"Location": "https://tom.example/api/targets/"})
    ]
    with pytest.raises(BadInputError, match=r"redirects to https://tom\.example"):
        hook(proxy.url).count("targets")
    proxy.faults = [Fault("GET", "/", "refuse", 1, 200, words=b"<html>Log in</html>")]
    with pytest.raises(BadInputError, match="else than JSON"):
        hook(proxy.url).count("targets")
    proxy.faults = [Fault("GET", "/", "refuse", 1, 200, words=b"[1]")]
    with pytest.raises(BadInputError, match="not the REST API of a TOM"):
        hook(proxy.url).count("targets")
    with pytest.raises(BadInputError, match="no address"):
        hook("").count("targets")
    with pytest.raises(BadInputError, match=r"address of the TOM cannot be read.*8o80"):
        hook("http://tom.example:8o80").count("targets")
    with pytest.raises(BadInputError, match="no credentials"):  # or it would create targets as nobody
        hook(token="").find_target("x", ra=1, dec=2, create=True)
    with pytest.raises(BadInputError, match="no such connection"):
        TomHook("tom_nowhere").count("targets")


@pytest.mark.parametrize(
    ("host", "port", "schema", "url"),
    [
        ("tom.example.org", None, None, "https://tom.example.org"),
        ("tom.example.org", 8443, "http", "http://tom.example.org:8443"),
        ("localhost", 8001, None, "http://localhost:8001"),
        ("127.0.0.1", 8001, "", "http://127.0.0.1:8001"),
        ("::1", 8001, None, "http://[::1]:8001"),
        ("https://user:word@tom.example.org/mop/", None, None, "https://tom.example.org/mop"),
        ("http://tom.example.org:81", 82, "https", "http://tom.example.org:81"),
    ],
)
def test_address(host: str, port: int | None, schema: str | None, url: str) -> None:
    assert address(host, port, schema) == url

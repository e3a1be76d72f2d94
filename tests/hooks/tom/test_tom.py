"""Targets and connections of a real TOM Toolkit server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

import tololo.hooks.tom_api as api_module
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.facility.tom import Target
from tololo.facility.tom_settings import TomOptions
from tololo.hooks.tom import TomHook
from tololo.services import tom as tom_service

from .server import DEC, INSTALLED, RA, Fault, MakeHook, Proxy, RealTom, check_holds, light_curve

pytestmark = [pytest.mark.services, INSTALLED]

_numbers = count(1)


def test_find_target(hook: MakeHook, tom: RealTom) -> None:
    tom_hook = hook()
    demo = tom_hook.find_target(tom_service.TARGET["name"])
    assert (demo.ra, demo.dec) == (tom_service.TARGET["ra"], tom_service.TARGET["dec"])
    with pytest.raises(BadInputError, match="no such target"):  # a part of a name is not the name
        tom_hook.find_target(tom_service.TARGET["name"][:-1])
    with pytest.raises(BadInputError, match="no position"):
        tom_hook.find_target("SN 1987A")
    with pytest.raises(BadInputError, match=f"no group Nobody.*{tom_service.GROUP}"):
        hook(groups="Nobody").find_target("SN 1987A", ra=1, dec=2)

    made = tom_hook.find_target("SN 1987A, LMC", ra=83.8667, dec=-69.2697)
    assert tom_hook.find_target("SN 1987A, LMC", create="missing") == made
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


def test_targets_are_made_by_policy(hook: MakeHook, tom: RealTom) -> None:
    name = f"AT 2018policy{next(_numbers)}"
    for never in (hook(create_targets="never"), hook()):
        policy = None if never.settings.options.create_targets == "never" else "never"
        with pytest.raises(BadInputError, match=r"no such target.*or let it be created"):
            never.find_target(name, ra=RA, dec=DEC, create=policy)
    assert tom.sql("SELECT id FROM tom_targets_basetarget WHERE name = ?", name) == []
    made = hook(create_targets="never").find_target(name, ra=RA, dec=DEC, create="missing")
    assert hook(create_targets="never").find_target(name) == made


def test_new_targets_have_groups_and_permissions(hook: MakeHook, tom: RealTom) -> None:
    name = f"AT 2018seen{next(_numbers)}"
    made = hook(groups=tom_service.GROUP, permissions="PRIVATE").find_target(name, ra=RA, dec=DEC)
    entry = hook().get_conn().get(f"/api/targets/{made.id}/", {})
    assert [group["name"] for group in entry["groups"]] == [tom_service.GROUP]
    assert entry["permissions"] == "PRIVATE"
    (row,) = tom.sql("SELECT permissions FROM tom_targets_basetarget WHERE id = ?", made.id)
    assert row == ("PRIVATE",)


def test_one_target_made_by_several_at_once(hook: MakeHook, tom: RealTom) -> None:
    name, hooks = f"AT 2018race{next(_numbers)}", [hook() for _ in range(4)]
    start = threading.Barrier(len(hooks))

    def find(tom_hook: TomHook) -> Target:
        tom_hook.url  # noqa: B018
        start.wait()
        return tom_hook.find_target(name, ra=RA, dec=DEC)

    with ThreadPoolExecutor(len(hooks)) as pool:
        found = set(pool.map(find, hooks))
    assert tom.sql("SELECT id FROM tom_targets_basetarget WHERE name = ?", name) == [(t.id,) for t in found]


@pytest.mark.parametrize("how", ["forget", "drop"])
def test_target_is_made_once(hook: MakeHook, tom: RealTom, proxy: Proxy, how: str) -> None:
    proxy.faults = [Fault("POST", "/api/targets/", how, status=500)]
    name = f"AT 2018once{next(_numbers)}"
    made = hook(proxy.url).find_target(name, ra=RA, dec=DEC, create="missing")
    assert tom.sql("SELECT id FROM tom_targets_basetarget WHERE name = ?", name) == [(made.id,)]
    assert [method for method, _ in proxy.seen].count("POST") == 1


def test_lists_are_read_to_their_end(
    hook: MakeHook, target: Target, tom: RealTom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "PAGE_SIZE", 5)
    tom_hook, curve = hook(), light_curve(12)
    check_holds(tom, target, curve, tom_hook.upload_light_curve(target, curve, "diffim"))
    assert len(tom_hook.points(target)) == 12


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


def test_a_password_beyond_latin_1(hook: MakeHook, tom: RealTom) -> None:
    with pytest.raises(BadInputError, match="Invalid username/password"):
        hook(login=tom.info.user, token="пароль€").count("targets")


def test_a_target_that_is_somewhere_else(
    hook: MakeHook, tom: RealTom, capsys: pytest.CaptureFixture[str]
) -> None:
    tom_hook, curve = hook(), replace(light_curve(), target=f"Tololo-{next(_numbers)}")
    tom_hook.find_target(curve.target, ra=RA, dec=DEC - 0.01)
    with pytest.raises(BadInputError, match=r"is 36 arcsec from the place.*rename the target"):
        tom_hook.publish(curve, "diffim")
    named = replace(curve, points=tuple(replace(point, dia_object_id=None) for point in curve.points))
    assert tom_hook.publish(named, "diffim")["points"] == 12
    assert "is 36 arcsec from the place of this light curve" in capsys.readouterr().out


def test_refusal_says_what_the_tom_said(hook: MakeHook) -> None:
    with pytest.raises(BadInputError, match=r"400 .*Invalid pk .*999999"):
        hook().upload_light_curve(Target(999999, "nobody", None, None), light_curve(), "diffim")


def test_secrets_stay_out_of_messages_and_logs(
    hook: MakeHook, tom: RealTom, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.faults = [Fault("GET", "/", "refuse", 99, 500, words=f"<p>token {tom.info.token}</p>".encode())]
    with pytest.raises(UnavailableError, match=r"500 token \*\*\*") as caught:
        hook(proxy.url).count("targets")
    logged = capsys.readouterr().out
    assert "attempt 2 of 4 follows" in logged
    assert tom.info.token not in str(caught.value) + logged


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
        hook(token="").find_target("x", ra=1, dec=2, create="missing")
    with pytest.raises(BadInputError, match="no such connection"):
        TomHook("tom_nowhere").count("targets")


# A file instead of a connection


def test_file_with_a_password(
    hook: MakeHook, tom: RealTom, target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tom_config.yaml"
    info = tom.info
    path.write_text(f"url: {info.url}\ntom_user_id: {info.user}\ntom_password: {info.password}\n")
    path.chmod(0o644)
    by_file = TomHook(config_file=path)
    assert by_file.find_target(target.name) == target
    logged = capsys.readouterr().out
    assert logged.count(f"{path} has a password in it and everybody can read it") == 1
    assert info.password not in logged
    with pytest.raises(BadInputError, match="no such target"):  # as such files were always used
        by_file.find_target(f"AT 2018file{next(_numbers)}", ra=RA, dec=DEC)
    curve = light_curve()
    check_holds(tom, target, curve, by_file.upload_light_curve(target, curve, "diffim"))

    path.write_text(f"url: {info.url}\ntom_user_id: {info.user}\ntom_password: not it\n")
    with pytest.raises(BadInputError, match=rf"Invalid username/password.*credentials in {path}"):
        TomHook(config_file=path).count("targets")


def test_file_that_names_a_connection(hook: MakeHook, target: Target, tmp_path: Path) -> None:
    other = hook(create_targets="missing", groups=tom_service.GROUP)
    path = tmp_path / "tom_config.yaml"
    path.write_text(f"connection: {other.tom_conn_id}\ncreate_targets: never\ntime_format: mjd\n")
    by_file = TomHook(config_file=path)
    assert by_file.find_target(target.name) == target
    assert by_file.settings.options == TomOptions((tom_service.GROUP,), "", "mjd", "never")


def test_wrong_extras(hook: MakeHook) -> None:
    with pytest.raises(BadInputError, match=r"'ut' is no time_format of a TOM.*mjd, jd, hjd"):
        hook(time_format="ut").count("targets")

"""How a TOM is set up: extras of a connection, and the file of older installations."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from tololo.facility.errors import BadInputError
from tololo.facility.tom_settings import TomOptions, options_of, read_tom_file

USUAL = """\
url: https://tom.example.org/
tom_user_id: ana
tom_password: 'pass: word#1'
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "tom_config.yaml"
    path.write_text(text)
    return path


def test_options() -> None:
    assert options_of({}, "connection x") == TomOptions()
    empty = {"groups": "", "permissions": None, "time_format": ""}
    assert options_of(empty, "connection x") == TomOptions()
    full = {
        "groups": "Tololo, Guests,",
        "permissions": "PUBLIC",
        "time_format": "hjd",
        "create_targets": "never",
    }
    assert options_of(full, "") == TomOptions(("Tololo", "Guests"), "PUBLIC", "hjd", "never")
    assert options_of({"groups": ["A, B", "C"]}, "").groups == ("A, B", "C")


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"time_format": "bjd"}, "write one of mjd, jd, hjd"),
        ({"create_targets": "always"}, "write missing"),
        ({"permissions": "public"}, "write one of OPEN, PUBLIC, PRIVATE"),
        ({"groups": 7}, "name the TOM's groups"),
        ({"time_fromat": "jd"}, r"no extra 'time_fromat' .*there are groups, permissions, time_format"),
    ],
)
def test_wrong_options(extras: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        options_of(extras, "connection tom_x")
    assert "connection tom_x" in str(caught.value)


def test_the_file_that_users_have(tmp_path: Path) -> None:
    found = read_tom_file(written(tmp_path, USUAL))
    assert found.settings is not None
    assert (found.settings.url, found.settings.login) == ("https://tom.example.org", "ana")
    assert found.settings.secret == "pass: word#1"
    assert found.settings.options == TomOptions(create_targets="never")
    assert "word#1" not in repr(found)


def test_a_password_of_digits_is_a_password(tmp_path: Path) -> None:
    found = read_tom_file(written(tmp_path, USUAL.replace("'pass: word#1'", "0123_4")))
    assert found.settings is not None
    assert found.settings.secret == "0123_4"


def test_options_in_the_file(tmp_path: Path) -> None:
    text = USUAL + "groups: [Tololo]\ntime_format: jd\ncreate_targets: missing\n"
    found = read_tom_file(written(tmp_path, text))
    assert found.settings is not None
    assert found.settings.options == TomOptions(("Tololo",), "", "jd", "missing")


def test_a_connection_instead(tmp_path: Path) -> None:
    found = read_tom_file(written(tmp_path, "connection: tom_mop\ntime_format: jd\n"))
    assert (found.connection, found.settings, found.options) == ("tom_mop", None, {"time_format": "jd"})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("tom_password: 'pass: word#1'\n", "", "tom_password is missing"),
        ("'pass: word#1'", "''", "line 3, key tom_password"),
        ("'pass: word#1'", "[word#1, b]", "line 3, key tom_password"),
        ("tom_user_id", "user", "tom_user_id, tom_password, connection"),
        ("url", "connection", "drop tom_user_id, tom_password"),
        ("https://tom.example.org/", "7", "line 1, key url"),
        (USUAL, USUAL + "time_format: bjd\n", "line 4, key time_format.*mjd, jd, hjd"),
        (USUAL, "word#1", "has no keys"),
        (USUAL, "", "has no keys"),
        ("url: ", "url", "Not YAML"),
    ],
)
def test_wrong_files(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = written(tmp_path, USUAL.replace(old, new))
    with pytest.raises(BadInputError, match=says) as caught:
        read_tom_file(path)
    assert str(path) in str(caught.value)
    assert "word#1" not in str(caught.value)


@pytest.mark.parametrize(
    "password",
    ["!word#1", "*word#1", "%word#1", "a: word#1", '"word#1', "!!int word#1", "@word#1", "2024-13-45"],
)
def test_a_password_that_is_no_yaml_is_not_repeated(tmp_path: Path, password: str) -> None:
    path = written(tmp_path, USUAL.replace("'pass: word#1'", password))
    with pytest.raises(BadInputError, match=r"Not YAML.*line \d.*single quotes") as caught:
        read_tom_file(path)
    assert "word#1" not in "".join(traceback.format_exception(caught.value))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        read_tom_file(tmp_path / "nowhere.yaml")

from __future__ import annotations

from pathlib import Path

import pytest

from tololo.facility.errors import BadInputError
from tololo.facility.yaml_file import line_of, read_yaml

TEXT = """# a facility
name: x
sites:
  local:
    cores: 2
lists:
  - first
  -
    second: 1
"""


def read(tmp_path: Path, content: str | bytes) -> object:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_yaml(path, "The file", "mend it")


def test_content_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(TEXT)
    content, node = read_yaml(path, "The file", "mend it")
    assert content["sites"] == {"local": {"cores": 2}}
    assert [
        line_of(node, keys)
        for keys in (
            [],
            ["name"],
            ["sites", "local"],
            ["sites", "local", "cores"],
            ["sites", "absent"],
            ["lists", 0],
            ["lists", 1, "second"],
            ["absent"],
        )
    ] == [1, 2, 4, 5, 3, 7, 9, 1]
    path.write_text("")
    assert read_yaml(path, "The file", "mend it") == (None, None)
    assert line_of(None, ["name"]) == 1


@pytest.mark.parametrize(
    ("content", "says", "where"),
    [
        ("a: [\nb: 1", "Not YAML", ", line 2"),
        ("a: b: c", "Not YAML: mapping values are not allowed here", ", line 1"),
        ("a: \x00", "Not YAML", "file.yaml"),
        ("a: 1\nb:\n  - x: 2024-13-45", "Not YAML: month must be in 1..12", ", line 3"),
        (b"a: \xff", "The file cannot be read", "file.yaml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str | bytes, says: str, where: str) -> None:
    with pytest.raises(BadInputError, match=says) as caught:
        read(tmp_path, content)
    assert caught.value.where.endswith(where)
    assert caught.value.remedy


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"The file cannot be read: .*No such file"):
        read_yaml(tmp_path / "absent.yaml", "The file", "mend it")

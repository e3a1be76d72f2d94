from __future__ import annotations

from pathlib import Path

import pytest

from tololo.facility.configuration import INCLUDE, facility, read_facility
from tololo.facility.errors import BadInputError

SHIPPED = INCLUDE / "configs" / "facility.yaml"


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    """The shipped configuration with lines replaced."""
    text = SHIPPED.read_text()
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / "facility.yaml"
    path.write_text(text)
    return path


def line_of(path: Path, text: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_what_is_shipped_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLOLO_HOME", "/somewhere")
    shipped = read_facility(SHIPPED)
    assert (shipped.instrument, shipped.site, shipped.template_type) == ("DECam", "local", "meanclip")
    assert shipped.repository == "/somewhere/repository"
    assert (INCLUDE / "pipelines" / "bps" / f"{shipped.site}.yaml").exists()


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ("cores: 2", "cores: two", "cores", "'two' is not of type 'integer'"),
        ("cores: 2", "cores: 0", "cores", "less than the minimum"),
        ("registry: postgresql", "registry: oracle", "registry", "'oracle' is not one of"),
        ("site: local", "site: my site", "site", "'my site' is not one of"),
        ("  type: meanclip", "  type: best", "templates.type", "'best' is not one of"),
        ('  subset: "2019"', "  subset: 2019", "templates.subset", "2019 is not of type 'string'"),
        (
            "  detection_threshold: 5.0",
            "  detection_threshold: -1",
            "difference.detection_threshold",
            "less than or equal to the minimum",
        ),
    ],
)
def test_a_wrong_value_is_named_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, key: str, says: str
) -> None:
    path = changed(tmp_path, (f"\n{old}\n", f"\n{new}\n"))
    with pytest.raises(BadInputError) as caught:
        read_facility(path)
    assert says in caught.value.what
    assert caught.value.where == f"{path}, line {line_of(path, new)}, key {key}"
    assert "docs/configure.md" in caught.value.remedy


@pytest.mark.parametrize(
    ("old", "key", "says"),
    [
        ("cores: 2", "cores", "'cores' is a required property"),
        ("  type: meanclip", "templates.type", "'type'"),
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, old: str, key: str, says: str) -> None:
    path = changed(tmp_path, (f"\n{old}\n", "\n"))
    with pytest.raises(BadInputError) as caught:
        read_facility(path)
    assert says in caught.value.what
    assert caught.value.where.startswith(f"{path}, line ")
    assert caught.value.where.endswith(f", key {key}")


@pytest.mark.parametrize(
    ("old", "new", "key", "line"),
    [
        ("cores: 2", "cores: 2\nmemory: 8", "memory", "memory: 8"),
        ('  subset: "2019"', '  subset: "2019"\n  kind: x', "templates.kind", "kind: x"),
    ],
)
def test_an_unknown_key_is_named(tmp_path: Path, old: str, new: str, key: str, line: str) -> None:
    path = changed(tmp_path, (f"\n{old}\n", f"\n{new}\n"))
    with pytest.raises(BadInputError, match="unexpected") as caught:
        read_facility(path)
    assert caught.value.where == f"{path}, line {line_of(path, line)}, key {key}"


@pytest.mark.parametrize("text", ["name: [DECam\nsite: parsl\n", "name: DECam\n\tsite: parsl\n", "a: b: c\n"])
def test_what_is_not_yaml_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "facility.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match="Not YAML") as caught:
        read_facility(path)
    assert caught.value.where in {f"{path}, line {n}" for n in (1, 2)}


@pytest.mark.parametrize("text", ["", "just words\n", "- a\n- b\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "facility.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match="is not of type 'object'") as caught:
        read_facility(path)
    assert caught.value.where == f"{path}, line 1, key (top)"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="TOLOLO_FACILITY") as caught:
        read_facility(tmp_path / "nowhere.yaml")
    assert caught.value.where == str(tmp_path / "nowhere.yaml")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_facility(tmp_path)
    monkeypatch.setenv("TOLOLO_FACILITY", str(changed(tmp_path, ("cores: 2", "cores: 7"))))
    facility.cache_clear()
    try:
        assert facility().cores == 7
    finally:
        facility.cache_clear()


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facility.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_facility(path)

"""What Airflow makes of the provider's metadata and of the plugins folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from airflow._shared.module_loading import find_path_from_directory
from airflow._shared.plugins_manager import _load_plugins_from_plugin_directory
from airflow.providers_manager import ProvidersManager
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from tololo.provider import get_provider_info

PLUGINS = Path(__file__).parents[2] / "plugins"
PICK_LISTS: dict[str, dict[str, list[str]]] = {
    "butler": {"instrument": ["DECam"], "registry": ["postgresql", "sqlite"]},
    "apdb": {"backend": ["postgresql", "sqlite"]},
    "tom": {
        "create_targets": ["missing", "never"],
        "time_format": ["mjd", "jd", "hjd"],
        "permissions": ["", "OPEN", "PUBLIC", "PRIVATE"],
    },
    "lco": {},
}


@pytest.mark.parametrize("syntax", ["glob", "regexp"])
def test_the_plugin_loader_finds_one_file(syntax: str) -> None:
    found = find_path_from_directory(str(PLUGINS), ".airflowignore", syntax)
    assert [Path(path).name for path in found if path.endswith(".py")] == ["tololo_plugin.py"]


def test_the_plugin_loads() -> None:
    plugins, errors = _load_plugins_from_plugin_directory(str(PLUGINS))
    assert errors == {}
    assert [plugin.name for plugin in plugins] == ["tololo"]


def test_without_the_ignore_file_it_would_find_more(tmp_path: Path) -> None:
    shutil.copytree(
        PLUGINS, tmp_path / "plugins", ignore=shutil.ignore_patterns(".airflowignore", "__pycache__")
    )
    found = list(find_path_from_directory(str(tmp_path / "plugins"), ".airflowignore", "glob"))
    assert len([path for path in found if path.endswith(".py")]) > 50


def test_airflow_accepts_the_provider() -> None:
    assert ProvidersManager().providers["tololo"].data["name"] == get_provider_info()["name"]


@pytest.mark.parametrize("kind", PICK_LISTS)
def test_connection_types_have_their_hooks(kind: str) -> None:
    hook = ProvidersManagerTaskRuntime().hooks[kind]
    assert hook is not None
    assert (hook.connection_type, hook.package_name) == (kind, "tololo")
    (described,) = (c for c in get_provider_info()["connection-types"] if c["connection-type"] == kind)
    assert (hook.hook_class_name, hook.hook_name) == (described["hook-class-name"], described["hook-name"])


@pytest.mark.parametrize("kind", PICK_LISTS)
def test_forms_have_their_pick_lists(kind: str) -> None:
    widgets = ProvidersManager().connection_form_widgets
    fields = {
        widget.field_name: widget.field for name, widget in widgets.items() if f"extra__{kind}__" in name
    }
    lists = {name: field["schema"]["enum"] for name, field in fields.items() if "enum" in field["schema"]}
    assert lists == PICK_LISTS[kind]
    for field in fields.values():
        assert field["description"]
        assert field["schema"]["title"]


@pytest.mark.parametrize("kind", PICK_LISTS)
def test_forms_hide_or_rename_fields(kind: str) -> None:
    behaviour = ProvidersManager().field_behaviours[kind]
    assert behaviour["hidden_fields"]
    assert behaviour["relabeling"]

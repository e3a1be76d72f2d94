from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow._shared.plugins_manager import _load_plugins_from_plugin_directory
from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tololo.pages.views import APPS, PREFIX, VIEWS

PLUGINS = Path(__file__).parents[2] / "plugins"


def imported_by(statement: str) -> set[str]:
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_plugin_brings_the_pages() -> None:
    (plugin,), errors = _load_plugins_from_plugin_directory(str(PLUGINS))
    assert errors == {}
    assert (plugin.fastapi_apps, plugin.external_views) == (APPS, VIEWS)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: str(view["name"]))
def test_airflow_understands_the_views(view: dict[str, Any]) -> None:
    read = ExternalViewResponse.model_validate(view)
    assert read.url_route
    assert read.href.startswith(f"{PREFIX[1:]}/")


def test_a_process_that_only_knows_plugins_does_not_load_the_pages() -> None:
    there = imported_by("import tololo.pages.views")
    assert not {"fastapi", "lsst", "numpy", "airflow", "jinja2"} & there


def test_the_web_server_never_imports_the_stack() -> None:
    there = imported_by("import tololo.pages.app")
    assert "fastapi" in there
    assert not [name for name in there if name.split(".")[0] in ("lsst", "astropy", "numba")]


def test_the_application_is_loaded_by_its_first_request() -> None:
    outer = FastAPI()
    outer.mount(PREFIX, APPS[0]["app"])
    client = TestClient(outer)
    answer = client.get(f"{PREFIX}/static/style.css")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
    for view in VIEWS:
        for icon in ("icon", "icon_dark_mode"):
            if icon in view:
                assert client.get(f"/{view[icon]}").headers["content-type"] == "image/svg+xml"
    assert client.get(f"{PREFIX}/static/../app.py").status_code == 404

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from facility.test_configuration import changed, line_of
from tololo.facility.configuration import INCLUDE, read_facility
from tololo.facility.errors import BadInputError
from tololo.facility.sites import (
    SITES,
    Promises,
    bps_config,
    promises_of,
    promises_table,
    settings_of,
    site_named,
)

BPS = INCLUDE / "pipelines" / "bps"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "sites.md"

SETTINGS = """\
cores: 2
sites:
  slurm:
    partition: night
    cores_per_node: 16
    walltime: "02:30:00"
    exclusive: true
    request_memory: 3000
  htcondor:
    accounting_group: decam
    commands: {requirements: 'Machine == "n1"', +Night: 1}
"""


def with_sites(folder: Path, text: str) -> Path:
    return changed(folder, ("\ncores: 2\n", f"\n{text}"))


def test_every_site_has_its_submit_file_and_no_other_is_there() -> None:
    assert {path.stem for path in BPS.glob("*.yaml")} == {"common", *SITES}


def test_a_site_by_name() -> None:
    assert site_named("slurm") is SITES["slurm"]
    with pytest.raises(BadInputError, match=r"no compute site 'moon'.*local, parsl, slurm, htcondor"):
        site_named("moon")


def test_what_needs_no_cluster_is_offered_always_and_the_rest_if_named(tmp_path: Path) -> None:
    plain = read_facility(with_sites(tmp_path, "cores: 2\n"))
    assert plain.sites == {"local": {}, "parsl": {}}
    named = read_facility(with_sites(tmp_path, "cores: 2\nsites:\n  slurm:\n"))
    assert named.sites == {"local": {}, "parsl": {}, "slurm": {}}
    nothing = read_facility(with_sites(tmp_path, "cores: 2\nsites:\n"))
    assert nothing.sites == plain.sites


def test_settings_reach_the_place_where_bps_looks_for_them(tmp_path: Path) -> None:
    sites = read_facility(with_sites(tmp_path, SETTINGS)).sites
    slurm = {"partition": "night", "cores_per_node": 16, "walltime": "02:30:00", "exclusive": True}
    assert bps_config("slurm", sites["slurm"]) == {"requestMemory": 3000, "site": {"slurm": slurm}}
    assert bps_config("htcondor", sites["htcondor"]) == {
        "site": {
            "htcondor": {
                "accountingGroup": "decam",
                "profile": {"condor": {"requirements": 'Machine == "n1"', "+Night": 1}},
            }
        }
    }
    assert bps_config("parsl", sites["parsl"]) == {}


def test_a_site_can_be_the_default_once_it_is_offered(tmp_path: Path) -> None:
    path = with_sites(tmp_path, SETTINGS)
    path.write_text(path.read_text().replace("\nsite: local\n", "\nsite: htcondor\n"))
    assert read_facility(path).site == "htcondor"


@pytest.mark.parametrize(
    ("old", "new", "key", "says", "remedy"),
    [
        ("    partition: night", "    partitoin: night", "slurm.partitoin", "unexpected", "docs"),
        ("    partition: night", "    partition: 3", "slurm.partition", "not of type 'string'", "docs"),
        ("    cores_per_node: 16", "    cores_per_node: 0", "slurm.cores_per_node", "minimum", "docs"),
        ('    walltime: "02:30:00"', "    walltime: 12:30:00", "slurm.walltime", "'string'", "in quotes"),
        ('    walltime: "02:30:00"', "    walltime: 2h", "slurm.walltime", "does not match", "in quotes"),
        ("  htcondor:", "  condor:", "condor", "unexpected", "docs"),
        (
            "    accounting_group: decam",
            "    partition: x",
            "htcondor.partition",
            "unexpected",
            "docs",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, key: str, says: str, remedy: str
) -> None:
    path = with_sites(tmp_path, SETTINGS.replace(f"{old}\n", f"{new}\n"))
    with pytest.raises(BadInputError) as caught:
        read_facility(path)
    assert says in caught.value.what
    assert caught.value.where == f"{path}, line {line_of(path, new)}, key sites.{key}"
    assert remedy in caught.value.remedy


def test_a_default_that_is_not_offered_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path, ("\nsite: local\n", "\nsite: slurm\n"))
    with pytest.raises(BadInputError, match="'slurm' is not offered") as caught:
        read_facility(path)
    assert caught.value.where == f"{path}, line {line_of(path, 'site: slurm')}, key site"
    assert caught.value.remedy == "put `slurm:` under `sites:`"


@pytest.mark.parametrize("name", SITES)
def test_the_submit_file_is_for_its_site(name: str) -> None:
    own = yaml.safe_load((BPS / f"{name}.yaml").read_text())
    assert own["includeConfigs"][0] == "common.yaml"
    assert set(own.get("site", {name: {}})) == {name}


def test_parsl_never_runs_a_permanent_failure_again() -> None:
    """Its own default is one retry of whatever failed."""
    assert yaml.safe_load((BPS / "parsl.yaml").read_text())["site"]["parsl"]["retries"] == 0


def test_what_the_driver_may_rely_on() -> None:
    kept: dict[str, Any] = {
        name: {promise.name for promise in fields(Promises) if getattr(site.promises, promise.name)}
        for name, site in SITES.items()
    }
    everything = {promise.name for promise in fields(Promises)}
    assert kept == {
        "local": everything,
        "parsl": {"restart"},
        "slurm": {"cancel", "restart", "retries"},
        "htcondor": everything,
    }
    assert all(getattr(site.promises, p.name).how for site in SITES.values() for p in fields(Promises))


def test_the_page_says_what_the_table_says() -> None:
    page = PAGE.read_text()
    assert promises_table() in page
    for name, site in SITES.items():
        assert f"## `{name}`" in page
        assert promises_of(site) in page
        if site.settings:
            assert settings_of(site) in page

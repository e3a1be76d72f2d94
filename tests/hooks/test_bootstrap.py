from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler

from tololo.facility.configuration import INCLUDE
from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.bootstrap import STEPS, BootstrapPlan, bootstrap, create, table, verify
from tololo.hooks.butler import ButlerHook


def make_plan(folder: Path, **changes: object) -> BootstrapPlan:
    rng = np.random.default_rng(3)
    stars = folder / "stars.ecsv"
    if not stars.exists():
        Table(
            {
                "source_id": np.arange(300),
                "ra": rng.uniform(29.5, 30.5, 300),
                "dec": rng.uniform(-5.5, -4.5, 300),
                "phot_g_mean_mag": rng.uniform(14, 20, 300),
            }
        ).write(stars)
    field = {"raList": [30.0], "decList": [-5.0], "radiusList": [0.5]}
    settings = {
        "repository": str(folder / "repo"),
        "skymaps": {
            "field": {"name": "discrete", "config": field},
            "rings": {"name": "rings", "config": {"numRings": 90, "patchInnerDimensions": [8000, 8000]}},
        },
        "footprint": [(30.0, -5.0, 0.5)],
        "refcats": {"gaia_dr2": str(stars)},
        "calibrations": str(INCLUDE / "configs" / "curated"),
    }
    return BootstrapPlan(**(settings | changes))


def content(repository: str) -> dict[str, Any]:
    """Everything that a second bootstrap could double."""
    with Butler.from_config(repository) as butler:
        elements = ("instrument", "detector", "physical_filter", "skymap", "tract", "patch")
        datasets = butler.registry.queryDatasets(..., collections="*")
        return {
            **{e: len(butler.query_dimension_records(e, explain=False, limit=None)) for e in elements},
            "datasets": sorted(str(ref.id) for ref in datasets),
            "types": sorted(kind.name for kind in butler.registry.queryDatasetTypes()),
            "collections": {i.name: i.children for i in butler.collections.query_info("*")},
        }


def test_bootstrap_twice_adds_nothing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    assert set(bootstrap(plan)) == set(STEPS)
    first = content(plan.repository)
    assert first["detector"] == 62
    assert {"raw", "crosstalk", "defects", "instcal_image"} <= set(first["types"])
    done = bootstrap(plan)
    assert done["create"] == "was there"
    assert "0 shards written" in done["refcats"]
    assert content(plan.repository) == first
    checks = verify(plan)
    assert all(check.good for check in checks), table(checks)
    said = {check.what for check in checks}
    assert {"detectors", "sky map rings: patches", "curated calibrations", "gaia_dr2: shards"} <= said
    assert "62" in table(checks)


def test_each_step_alone_and_verification_tells_what_is_missing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    wrong: list[int] = []
    for step in STEPS:
        bootstrap(plan, [step])
        wrong.append(sum(not check.good for check in verify(plan)))
    assert wrong == sorted(wrong, reverse=True)
    assert (wrong[0] > wrong[1] > wrong[-1], wrong[-1]) == (True, 0)


@pytest.mark.parametrize("place", ["makeRepo", "replace", "instrument", "calibrations", "shards"])
def test_killed_and_run_again(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tololo.reduction.formats import refcat
    from tololo.reduction.instrument.decam import DarkEnergyCamera

    plan = make_plan(tmp_path)

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if place == "makeRepo":
            patched.setattr(Butler, "_make_repo_registry", kill)
        elif place == "replace":
            patched.setattr(os, "replace", kill)
        elif place == "instrument":
            patched.setattr(DarkEnergyCamera, "_records", kill)
        elif place == "calibrations":
            patched.setattr("lsst.daf.butler.direct_butler.DirectButler.put", kill)
        else:
            patched.setattr(refcat, "shards", kill)
        with pytest.raises(KeyboardInterrupt):
            bootstrap(plan)
    if place in ("makeRepo", "replace"):
        assert not ButlerHook(plan.repository).exists()
    bootstrap(plan)
    assert all(check.good for check in verify(plan))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repo", "stars.ecsv"]


def test_other_repositories_are_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    bootstrap(plan, ["create"])
    with Butler.from_config(plan.repository, writeable=True) as butler:
        record = {"name": "HSC", "class_name": "lsst.obs.subaru.HyperSuprimeCam", "detector_max": 200}
        butler.registry.insertDimensionData("instrument", record | {"visit_max": 9, "exposure_max": 9})
    with pytest.raises(BadInputError, match="HSC"):
        bootstrap(plan)

    url = "postgresql+psycopg://me@127.0.0.1:9/butler"
    with pytest.raises(BadInputError, match=r"SQLite, not on 127.0.0.1:9/butler"):
        create(make_plan(tmp_path, registry_url=url))
    with pytest.raises(BadInputError, match="password") as caught:
        create(
            make_plan(tmp_path, repository=str(tmp_path / "b"), registry_url=url.replace("me@", "me:hush@"))
        )
    assert "hush" not in str(caught.value)
    with pytest.raises(UnavailableError, match="does not answer"):
        create(make_plan(tmp_path, repository=str(tmp_path / "c"), registry_url=url))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(BadInputError, match="no repository"):
        create(make_plan(tmp_path, repository=str(tmp_path / "full")))
    with pytest.raises(BadInputError, match="skymaps"):
        bootstrap(plan, ["skymaps"])
    with pytest.raises(BadInputError, match="no Butler repository"):
        verify(make_plan(tmp_path, repository=str(tmp_path / "nowhere")))
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()

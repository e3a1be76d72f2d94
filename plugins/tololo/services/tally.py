"""What is there after the demo: counted in the Butler, the APDB and the TOM, and compared with the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.services.demo_datasets import compare_datasets
from tololo.services.demo_plan import DemoPlan
from tololo.services.facility import Facility
from tololo.services.home import Home
from tololo.services.tom import TomInfo

if TYPE_CHECKING:
    from astropy.table import Table
    from lsst.daf.butler import Butler, DatasetRef

MATCH_PIXELS = 0.5
"""A transient is recovered where a source lies within this distance of its true position."""

RELIABLE = 0.5
"""Sources below this reliability do not enter the APDB."""


def summary(home: Home, running: Facility, plan: DemoPlan) -> dict[str, Any]:
    """Return the figures of ``var/demo/summary.json``, without the times and the runs."""
    from lsst.daf.butler import Butler

    from tololo.facility import collections

    name = collections.apdb(plan.subset, plan.template_type)
    figures: dict[str, Any] = {
        "version": 1,
        "data": "simulated" if plan.truth else str(plan.folder),
        "seconds": 0.0,
        "web_url": running.airflow.url,
        "web_user": running.airflow.user,
        "repository": str(home.repository),
        "registry_url": running.postgres.url("butler", driver="psycopg2"),
        "apdb_config": str(home.apdb / f"{name}.yaml"),
        "tom_url": running.tom.url,
        "truth": str(plan.truth) if plan.truth else None,
        "dag_runs": [],
    }
    with Butler.from_config(str(home.repository), writeable=False) as butler:
        refs = {
            kind: _all(butler, kind)
            for kind in ("visit_image", "template_coadd", "difference_image", "dia_source_unfiltered")
        }
        tables = {_key(ref): butler.get(ref) for ref in refs["dia_source_unfiltered"]}
    figures |= {
        "visits": len({ref.dataId["visit"] for ref in refs["visit_image"]}),
        "detectors": len(refs["visit_image"]),
        "templates": len(refs["template_coadd"]),
        "difference_images": len(refs["difference_image"]),
        "dia_sources": sum(len(table) for table in tables.values()),
    }
    figures["apdb"] = _apdb_counts(Path(figures["apdb_config"]))
    figures["tom"] = {
        "targets": _tom_count(running.tom, "targets"),
        "points": _tom_count(running.tom, "reduceddatums"),
    }
    figures |= {"planted": None, "recovered": None, "false_positives": None}
    if plan.truth:
        figures |= compare_with_truth(plan.truth, tables)
    figures["datasets"] = compare_datasets(plan.datasets.parent) if plan.datasets else None
    return figures


def count_differences(home: Home, plan: DemoPlan) -> int:
    """Count the difference images that were made with the template of a plan, now or before."""
    from tololo.hooks.butler import ButlerHook

    hook = ButlerHook(home.repository)
    chains = hook.collections(f"*/{plan.subset}/{plan.template_type}/diff_{plan.proc_type}")
    return sum(hook.count("difference_image", chain, where="instrument = 'DECam'") for chain in chains)


def compare_with_truth(truth: Path, tables: dict[tuple[int, int], Table]) -> dict[str, int]:
    """Compare the sources of difference images with what was planted.

    Parameters
    ----------
    truth : `pathlib.Path`
        Folder of the simulation.
    tables : `dict`
        Sources by (visit, detector).

    Returns
    -------
    figures : `dict`
        ``planted``: transients planted; ``recovered``: those with a reliable source within `MATCH_PIXELS` of
        the truth in at least one visit; ``false_positives``: reliable sources without a planted transient or
        variable within 2 pixels, over all difference images.
    """
    import numpy as np

    from tololo.simulation.truth import Truth

    planted = Truth.read(truth).transients
    kinds = np.asarray(planted["kind"]) == "transient"
    recovered: set[int] = set()
    false_positives = 0
    for (visit, detector), table in tables.items():
        accepted = (np.asarray(table["rejection"]) == "") & (np.asarray(table["reliability"]) >= RELIABLE)
        reliable = table[accepted]
        here = planted[(planted["visit"] == visit) & (planted["detector"] == detector)]
        if len(reliable) == 0:
            continue
        if len(here) == 0:
            false_positives += len(reliable)
            continue
        distance = np.hypot(
            np.asarray(reliable["x"])[:, None] - np.asarray(here["x"]),
            np.asarray(reliable["y"])[:, None] - np.asarray(here["y"]),
        )
        found = (distance.min(axis=0) < MATCH_PIXELS) & (np.asarray(here["kind"]) == "transient")
        recovered.update(int(number) for number in np.asarray(here["id"])[found])
        false_positives += int(np.count_nonzero(distance.min(axis=1) > 2.0))
    return {
        "planted": len(set(np.asarray(planted["id"])[kinds].tolist())),
        "recovered": len(recovered),
        "false_positives": false_positives,
    }


def _apdb_counts(config: Path) -> dict[str, int]:
    from tololo.reduction.apdb import open_apdb

    if not config.exists():
        return {"DiaObject": 0, "DiaSource": 0, "DiaForcedSource": 0}
    return open_apdb(config).counts()


def _tom_count(tom: TomInfo, what: str) -> int:
    import requests

    answer = requests.get(
        f"{tom.url}/api/{what}/",
        params={"limit": 1},
        headers={"Authorization": f"Token {tom.token}"},
        timeout=60,
    )
    answer.raise_for_status()
    return int(answer.json()["count"])


def _all(butler: Butler, kind: str) -> list[DatasetRef]:
    """Return one ref for each data ID of a dataset type, the newest where there are several.

    What holds injected sources does not count.
    """
    from lsst.daf.butler import MissingDatasetTypeError

    from tololo.facility import collections

    try:
        refs = butler.query_datasets(kind, collections="*", find_first=False, explain=False, limit=None)
    except MissingDatasetTypeError:
        return []
    plain = [ref for ref in refs if not collections.is_injected(ref.run)]
    return list({ref.dataId: ref for ref in sorted(plain, key=lambda ref: ref.run)}.values())


def _key(ref: DatasetRef) -> tuple[int, int]:
    return int(ref.dataId["visit"]), int(ref.dataId["detector"])

"""The operator that makes a repository ready for nights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from airflow.sdk import BaseHook

from tololo.facility.configuration import INCLUDE, facility
from tololo.facility.errors import BadInputError
from tololo.operators.task import FacilityOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.bootstrap import BootstrapPlan


PHOTOMETRIC = "ps1"
"""Catalogue that magnitudes come from where there is one."""


class BootstrapOperator(FacilityOperator):
    """Create the repository and fill it; then compare what is expected with what is found.

    Reads the params ``repo``, ``registry``, ``skymap``, ``calibrations``, ``refcats``, ``steps`` and
    ``dry_run``.
    """

    def work(self, context: Context) -> Any:
        """Run the steps, verify, and return the table of the verification."""
        from tololo.hooks.bootstrap import STEPS, bootstrap, table, verify

        params = context["params"]
        plan = self._plan(params)
        steps = [step for step in STEPS if step in params["steps"] or step == "chains"]
        if params["dry_run"]:
            self.log.info("Dry run: steps %s of %s", ", ".join(steps), plan)
            return {"steps": steps}
        done = bootstrap(plan, steps)
        for step, result in done.items():
            self.log.info("%s: %s", step, result)
        if "verify" not in params["steps"]:
            return {"steps": done}
        checks = verify(plan)
        for line in table(checks).splitlines():
            self.log.info("%s", line)
        if wrong := [check.what for check in checks if not check.good]:
            raise BadInputError(
                f"The repository is not what it should be: {', '.join(wrong)}",
                plan.repository,
                "run all steps; the log of this task shows expected and found",
            )
        return {"steps": done, "checks": {check.what: check.found for check in checks}}

    def _plan(self, params: Any) -> BootstrapPlan:
        from tololo.hooks.bootstrap import BootstrapPlan, footprint_of
        from tololo.hooks.curated_calibrations import read_curated

        connection = BaseHook.get_connection(params["repo"])
        url = str(
            connection.extra_dejson.get("registry_url") or connection.extra_dejson.get("registry") or ""
        )
        if params["registry"] == "sqlite":
            url = ""
        elif "://" not in url:
            raise BadInputError(
                "There is no database for the registry",
                f"connection {params['repo']}",
                "give its registry URL, or choose sqlite",
            )
        definitions = yaml.safe_load((INCLUDE / "configs" / "skymaps.yaml").read_text())
        if params["skymap"] not in definitions:
            raise BadInputError(
                f"There is no sky map {params['skymap']!r}",
                "include/configs/skymaps.yaml",
                f"name one of {', '.join(definitions)}",
            )
        refcats = reference_catalogues(params["refcats"] or facility().reference_stars)
        calibrations = ""
        if "calibrations" in params["steps"]:
            calibrations = str(params["calibrations"] or curated_folder())
            read_curated(calibrations)  # a mistake in it shall be known before anything is made
        return BootstrapPlan(
            repository=str(connection.host),
            registry_url=url,
            skymaps={params["skymap"]: definitions[params["skymap"]]},
            footprint=footprint_of(refcats[facility().refcat]),
            refcats=refcats,
            calibrations=calibrations,
        )


def reference_catalogues(text: str) -> dict[str, str]:
    """Read which reference catalogues there shall be.

    Parameters
    ----------
    text : `str`
        A folder or file of the facility's catalogue, or several by name:
        ``gaia_dr2=/data/gaia, ps1=/data/ps1``.

    Returns
    -------
    catalogues : `dict` [`str`, `str`]
        Folder or file by name.

    Raises
    ------
    BadInputError
        If the facility's catalogue is not among them, a name is none that the tasks read, or a file is not
        there.
    """
    main, found = facility().refcat, dict[str, str]()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, path = part.rpartition("=")
        found[name.strip() or main] = path.strip()
    if unknown := sorted(set(found) - {main, PHOTOMETRIC}):
        raise BadInputError(
            f"There is no use for a reference catalogue {unknown[0]!r}",
            "param refcats",
            f"name {main} or {PHOTOMETRIC}",
        )
    for name in (main, *found):
        if not found.get(name) or not Path(found[name]).exists():
            raise BadInputError(
                f"There are no reference stars {name}",
                found.get(name) or "param refcats",
                "name a table or a folder",
            )
    return found


def curated_folder() -> Path:
    """Return the facility's folder of curated calibrations: the one beside its configuration, else ours."""
    own = Path(os.environ.get("TOLOLO_FACILITY") or INCLUDE / "configs" / "facility.yaml").parent / "curated"
    return own if own.is_dir() else INCLUDE / "configs" / "curated"

"""Operators that make a Butler repository and tell it what it holds; and what all Butler operators share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import yaml
from airflow.sdk import BaseHook

from tololo.facility.configuration import INCLUDE, facility
from tololo.facility.errors import BadInputError
from tololo.operators.task import FacilityOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.curation import CurationHook


class ButlerOperator(FacilityOperator):
    """An operator that does one piece of work on a repository; a subclass says in `curate` what.

    Reads the param ``dry_run``. Its XCom is the report of the work.

    :param conn_id: connection of the repository (templated).
    """

    template_fields: Sequence[str] = (*FacilityOperator.template_fields, "conn_id")

    def __init__(self, *, conn_id: str = "{{ params.repo }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id

    def curate(self, hook: CurationHook, *, dry_run: bool) -> Any:
        """Do the work, or check it and write nothing; return the report."""
        raise NotImplementedError

    def work(self, context: Context) -> Any:
        """Work, and say what was done."""
        from tololo.hooks.curation import CurationHook

        dry_run = bool(context["params"].get("dry_run"))
        report = self.curate(CurationHook.from_connection(self.conn_id), dry_run=dry_run)
        self.log.info("%s%s", "Dry run, nothing was written: " if dry_run else "", report)
        return asdict(report) if is_dataclass(report) and not isinstance(report, type) else report


class CreateRepositoryOperator(ButlerOperator):
    """Create the repository that the connection names, if it is not there.

    :param registry: ``sqlite``, or ``postgresql`` for the database whose URL the connection has (templated);
        what the facility's configuration says unless given.
    """

    template_fields: Sequence[str] = (*ButlerOperator.template_fields, "registry")

    def __init__(self, *, registry: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.registry = registry

    def curate(self, hook: CurationHook, *, dry_run: bool) -> dict[str, Any]:
        """Create."""
        from tololo.hooks.bootstrap import BootstrapPlan, create

        extra = BaseHook.get_connection(self.conn_id).extra_dejson
        url = str(extra.get("registry_url") or extra.get("registry") or "")
        if (self.registry or facility().registry) == "sqlite":
            url = ""
        elif "://" not in url:
            raise BadInputError(
                "There is no database for the registry",
                f"connection {self.conn_id}",
                "give its registry URL, or choose sqlite",
            )
        there = hook.exists()
        if there or not dry_run:
            create(BootstrapPlan(hook.repository, registry_url=url))
        return {"repository": hook.repository, "created": not there}


class RegisterInstrumentOperator(ButlerOperator):
    """Register DECam with its detectors and filters, and the collections that every night reads."""

    def curate(self, hook: CurationHook, *, dry_run: bool) -> dict[str, Any]:
        """Register what is missing."""
        return _bootstrap(hook, ["instrument", "chains"], dry_run=dry_run)


class RegisterSkymapOperator(ButlerOperator):
    """Register a sky map: its tracts and patches.

    :param skymap: its name in ``include/configs/skymaps.yaml`` (templated).
    :param circles: where tracts are wanted, as (ra, dec, radius) in degrees; all tracts unless given.
    """

    template_fields: Sequence[str] = (*ButlerOperator.template_fields, "skymap", "circles")

    def __init__(
        self, *, skymap: str, circles: Sequence[tuple[float, float, float]] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.skymap = skymap
        self.circles = circles

    def curate(self, hook: CurationHook, *, dry_run: bool) -> dict[str, Any]:
        """Register what is missing."""
        definitions = yaml.safe_load((INCLUDE / "configs" / "skymaps.yaml").read_text())
        if self.skymap not in definitions:
            raise BadInputError(
                f"There is no sky map {self.skymap!r}",
                "include/configs/skymaps.yaml",
                f"name one of {', '.join(definitions)}",
            )
        skymaps = {self.skymap: definitions[self.skymap]}
        return _bootstrap(hook, ["skymap"], dry_run=dry_run, skymaps=skymaps, footprint=self.circles)


class RegisterDatasetTypeOperator(ButlerOperator):
    """Register a dataset type.

    :param dataset_type: its name (templated).
    :param dimensions: what tells its datasets apart: names, or one string with commas (templated).
    :param storage_class: what they are in Python (templated).
    :param is_calibration: whether they can be certified.
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "dataset_type",
        "dimensions",
        "storage_class",
    )

    def __init__(
        self,
        *,
        dataset_type: str,
        dimensions: str | Sequence[str],
        storage_class: str,
        is_calibration: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset_type = dataset_type
        self.dimensions = dimensions
        self.storage_class = storage_class
        self.is_calibration = is_calibration

    def curate(self, hook: CurationHook, *, dry_run: bool) -> dict[str, Any]:
        """Register."""
        registered = hook.register_dataset_type(
            self.dataset_type,
            names(self.dimensions),
            self.storage_class,
            is_calibration=self.is_calibration,
            dry_run=dry_run,
        )
        return {"dataset_type": self.dataset_type, "registered": registered}


def names(value: str | Sequence[str] | None) -> list[str]:
    """Return names that were given as a list, or as one string with commas (as templates give them)."""
    items = value.split(",") if isinstance(value, str) else value or ()
    return [name.strip() for name in items if name and name.strip()]


def _bootstrap(hook: CurationHook, steps: list[str], *, dry_run: bool, **plan: Any) -> dict[str, Any]:
    from tololo.hooks.bootstrap import BootstrapPlan, bootstrap

    if dry_run:
        hook.open().close()
        return {"steps": steps}
    return {"steps": bootstrap(BootstrapPlan(hook.repository, **plan), steps)}

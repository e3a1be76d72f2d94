"""The operator that prepares the APDB of a night."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.difference_params import apdb_name
from tololo.facility import collections
from tololo.operators.task import FacilityOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class PrepareApdbOperator(FacilityOperator):
    """Make the APDB of a template, or take the one that is there; hold its lock meanwhile.

    Reads the params ``coadd_subset``, ``template_type``, ``apdb``, ``apdb_policy``, ``apdb_templates`` and
    ``dry_run``. Returns the APDB's name, its configuration file, and the ``outcome``: ``created``, ``used``
    or ``reset``.

    :param template_version: version of the template that the difference images are made with (templated);
        it is recorded, and an APDB that was made with another is refused unless the params say otherwise.
    """

    template_fields: Sequence[str] = (*FacilityOperator.template_fields, "template_version")

    def __init__(self, *, template_version: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.template_version = template_version

    def work(self, context: Context) -> dict[str, str]:
        """Create or take."""
        from tololo.hooks.apdb import ApdbHook

        params = context["params"]
        name, hook = apdb_name(params), ApdbHook()
        if params["dry_run"]:
            self.log.info("Dry run: the APDB would be %s, policy %s", name, params["apdb_policy"])
            return {"apdb": name, "apdb_config": str(hook.config_path(name)), "outcome": "dry run"}
        made = hook.create(
            name,
            template=collections.coadd(params["coadd_subset"], params["template_type"]),
            template_version=self.template_version,
            policy=params["apdb_policy"],
            template_policy=params["apdb_templates"],
        )
        self.log.info("APDB %s: %s", name, made)
        return {"apdb": name, "apdb_config": made["config"], "outcome": made["outcome"]}

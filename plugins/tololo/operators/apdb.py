"""The operator that prepares the APDB of a night."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.difference_params import apdb_name
from tololo.facility import collections
from tololo.operators.apdb_nights import products
from tololo.operators.task import FacilityOperator
from tololo.params import data_query, night_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.apdb import ApdbHook


class PrepareApdbOperator(FacilityOperator):
    """Make the APDB of a template, or take the one that is there; hold its lock meanwhile.

    Reads the params ``coadd_subset``, ``template_type``, ``apdb``, ``apdb_policy``, ``apdb_templates`` and
    ``dry_run``. Returns the APDB's name, its configuration file, and the ``outcome``: ``created``, ``used``
    or ``reset``.

    What the Butler holds of an earlier association of the night is removed if that does not speak of all
    difference images that are there now, or the APDB does not hold them (any more): it would pass for done.

    :param template_version: version of the template that the difference images are made with (templated);
        it is recorded, and an APDB that was made with another is refused unless the params say otherwise.
    :param chain: chain of the night's difference images (templated); nothing is looked at where it is empty.
    :param where_terms: terms of the Butler data query that chooses those that are to be associated
        (templated), joined with those of the params ``detectors`` and ``where``.
    """

    template_fields: Sequence[str] = (
        *FacilityOperator.template_fields,
        "template_version",
        "chain",
        "where_terms",
    )

    def __init__(
        self, *, template_version: str = "", chain: str = "", where_terms: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.template_version = template_version
        self.chain = chain
        self.where_terms = where_terms

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
        if self.chain:
            self._renew(hook, name, context)
        return {"apdb": name, "apdb_config": made["config"], "outcome": made["outcome"]}

    def _renew(self, hook: ApdbHook, name: str, context: Context) -> None:
        params = context["params"]
        found = products(params).renew(
            self.chain,
            data_query(params, *self.where_terms),
            lambda images: hook.held(name, night_of(context), images),
            alerts=bool(params.get("alerts")),
        )
        if found:
            self.log.info("%d detectors of %s are to be associated", len(found), self.chain)

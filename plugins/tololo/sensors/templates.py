"""The sensor that waits for templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError
from tololo.facility.waiting import names_in
from tololo.params import NIGHT, data_query
from tololo.sensors.waiting import ButlerSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

NIGHTS_VISITS = ("instrument = 'DECam'", f"visit.day_obs = {NIGHT}")


class TemplateCoverageSensor(ButlerSensor):
    """Wait until the template covers a night's visits: all patches that overlap their detectors, by band.

    A patch that a visit touches with its edge only may have no template for ever, because no visit of the
    template reached it: at the edge of a field a ``coverage`` below 1 is what can be hoped for.

    :param visits: collections of the visits, separated by commas (templated).
    :param templates: collections of the template, separated by commas (templated).
    :param coverage: fraction of the patches of each band that is enough, 0 to 1 (templated).
    :param skymap: sky map of the patches (templated); that of the facility by default.
    :param where_terms: terms of the Butler data query that chooses the visits (templated), joined with those
        of the params ``detectors`` and ``where``; by default the night's.
    :param image: dataset type of the visit images (templated).
    :param template: dataset type of the templates (templated).
    :param conn_id: connection of the repository (templated).

    Returns the number of patches with a template. Further arguments are those of `FacilitySensor`.
    """

    QUESTION = "templates"
    template_fields: Sequence[str] = (
        "visits",
        "templates",
        "coverage",
        "skymap",
        "where_terms",
        "image",
        "template",
        "conn_id",
    )

    def __init__(
        self,
        *,
        visits: str = f"{NIGHT}/instcal",
        templates: str = "{{ params.coadd_subset }}/{{ params.template_type }}/coadd",
        coverage: float | str = 1.0,
        skymap: str = "",
        where_terms: Sequence[str] = NIGHTS_VISITS,
        image: str = "visit_image",
        template: str = "template_coadd",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.visits = visits
        self.templates = templates
        self.coverage = coverage
        self.skymap = skymap
        self.where_terms = where_terms
        self.image = image
        self.template = template

    def question_arguments(self, context: Context) -> dict[str, Any]:
        """Return which patches, by which visits, and where the templates are."""
        return {
            "template": self.template,
            "templates": names_in(self.templates),
            "image": self.image,
            "visits": names_in(self.visits),
            "where": data_query(context["params"], *self.where_terms),
            "skymap": self.skymap or facility().skymap,
            "coverage": self._fraction(),
        }

    def _fraction(self) -> float:
        try:
            fraction = float(self.coverage)
        except ValueError:
            fraction = -1.0
        if not 0 <= fraction <= 1:
            raise BadInputError(
                f"{self.coverage!r} is no fraction of the patches", f"task {self.task_id}", "give 0 to 1"
            )
        return fraction

"""The sensors that wait for templates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from tololo.facility.configuration import facility
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.facility.nights import parse_night
from tololo.facility.waiting import names_in
from tololo.params import NIGHT, data_query, night_of
from tololo.sensors.waiting import ButlerSensor, night_deadline

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.triggers.waiting import WaitTrigger

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
    :param own_night: night whose visits must not be in a template (templated); empty: any may.
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
        "own_night",
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
        own_night: str = "",
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
        self.own_night = own_night

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
            "own_night": parse_night(self.own_night) if self.own_night else None,
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


class NightTemplatesSensor(TemplateCoverageSensor):
    """Wait until the template covers a night's visits, ``wait`` hours after the end of the night at most.

    Then what is covered must do, or the task fails, as ``when_partial`` says; where nothing is covered it is
    skipped. A night that ended longer ago is not waited for. In each case what is missing is named: band,
    tract and patches, and where the template is made of the night itself.

    Reads the param ``wait``.

    :param when_partial: ``go_on`` or ``stop`` (templated).

    Further arguments are those of `TemplateCoverageSensor`.
    """

    template_fields: Sequence[str] = (*TemplateCoverageSensor.template_fields, "when_partial")

    def __init__(self, *, when_partial: str = "{{ params.partial }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.when_partial = when_partial

    def execute(self, context: Context) -> int:
        """Look, and wait as long as templates are waited for."""
        self.timeout = max(0.0, night_deadline(context) - time.time())
        return super().execute(context)

    def make_trigger(self, context: Context, deadline: float) -> WaitTrigger:
        """Return the trigger that asks, and is content with a part when the time is up."""
        from tololo.triggers.questions import QuestionTrigger

        trigger = super().make_trigger(context, deadline)
        assert isinstance(trigger, QuestionTrigger)
        trigger.go_on = self.when_partial == "go_on"
        return trigger

    def _end(self, context: Context, reason: BaseException) -> NoReturn:
        """Skip a night that nothing covers; what is wrong fails."""
        late = isinstance(reason, AirflowSensorTimeout)
        if late and not self._found() and self._is_answered(context):
            what = f"No template can be subtracted from night {night_of(context)}"
            message = str(NothingToDoError(what, str(reason), "run template_coadds"))
            context["task_state_store"].set("progress", message)
            raise AirflowSkipException(message) from None
        raise reason

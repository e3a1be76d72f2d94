"""The sensor that waits for calibrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.facility.collections import CALIBS, RAW_RUN
from tololo.facility.waiting import names_in
from tololo.params import NIGHT, data_query
from tololo.sensors.waiting import ButlerSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

SCIENCE_RAWS = (
    "instrument = 'DECam'",
    f"exposure.day_obs = {NIGHT}",
    "exposure.observation_type = 'science'",
)


class CalibrationSensor(ButlerSensor):
    """Wait until the calibrations that a night's raws need are certified and valid for them.

    Needed is each kind for every detector of the raws, and for every filter where the kind has one; valid
    means valid for the whole of each exposure. What is missing is named by kind, filter and detectors.

    :param kinds: dataset types of the calibrations, separated by commas (templated).
    :param collections: where they are certified: CALIBRATION collections or chains, separated by commas
        (templated); by default those of the night and the facility's.
    :param raw: dataset type of the raws (templated).
    :param raws: collections of the raws, separated by commas (templated).
    :param where_terms: terms of the Butler data query that chooses the raws (templated), joined with those of
        the params ``detectors`` and ``where``; by default the night's science exposures.
    :param conn_id: connection of the repository (templated).

    Returns the number of calibrations that are needed. Further arguments are those of `FacilitySensor`.
    """

    QUESTION = "calibrations"
    template_fields: Sequence[str] = ("kinds", "collections", "raw", "raws", "where_terms", "conn_id")

    def __init__(
        self,
        *,
        kinds: str = "bias,flat",
        collections: str = f"{NIGHT}/calib/flat,{NIGHT}/calib/bias,{CALIBS}",
        raw: str = "raw",
        raws: str = RAW_RUN,
        where_terms: Sequence[str] = SCIENCE_RAWS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kinds = kinds
        self.collections = collections
        self.raw = raw
        self.raws = raws
        self.where_terms = where_terms

    def question_arguments(self, context: Context) -> dict[str, Any]:
        """Return what is needed, where, and for which raws."""
        return {
            "kinds": names_in(self.kinds),
            "collections": names_in(self.collections),
            "raw": self.raw,
            "raws": names_in(self.raws),
            "where": data_query(context["params"], *self.where_terms),
        }

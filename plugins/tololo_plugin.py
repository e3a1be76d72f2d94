"""What Tololo adds to Airflow's web UI; the only file that Airflow's plugin loader runs."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from tololo.pages.views import APPS, VIEWS


class TololoPlugin(AirflowPlugin):
    """The pages: a board of nights in the navigation, and a scorecard on every run."""

    name = "tololo"
    fastapi_apps = APPS
    external_views = VIEWS

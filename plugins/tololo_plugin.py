"""What Tololo adds to Airflow's web UI; the only file that Airflow's plugin loader runs."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class TololoPlugin(AirflowPlugin):
    """Tololo in the list of plugins."""

    name = "tololo"

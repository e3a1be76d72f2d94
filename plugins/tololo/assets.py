"""What the DAGs make, as assets of Airflow: their events inform and draw the graph, they start nothing."""

from __future__ import annotations

from airflow.sdk import Asset

VISITS = Asset("visits", uri="tololo://visits", group="tololo")
"""Calibrated visits of a night, which nightly_decam makes."""
TEMPLATES = Asset("templates", uri="tololo://templates", group="tololo")
"""An accepted version of a template, which template_coadds makes."""
DIFFERENCES = Asset("differences", uri="tololo://differences", group="tololo")
"""Difference images of a night and its rows in an APDB, which difference_imaging makes."""
LIGHT_CURVES = Asset("light_curves", uri="tololo://light_curves", group="tololo")
"""Light curves in a TOM, which photometry_to_tom publishes."""

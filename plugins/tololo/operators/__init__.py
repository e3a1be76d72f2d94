"""Airflow operators; each wraps a hook of the same noun."""

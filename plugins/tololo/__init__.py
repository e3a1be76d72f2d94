"""Tololo: a DECam facility on the LSST middleware, run from Apache Airflow."""

__version__ = "0.1.0"

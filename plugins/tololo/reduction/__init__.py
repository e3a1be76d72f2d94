"""Pixels to numbers; imports the LSST middleware and astropy, never Airflow."""

"""The rules of the house; imports neither Airflow nor LSST nor numpy."""

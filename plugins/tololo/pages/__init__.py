"""What the web UI shows beyond Airflow: the board of nights, the scorecard of a night, and candidates."""

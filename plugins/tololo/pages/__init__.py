"""What the web UI shows beyond Airflow: the board of nights, and the scorecard of a night."""

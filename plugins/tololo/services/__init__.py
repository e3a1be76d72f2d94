"""The embedded PostgreSQL, Airflow and TOM, and the demo that drives them."""

"""The whole system on one machine: Airflow, servers, demos."""

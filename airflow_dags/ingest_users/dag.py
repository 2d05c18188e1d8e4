"""Curated users from all deliveries of their changes, in a container, as an Airflow pipeline of one task."""

from tandem import Pipeline

with Pipeline(__file__, tags=["curated"], default_args={"owner": "data"}) as dag:
    dag.container("ingest_users")

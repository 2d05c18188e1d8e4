"""Containers only, as an Airflow pipeline: a job that fits into one process needs no cluster."""

from tandem import Pipeline

with Pipeline(__file__, tags=["new"], default_args={"owner": "personalization"}) as dag:
    dag.container("ingest_items")

"""Curated items from the newest delivery, in a container, as an Airflow pipeline of one task."""

from tandem import Pipeline

with Pipeline(__file__, tags=["curated"], default_args={"owner": "data"}) as dag:
    dag.container("ingest_items")

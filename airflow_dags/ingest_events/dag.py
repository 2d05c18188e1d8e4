"""Curated events from the deliveries of tracking, on Spark. Its Airflow asset is the dataset curated/events."""

from tandem import Pipeline

with Pipeline(__file__, tags=["curated"], default_args={"owner": "data"}) as dag:
    dag.spark("ingest_events")

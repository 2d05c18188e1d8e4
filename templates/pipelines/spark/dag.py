"""Spark only, as an Airflow pipeline: a cluster opens before the first task and closes after the last."""

from tandem import Pipeline

with Pipeline(__file__, tags=["new"], default_args={"owner": "personalization"}) as dag:
    dag.spark("build_trending_items")

"""Containers alone, as an Airflow pipeline: no cluster for what fits into one process."""

from tandem import Pipeline

with Pipeline(__file__, schedule=None, tags=["new"], default_args={"owner": "personalization"}) as dag:
    dag.container("build_similar_items")

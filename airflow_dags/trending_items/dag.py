"""Trending items of each country and overall, on Spark, and their delivery, as an Airflow pipeline."""

from tandem import Pipeline

with Pipeline(__file__, schedule=None, tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    trending = dag.spark("build_trending_items")
    dag.container("publish_product", product=trending)

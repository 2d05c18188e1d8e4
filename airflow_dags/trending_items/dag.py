"""Trending items of each country and overall, on Spark, and their delivery, as an Airflow pipeline.

Runs each night even without new events, because scores decay by the day.
"""

from tandem import Pipeline

with Pipeline(__file__, schedule="@daily", tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    trending = dag.spark("build_trending_items")
    dag.container("publish_product", product=trending)

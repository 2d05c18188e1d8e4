"""Trending items of each country and overall, on Spark, and their delivery, as an Airflow pipeline.

Runs once a day, if there is new input.
"""

from tandem import Pipeline

with Pipeline(__file__, tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    trending = dag.spark("build_trending_items")
    parts = dag.container("write_product", shards=1, product=trending)
    dag.container("publish_product", parts=parts)

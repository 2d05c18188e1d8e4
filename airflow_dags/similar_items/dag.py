"""Similar items of all items and their delivery, in containers only, as an Airflow pipeline.

Runs each night, because it reads two datasets, and one night's events change few of the lists.
"""

from tandem import Pipeline

with Pipeline(__file__, schedule="@daily", tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    similar = dag.container("build_similar_items")
    dag.container("publish_product", product=similar)

"""Similar items of all items and their delivery, in containers only, as an Airflow pipeline.

Runs daily, because it reads two datasets, and one day's events change few of the lists.
"""

from tandem import Pipeline

with Pipeline(__file__, schedule="@daily", tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    similar = dag.container("build_similar_items")
    dag.container("publish_product", product=similar)

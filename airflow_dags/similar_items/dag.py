"""Similar items of all items, in containers alone, and their delivery, as an Airflow pipeline."""

from tandem import Pipeline

with Pipeline(__file__, schedule=None, tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    similar = dag.container("build_similar_items")
    dag.container("publish_product", product=similar)

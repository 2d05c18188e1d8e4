"""Similar items of all items and their delivery, in containers only, as an Airflow pipeline.

Runs once a day, if there is new input.
"""

from tandem import Pipeline

with Pipeline(__file__, tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    similar = dag.container("build_similar_items")
    dag.container("publish_product", product=similar)

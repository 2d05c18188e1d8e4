"""Daily recommendations and similar items: interactions on Spark; all else in containers.

An Airflow pipeline that runs once a day, if there is new input.
"""

from tandem import Pipeline

with Pipeline(__file__, tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    interactions = dag.spark("build_interactions")
    model = dag.container("train_recommender", interactions=interactions)
    predictions = dag.container("predict_recommendations", shards=4, interactions=interactions, model=model)
    recommendations = dag.container("select_recommendations", shards=4, predictions=predictions, model=model)
    parts = dag.container("write_product", shards=4, product=recommendations)
    dag.container("publish_product", parts=parts)
    similar = dag.container("build_similar_items", interactions=interactions)
    parts_of_similar = dag.container("write_product", task_id="write_similar_items", shards=1, product=similar)
    dag.container("publish_product", task_id="publish_similar_items", parts=parts_of_similar)

"""Daily recommendations: interactions on Spark; training, prediction, selection and delivery in containers.

Runs whenever the Airflow asset curated/events gets new events.
"""

from airflow.sdk import Asset
from tandem import Pipeline

with Pipeline(
    __file__, schedule=[Asset("curated/events")], tags=["recommendations"], default_args={"owner": "personalization"}
) as dag:
    interactions = dag.spark("build_interactions")
    model = dag.container("train_recommender", interactions=interactions)
    predictions = dag.container("predict_recommendations", shards=4, interactions=interactions, model=model)
    recommendations = dag.container("select_recommendations", predictions=predictions, model=model)
    dag.container("publish_product", product=recommendations)

"""Daily recommendations: interactions on Spark; training, prediction, selection and delivery in containers.

An Airflow pipeline that runs once a day, if there is new input.
"""

from tandem import Pipeline

with Pipeline(__file__, tags=["recommendations"], default_args={"owner": "personalization"}) as dag:
    interactions = dag.spark("build_interactions")
    model = dag.container("train_recommender", interactions=interactions)
    predictions = dag.container("predict_recommendations", shards=4, interactions=interactions, model=model)
    recommendations = dag.container("select_recommendations", predictions=predictions, model=model)
    dag.container("publish_product", product=recommendations)

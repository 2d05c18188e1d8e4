"""Spark for big data, then containers, as an Airflow pipeline: a model is trained, and predicts in shards."""

from tandem import Pipeline

with Pipeline(__file__, tags=["new"], default_args={"owner": "personalization"}) as dag:
    interactions = dag.spark("build_interactions")
    model = dag.container("train_recommender", interactions=interactions)
    dag.container("predict_recommendations", shards=2, interactions=interactions, model=model)

"""Characteristics of all users: features on Spark, churn in containers, join on Spark, delivery.

An Airflow pipeline that runs once a day, if there is new input.
"""

from tandem import Pipeline

with Pipeline(__file__, tags=["characteristics"], default_args={"owner": "personalization"}) as dag:
    features = dag.spark("build_user_features")
    model = dag.container("train_churn", features=features)
    predictions = dag.container("predict_churn", shards=4, features=features, model=model)
    characteristics = dag.spark("join_characteristics", predictions=predictions)
    parts = dag.container("write_product", shards=4, product=characteristics)
    dag.container("publish_product", parts=parts)

"""new_pipeline: the order of its tasks."""

from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

FOLDER = Path(__file__).parents[2] / "airflow_dags" / "new_pipeline"


def test_every_task_follows_its_predecessors():
    (dag,) = DagBag(str(FOLDER)).dags.values()
    trained = dag.get_task("train_recommender")
    predicted = dag.get_task("predict_recommendations")
    assert trained.upstream_task_ids == {"build_interactions"}
    assert predicted.upstream_task_ids == {"build_interactions", "train_recommender"}

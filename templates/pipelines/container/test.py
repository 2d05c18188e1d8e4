"""new_pipeline: its import and its task."""

from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

FOLDER = Path(__file__).parents[2] / "airflow_dags" / "new_pipeline"


def test_pipeline_imports_with_its_task():
    (dag,) = DagBag(str(FOLDER)).dags.values()
    assert "ingest_items" in dag.task_ids

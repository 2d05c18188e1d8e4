"""Runs of a local Airflow, as a person sees and changes them."""

from tools.airflow_api import quote_id


def states(airflow, dag, run):
    """The states of a run's tasks."""
    return {each.task_id: each.state for each in airflow.instances(dag, run)}


def fail_manually(airflow, dag, run):
    """Mark a run as failed."""
    airflow.call(f"/api/v2/dags/{dag}/dagRuns/{quote_id(run)}", {"state": "failed"}, "PATCH")

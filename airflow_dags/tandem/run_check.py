"""Check all that a run was given, in its first task, before anything is sent or a cluster opened."""

from typing import Any

from airflow.sdk import Context
from airflow.sdk.definitions.mappedoperator import MappedOperator

from tandem.operator import JobOperator
from tandem.parameters import check_configuration


def check_run(context: Context) -> None:
    """Raise AirflowFailException for what a run's configuration or a parameter of its tasks has wrong."""
    check_configuration(context)
    for task in context["dag"].tasks:
        job: Any = task
        if isinstance(task, MappedOperator) and issubclass(task.operator_class, JobOperator):
            job = task.unmap({"part": 0})
        if isinstance(job, JobOperator):
            job.check_early(context)

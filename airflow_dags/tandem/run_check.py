"""Check the configuration and parameters of a run in its first task, before a job starts or a cluster opens."""

from typing import Any

from airflow.sdk import Context
from airflow.sdk.definitions.mappedoperator import MappedOperator

from tandem.operator import JobOperator
from tandem.parameters import check_configuration


def check_run(context: Context) -> None:
    """Raise AirflowFailException for an error in the run's configuration or in a parameter of its tasks."""
    check_configuration(context)
    for task in context["dag"].tasks:
        job: Any = task
        if isinstance(task, MappedOperator) and issubclass(task.operator_class, JobOperator):
            job = task.unmap({"shard": 0})
        if isinstance(job, JobOperator):
            job.check_early(context)

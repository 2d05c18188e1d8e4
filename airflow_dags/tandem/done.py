"""The last task of a run that opens clusters: it fails if any other did, whatever Airflow would make of the run."""

from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

FAILED = ("failed", "upstream_failed")


class Done(BaseOperator):
    """Fails if a task of its run failed.

    Airflow decides on a run by its last tasks. A cluster's closing is one of them and succeeds after a failure, too;
    a run that is failed by hand has all else skipped, which counts as success. So this comes last of all, as a
    teardown, because only those are not skipped then.
    """

    def execute(self, context: Context) -> Any:
        instance: Any = context["ti"]
        states = instance.get_task_states(dag_id=instance.dag_id, run_ids=[instance.run_id])[instance.run_id]
        failed = sorted(task for task, state in states.items() if state in FAILED)
        if failed:
            raise AirflowFailException(f"The run failed, because these of its tasks did: {', '.join(failed)}.")

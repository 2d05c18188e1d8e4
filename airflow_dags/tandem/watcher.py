"""The last task of a run that opens clusters: it fails if any other task did, so that the run fails."""

from collections.abc import Collection
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.sdk.exceptions import AirflowFailException

from tandem.failure_notice import FAILURE, record_failure
from tandem.skipping import SKIPPED

FAILED = ("failed", "upstream_failed")


class Watcher(BaseOperator):
    """Fails with the reasons if a task of its run failed or was skipped manually; `watched` tasks skip no other.

    Airflow decides on a run by its last tasks. The task that closes a cluster is one of them and succeeds after a
    failure, too. If a run is marked failed manually, Airflow skips all tasks that did not run yet, which counts as
    success. So this task is the last one, and a teardown, because Airflow does not skip teardowns then.
    """

    def __init__(self, *, watched: Collection[str], **options: Any) -> None:
        super().__init__(**options)
        self.watched = watched

    def execute(self, context: Context) -> Any:
        instance: Any = context["ti"]
        run_id = instance.run_id
        states_of_run = instance.get_task_states(dag_id=instance.dag_id, run_ids=[run_id])[run_id]
        states = [(self.task_of(instance_id), state) for instance_id, state in states_of_run.items()]
        reasons: list[str] = []
        if failed := sorted({task for task, state in states if state in FAILED}):
            reasons = [f"The run failed because these tasks failed: {', '.join(failed)}."]
            reasons += filter(None, instance.xcom_pull(task_ids=failed, key=FAILURE))
        elif skipped := [
            task
            for task in self.skipped_manually({task for task, state in states if state == "skipped"})
            if not instance.xcom_pull(task_ids=task, key=SKIPPED)
        ]:
            reasons = [
                f"The run was marked failed manually, or these tasks were skipped manually: {', '.join(skipped)}."
            ]
        if reasons:
            text = "\n".join(reasons)
            record_failure(instance, text)  # Airflow's notice is about the task that failed last: this one
            raise AirflowFailException(text)

    def task_of(self, instance_id: str) -> str:
        """The ID of a task; Airflow names instances of mapped tasks by the ID, `_` and the index."""
        return instance_id if self.dag.has_task(instance_id) else instance_id.rpartition("_")[0]

    def skipped_manually(self, skipped: Collection[str]) -> list[str]:
        """The watched tasks that were skipped, though no direct predecessor was skipped or can skip its successors."""
        return sorted(
            task
            for task in skipped
            if task in self.watched
            and not any(
                predecessor.task_id in skipped or isinstance(predecessor, SkipMixin)
                for predecessor in self.dag.get_task(task).upstream_list
            )
        )

"""The last task of a run that opens clusters: it fails if any other did, whatever Airflow would make of the run."""

from collections.abc import Collection
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.sdk.exceptions import AirflowFailException

from tandem.failure_notice import FAILURE, note_failure

FAILED = ("failed", "upstream_failed")


class Watcher(BaseOperator):
    """Fails if a task of its run failed or was skipped by hand, and says why; `own` are tasks that skip nothing.

    Airflow decides on a run by its last tasks. A cluster's closing is one of them and succeeds after a failure, too;
    a run that is failed by hand has all that did not run yet skipped, which counts as success. So this comes last of
    all, as a teardown, because only those are not skipped then.
    """

    def __init__(self, *, own: Collection[str], **options: Any) -> None:
        super().__init__(**options)
        self.own = own

    def execute(self, context: Context) -> Any:
        instance: Any = context["ti"]
        found = instance.get_task_states(dag_id=instance.dag_id, run_ids=[instance.run_id])[instance.run_id]
        states = [(self.task_of(instance_id), state) for instance_id, state in found.items()]
        reasons: list[str] = []
        if failed := sorted({task for task, state in states if state in FAILED}):
            reasons = [f"The run failed, because these of its tasks did: {', '.join(failed)}."]
            reasons += filter(None, instance.xcom_pull(task_ids=failed, key=FAILURE))
        elif skipped := self.skipped_by_hand({task for task, state in states if state == "skipped"}):
            reasons = [
                f"The run failed: by hand it was marked so, or these of its tasks skipped: {', '.join(skipped)}."
            ]
        if reasons:
            text = "\n".join(reasons)
            note_failure(instance, text)  # this task is the last that failed, so Airflow's notice is of it
            raise AirflowFailException(text)

    def task_of(self, instance_id: str) -> str:
        """The ID of a task; Airflow tells states of mapped ones by the ID and the index, with `_` between."""
        return instance_id if self.dag.has_task(instance_id) else instance_id.rpartition("_")[0]

    def skipped_by_hand(self, skipped: Collection[str]) -> list[str]:
        """Which own tasks were skipped though no task right before them was, or is one that skips what follows it."""
        return sorted(
            task
            for task in skipped
            if task in self.own
            and not any(
                before.task_id in skipped or isinstance(before, SkipMixin)
                for before in self.dag.get_task(task).upstream_list
            )
        )

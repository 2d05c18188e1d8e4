"""The task after all others of a run: it fails if any of them did, so that the run fails."""

from collections.abc import Collection
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.sdk.exceptions import AirflowFailException

from tandem.protocol import REPORT_TASK
from tandem.recording import FAILURE, recording
from tandem.run_states import States, failed_tasks, states_of_run
from tandem.skipping import SKIPPED

TASK = "watcher"


class Watcher(BaseOperator):
    """Fails with the reasons if a task of its run failed or was skipped manually; `watched` tasks skip no other.

    Airflow decides on a run by its last tasks. The task that closes a cluster is one of them and succeeds after a
    failure, too. If a run that has teardowns is marked failed manually, Airflow skips all other tasks that did not run
    yet, which counts as success. So this task decides: it is a teardown itself, because Airflow does not skip those.
    """

    def __init__(self, *, watched: Collection[str], **options: Any) -> None:
        super().__init__(**options)
        self.watched = watched

    def execute(self, context: Context) -> Any:
        instance: Any = context["ti"]
        with recording(context):
            states = states_of_run(instance, self.dag)
            states.pop(REPORT_TASK, None)  # of an earlier end of this run, before tasks were cleared
            if reasons := self.reasons(instance, states):
                # Airflow's notice is about the task that failed last: this one.
                raise AirflowFailException("\n".join(reasons))

    def reasons(self, instance: Any, states: States) -> list[str]:
        """The reasons why the run counts as failed, none if it succeeded."""
        if failed := failed_tasks(states):
            reasons = instance.xcom_pull(task_ids=failed, key=FAILURE)
            return [f"The run failed because these tasks failed: {', '.join(failed)}.", *filter(None, reasons)]
        skipped = self.skipped_manually({task for task, of_task in states.items() if "skipped" in of_task.values()})
        if skipped := [task for task in skipped if not instance.xcom_pull(task_ids=task, key=SKIPPED)]:
            return [f"The run was marked failed manually, or these tasks were skipped manually: {', '.join(skipped)}."]
        return []

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

"""LocalExecutor for tasks that continue at once after they were suspended; the scheduler finds it on PYTHONPATH.

A task that waits, by a trigger or by being rescheduled, ends its process and continues in another one, as the same
attempt. If it continues before the scheduler has processed the end of the first process, Airflow's own LocalExecutor
(3.3.2) no longer knows that the task runs, so the scheduler fails the attempt ("state mismatch").
"""

from collections import Counter
from typing import Any

from airflow.executors.local_executor import LocalExecutor


class ResumingExecutor(LocalExecutor):  # type: ignore[misc]
    """Counts the processes of each attempt, so that the end of an earlier one does not pass for the attempt's end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.processes: Counter[Any] = Counter()

    def _process_workloads(self, workload_list: Any) -> None:
        self.processes.update(each.key for each in workload_list)
        super()._process_workloads(workload_list)

    def change_state(self, key: Any, state: Any, *arguments: Any, **options: Any) -> None:
        if state in ("success", "failed"):
            self.processes[key] -= 1
        super().change_state(key, state, *arguments, **options)

    def has_task(self, task_instance: Any) -> bool:
        """True if a process of the attempt is left, or none is needed yet; only the check for a mismatch asks."""
        left = self.processes[task_instance.key] > 0 or task_instance.state == "scheduled"
        return left or super().has_task(task_instance)

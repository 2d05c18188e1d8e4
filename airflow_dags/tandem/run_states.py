"""The states of a run's tasks, as Airflow knows them."""

from typing import Any

FAILED = ("failed", "upstream_failed")
States = dict[str, dict[str, str | None]]  # by task ID and map index, "" for a task that is not mapped


def states_of_run(instance: Any, dag: Any) -> States:
    """The states of all tasks in the run of a task; None: not scheduled yet."""
    run_id = instance.run_id
    states: States = {}
    for name, state in instance.get_task_states(dag_id=instance.dag_id, run_ids=[run_id])[run_id].items():
        # Airflow names the instances of mapped tasks by the ID, `_` and the index.
        task, _, index = (name, "", "") if dag.has_task(name) else name.rpartition("_")
        states.setdefault(task, {})[index] = state
    return states


def failed_tasks(states: States) -> list[str]:
    """The tasks that failed, or did not run because another one failed."""
    return sorted(task for task, of_task in states.items() if not set(FAILED).isdisjoint(of_task.values()))

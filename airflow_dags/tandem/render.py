"""Print what a task sends to where its job runs, exactly as it would: a pod, a Job, a step, a command line."""

import argparse
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DAGS = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dag", required=True, help="a pipeline")
    parser.add_argument("--task", required=True, help="one of its tasks that run a job")
    parser.add_argument("--run", default="RUN", help="ID of the run")
    parser.add_argument("--attempt", type=int, default=1)
    parser.add_argument("--map-index", type=int, default=0, help="which part of a mapped task")
    arguments = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # what Airflow has to say meanwhile
        print(json.dumps(sent(arguments), indent=2), file=output)


def sent(arguments: argparse.Namespace) -> Any:
    """The request of a task's first attempt; Airflow's variables come from AIRFLOW_VAR_… alone."""
    from airflow.sdk.execution_time.context import VariableAccessor

    from tandem.operator import JobOperator

    dag = load(arguments.dag)
    if arguments.task not in dag.task_ids:
        sys.exit(f"{arguments.dag} has no task '{arguments.task}'; it has {', '.join(sorted(dag.task_ids))}.")
    task = dag.get_task(arguments.task)
    if task.is_mapped:
        task = task.unmap({"part": arguments.map_index})
    if not isinstance(task, JobOperator):
        sys.exit(f"{arguments.task} runs no job, so it sends none; its class is {type(task).__name__}.")
    task.cluster = None  # what opening it returns is known in a run only
    names = {"dag_id": arguments.dag, "run_id": arguments.run, "task_id": arguments.task}
    release = json.loads(os.environ.get("AIRFLOW_VAR_RELEASE", "{}"))  # as the run's first task would take it
    instance = SimpleNamespace(**names, try_number=arguments.attempt, xcom_pull=lambda task_ids: release)
    context: Any = {
        "dag": dag,
        "task": task,
        "ti": instance,
        "run_id": arguments.run,
        "dag_run": SimpleNamespace(conf={}, run_id=arguments.run, start_date=None),
        "var": {
            "value": VariableAccessor(deserialize_json=False),
            "json": VariableAccessor(deserialize_json=True),
        },
    }
    task.render_template_fields(context)
    return task.runtime.sent(task.rendered_work(context))


def load(name: str) -> Any:
    """A pipeline; what does not fit in it is told as Airflow tells it."""
    from airflow.dag_processing.dagbag import DagBag

    folder = Path(os.environ.get("AIRFLOW__CORE__DAGS_FOLDER", DAGS)) / name
    if not (folder / "dag.py").exists():
        sys.exit(f"There is no pipeline '{name}' in {folder.parent}.")
    bag = DagBag(str(folder))
    if bag.import_errors:
        sys.exit("".join(bag.import_errors.values()))
    return bag.dags[name]


if __name__ == "__main__":
    main()

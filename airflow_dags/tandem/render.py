"""Print the payload of a task's attempt as its runtime would send it: a pod, a Job, a step, a command line."""

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
    parser.add_argument("--map-index", type=int, default=0, help="index of the instance of a mapped task")
    arguments = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # Airflow's own output
        print(json.dumps(payload(arguments), indent=2), file=output)


def payload(arguments: argparse.Namespace) -> Any:
    """The payload of an attempt, on the cluster if each run chooses; Airflow's variables come from AIRFLOW_VAR_…."""
    from airflow.sdk.execution_time.context import VariableAccessor

    from tandem.operator import JobOperator

    dag = load(arguments.dag)
    if arguments.task not in dag.task_ids:
        sys.exit(f"{arguments.dag} has no task '{arguments.task}'; it has {', '.join(sorted(dag.task_ids))}.")
    task = dag.get_task(arguments.task)
    if task.is_mapped:
        task = task.unmap({"shard": arguments.map_index})
    if not isinstance(task, JobOperator):
        sys.exit(f"{arguments.task} does not run a job, so it has no payload; its class is {type(task).__name__}.")
    task.cluster = None  # its ID is known in a run only
    names = {"dag_id": arguments.dag, "run_id": arguments.run, "task_id": arguments.task}
    release = json.loads(os.environ.get("AIRFLOW_VAR_RELEASE", "{}"))  # as the run's first task would pin it
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
    return task.runtime.payload(task.make_attempt(context))


def load(name: str) -> Any:
    """A pipeline; exits with Airflow's message if it does not import."""
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

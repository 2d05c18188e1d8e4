"""The tasks of all pipelines as Airflow imports them: the job of each, and the tasks that hand over to it."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass

from common.errors import TaskError
from tools.packaging.fingerprint import ROOT

PYTHON = ROOT / ".venv-airflow" / "bin" / "python"
LIST_PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
if bag.import_errors:
    sys.exit("\\n".join(text.strip().splitlines()[-1] for text in bag.import_errors.values()))
operator_arguments = lambda task: getattr(task, "partial_kwargs", None) or vars(task)
tasks = [(dag.dag_id, task.task_id, operator_arguments(task)) for dag in bag.dags.values() for task in dag.tasks]
print(json.dumps([(dag, task, of["job"], dict(of["predecessors"])) for dag, task, of in tasks if "job" in of]))
"""


@dataclass(frozen=True)
class TaskOfPipeline:
    """A task: its pipeline, its ID, its job, and by role the ID of the task that hands over."""

    pipeline: str
    task: str
    job: str
    predecessors: dict[str, str]


def tasks(environment: str) -> list[TaskOfPipeline]:
    """Return all tasks that run a job, in an environment; TaskError if Airflow can't import a pipeline."""
    with tempfile.TemporaryDirectory() as home:
        overrides = {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "TANDEM_ENVIRONMENT": environment}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "TANDEM_"))}
        ran = subprocess.run(
            [str(PYTHON), "-c", LIST_PROGRAM, str(ROOT / "airflow_dags")],
            env=inherited | overrides,
            capture_output=True,
            text=True,
        )
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no output"])[-1]
        raise TaskError(f"Airflow can't import the pipelines; its last line: {last}")
    return [TaskOfPipeline(*entry) for entry in json.loads(ran.stdout.splitlines()[-1])]

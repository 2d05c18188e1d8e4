"""The last task of a pipeline's run: it reports on the run, also on one that failed."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Context

from tandem import lake, look_for_input
from tandem.operator import JobOperator
from tandem.protocol import run_uri, task_key
from tandem.recording import lake_of, run_url
from tandem.run_kind import run_type, until
from tandem.run_states import States, failed_tasks, states_of_run
from tandem.runtimes.on_demand import OPENED
from tandem.skipping import SKIPPED, skip

FORMAT = 1


class ReportRun(JobOperator):
    """Writes run.json, which has all that Airflow alone knows about the run, and runs the job that reports.

    It is a teardown: it runs after a failure too, and its own failure does not change the state of the run. It skips
    itself if the run had no new input. If it fails after a failed run, it counts as skipped, because the notice of a
    failed run is about the task that failed last.
    """

    def __init__(
        self, *, environment: str, tasks: Mapping[str, Any], prices: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(**options)
        self.environment = environment
        self.tasks = tasks  # job, engine, runtime, resources and rates of tasks that have them
        self.prices = prices

    def execute(self, context: Context) -> Any:
        instance: Any = context["ti"]
        if instance.xcom_pull(task_ids=look_for_input.TASK, key=SKIPPED):
            skip(instance, "The run had nothing new to read, so there is nothing to report.")
        states = states_of_run(instance, context["dag"])
        states.pop(instance.task_id, None)
        try:
            self.write_run(context, states)
            return super().execute(context)
        except Exception as error:
            if failed_tasks(states):
                skip(instance, f"The run failed, and so did its report: {error}")
            raise

    def write_run(self, context: Context, states: States) -> None:
        """Write the scheduler's document about the run into the folder of this task."""
        instance: Any = context["ti"]
        run: Any = context["dag_run"]
        document = {
            "format": FORMAT,
            "environment": self.environment,
            "dag": instance.dag_id,
            "run": instance.run_id,
            "kind": run_type(context),
            "run_after": utc(run.run_after),
            "until": (run.conf or {}).get("until") or until(context) or None,
            "began": utc(run.start_date),
            "url": run_url(instance),
            "tasks": {task: self.describe(context, task, states[task]) for task in sorted(states)},
            "prices": self.prices,
        }
        key = task_key(lake_of(context), instance.dag_id, instance.run_id, instance.task_id)
        lake.write(run_uri(key), json.dumps(document, indent=1).encode())

    def describe(self, context: Context, name: str, states: Mapping[str, str | None]) -> dict[str, Any]:
        """A task of the run, with the states of its instances; a cluster that was opened late costs since then."""
        nothing: dict[str, Any] = {"job": None, "engine": None, "runtime": None, "resources": {}, "rates": []}
        task: Any = context["dag"].get_task(name)
        told = {**nothing, **self.tasks.get(name, {}), "upstream": sorted(task.upstream_task_ids), "states": states}
        if getattr(task, "sharing", None) and told["rates"]:
            instance: Any = context["ti"]
            opened = instance.xcom_pull(task_ids=name) is not None
            told |= {"opened": instance.xcom_pull(task_ids=name, key=OPENED), "rates": told["rates"] if opened else []}
        return told


def utc(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None

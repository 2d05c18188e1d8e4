"""Pin the release of a run: the build products that the Airflow variable `release` names when the run begins."""

from typing import Any

from airflow.sdk import BaseOperator, Context, Variable

from tandem.protocol import REPORT_TASK
from tandem.recording import recording

TASK = "pin_release"


class PinRelease(BaseOperator):
    """Returns the Airflow variable `release`, {job: fingerprint}, the build products of all tasks of the run.

    A deployment in the middle of a run therefore does not change the run. To give the run the new release, clear this
    task with its downstream tasks.
    """

    def execute(self, context: Context) -> Any:
        with recording(context):
            release = Variable.get("release", default={}, deserialize_json=True)
            named = ", ".join(f"{job} {release[job]}" for job in sorted(release))
            self.log.info("This run uses %s.", named or "nothing")
            return release


def fingerprint(job: str) -> str:
    """The template of a job's fingerprint in the release that its run pinned; empty if the release names none.

    The report on a run that failed before it pinned one uses the release of the day.
    """
    without = "var.json.get('release', {})" if job == REPORT_TASK else "{}"
    return f"{{{{ (ti.xcom_pull(task_ids='{TASK}') or {without}).get('{job}', '') }}}}"

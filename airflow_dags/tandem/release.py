"""Which build products a run takes: those that the Airflow variable `release` named when its first task ran."""

from typing import Any

from airflow.sdk import BaseOperator, Context, Variable

TASK = "take_release"


class TakeRelease(BaseOperator):
    """Returns the Airflow variable `release`, {job: fingerprint}: all tasks of the run take their products from that.

    So a deployment in the middle of a run does not change the run. Whoever clears this task, with those after it, lets
    the run take up the new release.
    """

    def execute(self, context: Context) -> Any:
        release = Variable.get("release", default={}, deserialize_json=True)
        self.log.info("This run takes %s.", ", ".join(f"{job} {release[job]}" for job in sorted(release)) or "nothing")
        return release


def fingerprint(job: str) -> str:
    """The template of the build product of a job that its run took, empty if the release names none."""
    return f"{{{{ (ti.xcom_pull(task_ids='{TASK}') or {{}}).get('{job}', '') }}}}"

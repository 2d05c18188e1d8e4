"""Which build products a run takes: those that the Airflow variable `release` named when its first task ran."""

from collections.abc import Callable
from typing import Any

from airflow.sdk import BaseOperator, Context, Variable

from tandem.failure_notice import noted

TASK = "pin_release"


class PinRelease(BaseOperator):
    """Returns the Airflow variable `release`, {job: fingerprint}: all tasks of the run take their products from that.

    So a deployment in the middle of a run does not change the run. Whoever clears this task, with those after it, lets
    the run take up the new release. It is the first task, so it checks what the run was given before any work begins.
    """

    def __init__(self, *, check: Callable[[Context], None], **options: Any) -> None:
        super().__init__(**options)
        self.check = check

    def execute(self, context: Context) -> Any:
        with noted(context["ti"]):
            self.check(context)
        release = Variable.get("release", default={}, deserialize_json=True)
        self.log.info("This run takes %s.", ", ".join(f"{job} {release[job]}" for job in sorted(release)) or "nothing")
        return release


def fingerprint(job: str) -> str:
    """The template of the build product of a job that its run took, empty if the release names none."""
    return f"{{{{ (ti.xcom_pull(task_ids='{TASK}') or {{}}).get('{job}', '') }}}}"

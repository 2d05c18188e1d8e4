"""Skip a task for a reason; the watcher tells such tasks from those that a person skipped."""

from typing import Any, NoReturn

from airflow.sdk.exceptions import AirflowSkipException

SKIPPED = "skipped"  # the XCom with the reason


def skip(instance: Any, reason: str) -> NoReturn:
    """End the task as skipped, with the tasks after it."""
    instance.xcom_push(SKIPPED, reason)
    raise AirflowSkipException(reason)

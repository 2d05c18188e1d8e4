"""The notice of a failed run, one per run, or of another event, to the environment's address or web hook."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException

log = logging.getLogger(__name__)
FAILURE = "failure"  # the XCom with the reason of a failed attempt
MAX_REASON = 4000  # characters of a notice


@dataclass(frozen=True)
class FailureNotice:
    """An on_failure_callback of DAGs: Airflow calls it once when a run fails, and once more if a cleared run fails.

    The notice goes to `email` by the connection smtp_default, and to `webhook`, an HTTP connection, as {"text": …},
    which chat programs accept, with the fields `dag`, `run`, `task`, `reason` and `log`.
    """

    environment: str
    email: str | None = None
    webhook: str | None = None

    def __call__(self, context: Context) -> None:
        details = failure_details(context)
        self.send(f"{details['dag']} failed", details)

    def send(self, event: str, details: Mapping[str, str]) -> None:
        """Send a notice of an event to all recipients, and to the log."""
        subject = f"{self.environment}: {event}"
        text = "\n".join([subject, *(f"{name}: {value}" for name, value in details.items())])
        log.error("%s", text)
        if self.email:
            from airflow.providers.smtp.hooks.smtp import SmtpHook  # 0.5 s, too slow for parsing

            with SmtpHook() as hook:
                hook.send_email_smtp(to=self.email, subject=subject, html_content=f"<pre>{escape(text)}</pre>")
        if self.webhook:
            from airflow.providers.http.hooks.http import HttpHook

            HttpHook("POST", self.webhook).run(json={"text": text, "environment": self.environment, **details})


@contextlib.contextmanager
def recording_failure(instance: Any) -> Iterator[None]:
    """Record the exception of this block, if any, for the notice."""
    try:
        yield
    except Exception as error:
        record_failure(instance, "\n".join(exception_lines(error)))
        raise


def exception_lines(error: Any) -> list[str]:
    """An exception and its causes as lines, without stacks."""
    lines: list[str] = []
    while isinstance(error, BaseException):
        name = "" if isinstance(error, AirflowException) else f"{type(error).__name__}: "
        lines += f"{'Caused by ' if lines else ''}{name}{error}".splitlines()
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines


def record_failure(instance: Any, reason: str) -> None:
    """Store the reason of a failed attempt for the notice."""
    instance.xcom_push(FAILURE, reason[:MAX_REASON])


def failure_details(context: Mapping[str, Any]) -> dict[str, str]:
    """The DAG, the run, and of the task that failed last: its ID, the reason, the URL of its log."""
    instance = context.get("ti")
    if instance is None:  # the run failed without a failed task, for example by its time-out
        return {"dag": context["dag"].dag_id, "run": context["run_id"], "reason": str(context.get("reason"))}
    index = "" if instance.map_index < 0 else f"[{instance.map_index}]"
    xcom = {"task_ids": instance.task_id, "map_indexes": instance.map_index, "key": FAILURE}
    return {
        "dag": instance.dag_id,
        "run": instance.run_id,
        "task": f"{instance.task_id}{index}, attempt {instance.try_number}",
        "reason": instance.xcom_pull(**xcom)
        or "The failed task does not run a job, or its worker was killed; see its log.",
        "log": instance.log_url,
    }

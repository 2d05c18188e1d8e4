"""The notice of a run that failed: once a run, to the address or the web hook that the environment names."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException

log = logging.getLogger(__name__)
FAILURE = "failure"  # the XCom in which a task leaves why its attempt failed
MAX_REASON = 4000  # characters of a notice


@dataclass(frozen=True)
class FailureNotice:
    """An on_failure_callback of DAGs: Airflow calls it once when a run has failed, and again if a cleared one fails.

    It goes to `email` by the connection smtp_default, and to `webhook`, an HTTP connection, as {"text": …}, which chat
    programs take, with `dag`, `run`, `task`, `reason` and `log` beside it.
    """

    environment: str
    email: str | None = None
    webhook: str | None = None

    def __call__(self, context: Context) -> None:
        told = described(context)
        subject = f"{self.environment}: {told['dag']} failed"
        text = "\n".join([subject, *(f"{name}: {value}" for name, value in told.items())])
        log.error("%s", text)
        if self.email:
            from airflow.providers.smtp.hooks.smtp import SmtpHook  # half a second, which parsing must not pay

            with SmtpHook() as hook:
                hook.send_email_smtp(to=self.email, subject=subject, html_content=f"<pre>{escape(text)}</pre>")
        if self.webhook:
            from airflow.providers.http.hooks.http import HttpHook

            HttpHook("POST", self.webhook).run(json={"text": text, "environment": self.environment, **told})


@contextlib.contextmanager
def noted(instance: Any) -> Iterator[None]:
    """Leave for the notice why what is done here fails, if it does."""
    try:
        yield
    except Exception as error:
        note_failure(instance, "\n".join(told(error)))
        raise


def told(error: Any) -> list[str]:
    """An exception and its causes, without stacks."""
    lines: list[str] = []
    while isinstance(error, BaseException):
        name = "" if isinstance(error, AirflowException) else f"{type(error).__name__}: "
        lines += f"{'Caused by ' if lines else ''}{name}{error}".splitlines()
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines


def note_failure(instance: Any, reason: str) -> None:
    """Leave why an attempt of a task failed, for the notice."""
    instance.xcom_push(FAILURE, reason[:MAX_REASON])


def described(context: Mapping[str, Any]) -> dict[str, str]:
    """The DAG, the run, and of the task that failed last: its ID, why it failed, where its log is."""
    instance = context.get("ti")
    if instance is None:  # it failed without a task: it took too long, say
        return {"dag": context["dag"].dag_id, "run": context["run_id"], "reason": str(context.get("reason"))}
    part = "" if instance.map_index < 0 else f"[{instance.map_index}]"
    of_the_task = {"task_ids": instance.task_id, "map_indexes": instance.map_index, "key": FAILURE}
    return {
        "dag": instance.dag_id,
        "run": instance.run_id,
        "task": f"{instance.task_id}{part}, attempt {instance.try_number}",
        "reason": instance.xcom_pull(**of_the_task)
        or "The task does not run a job, or its worker was killed; see its log.",
        "log": instance.log_url,
    }

"""The notice of the end of a run, one per run, or of another event, to the environment's address or web hook."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from airflow.sdk import Context

from tandem import look_for_input
from tandem.protocol import REPORT_TASK, card_uri, report_name
from tandem.recording import FAILURE, base_url, lake_of
from tandem.skipping import SKIPPED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailureNotice:
    """An on_failure_callback of DAGs: Airflow calls it once when a run fails, and once more if a cleared run fails.

    The notice goes to `email` by the connection smtp_default, and to `webhook`, an HTTP connection, as {"text": …},
    which chat programs accept, with the fields `dag`, `run`, `task`, `reason`, `log`, and of a run that has a card
    `card` and `page`.
    """

    environment: str
    email: str | None = None
    webhook: str | None = None
    success: bool = False  # True: also notices of runs that succeeded

    def __call__(self, context: Context) -> None:
        details = {**failure_details(context), **card_details(context)}
        self.send(f"{details['dag']} failed", details)

    def on_success(self, context: Context) -> None:
        """Send the notice of a run that succeeded, unless it had no new input."""
        instance = context.get("ti")
        if instance is None or instance.xcom_pull(task_ids=look_for_input.TASK, key=SKIPPED):
            return
        details = {"dag": instance.dag_id, "run": instance.run_id}
        if summary := (reported(context) or {}).get("metrics", {}).get("summary"):
            details["summary"] = str(summary)
        self.send(f"{instance.dag_id} succeeded", {**details, **card_details(context)}, logging.INFO)

    def send(self, event: str, details: Mapping[str, str], level: int = logging.ERROR) -> None:
        """Send a notice of an event to all recipients, and to the log."""
        subject = f"{self.environment}: {event}"
        text = "\n".join([subject, *(f"{name}: {value}" for name, value in details.items())])
        log.log(level, "%s", text)
        if self.email:
            from airflow.providers.smtp.hooks.smtp import SmtpHook  # 0.5 s, too slow for parsing

            with SmtpHook() as hook:
                hook.send_email_smtp(to=self.email, subject=subject, html_content=f"<pre>{escape(text)}</pre>")
        if self.webhook:
            from airflow.providers.http.hooks.http import HttpHook

            HttpHook("POST", self.webhook).run(json={"text": text, "environment": self.environment, **details})


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


def reported(context: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of the task that reported on the run, None if it did not succeed: only then there is a card."""
    instance = context.get("ti")
    result = instance.xcom_pull(task_ids=REPORT_TASK) if instance else None
    return result if isinstance(result, dict) else None


def card_details(context: Mapping[str, Any]) -> dict[str, str]:
    """The URI of the run's card in the lake, and its address on Airflow's page; nothing if the run has no card."""
    if reported(context) is None:
        return {}
    run = context["dag_run"]
    card = card_uri(lake_of(context), run.dag_id, report_name(run.run_after, run.run_id))
    page = f"{base_url(context['ti'])}/tandem/card/{quote(run.dag_id)}/{quote(run.run_id, safe='')}"
    return {"card": card, "page": page}

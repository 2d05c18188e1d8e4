"""Report pipelines that have not succeeded for too long, also if they never started; each delay once."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context, Variable
from airflow.sdk.execution_time.comms import GetPreviousDagRun

from tandem.failure_notice import FailureNotice
from tandem.metrics import gauge
from tandem.recording import recording

VARIABLE = "overdue"  # {pipeline: {"first_seen": time without success, "reported": time of the success before}}


class ReportOverdue(BaseOperator):
    """Sends a notice for each pipeline whose last success, or first sight, is more hours ago than it may be."""

    def __init__(self, *, pipelines: Mapping[str, float], notice: FailureNotice, **options: Any) -> None:
        super().__init__(**options)
        self.pipelines = pipelines
        self.notice = notice

    def execute(self, context: Context) -> None:
        with recording(context):
            known = Variable.get(VARIABLE, default={}, deserialize_json=True)
            for pipeline, hours in self.pipelines.items():
                entry = self.look(pipeline, hours, known.get(pipeline, {}), datetime.now(UTC))
                if entry != known.get(pipeline):
                    known = {**known, pipeline: entry}
                    Variable.set(VARIABLE, known, serialize_json=True)  # before a later notice fails

    def look(self, pipeline: str, hours: float, entry: Mapping[str, str], now: datetime) -> dict[str, str]:
        """Report a pipeline if it is overdue and was not reported yet; return its new entry."""
        success = last_success(pipeline, now)
        since = success or datetime.fromisoformat(entry.get("first_seen", now.isoformat()))
        gauge("tandem.seconds_since_success", (now - since).total_seconds(), {"dag_id": pipeline})
        seen = {} if success else {"first_seen": since.isoformat()}
        if now - since <= timedelta(hours=hours):
            return seen
        if entry.get("reported") != since.isoformat():
            reason = (
                f"{pipeline} has not succeeded since {since:%Y-%m-%d %H:%M} UTC{'' if success else ', or ever'}, "
                f"expected a success every {hours:g} hours; look at its runs in Airflow, or start it."
            )
            self.notice.send(f"{pipeline} is overdue", {"dag": pipeline, "reason": reason})
        return {**seen, "reported": since.isoformat()}


def last_success(pipeline: str, now: datetime) -> datetime | None:
    """The end of a pipeline's newest successful run, by its logical date."""
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS  # set when a task runs

    later = now + timedelta(days=1)
    response: Any = SUPERVISOR_COMMS.send(GetPreviousDagRun(dag_id=pipeline, logical_date=later, state="success"))
    end: datetime | None = response.dag_run and response.dag_run.end_date
    return end

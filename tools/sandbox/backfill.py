"""Make the results of past days, each as of its day: a backfill of Airflow, with the outcome of every day."""

import argparse
import contextlib
import datetime
import sys
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from common.errors import ArgumentError, TaskError
from common.protocol import nearest
from tools import environment
from tools.airflow_api import Airflow, AirflowError, poll, quote_id, reason
from tools.command_line import exit_on_task_error
from tools.deploy import releases
from tools.sandbox import local_airflow

Run = dict[str, Any]


@dataclass(frozen=True)
class Backfill:
    """A backfill that Airflow has accepted: its number there, the span of logical dates, the number of runs."""

    pipeline: str
    number: int
    first: datetime.datetime
    end: datetime.datetime
    days: int


@exit_on_task_error()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", required=True, metavar="NAME", help="one of airflow_dags/environments")
    parser.add_argument("--pipeline", required=True, metavar="NAME", help="a pipeline that runs once a day")
    parser.add_argument("--first", required=True, type=day, metavar="DATE", help="the first day, such as 2011-06-01")
    parser.add_argument("--last", required=True, type=day, metavar="DATE", help="the last day")
    parser.add_argument("--runs", type=int, default=1, metavar="NUMBER", help="maximum number of concurrent runs")
    arguments = parser.parse_args()
    days = (arguments.first, arguments.last)
    with begun(arguments.environment, lambda airflow: create(airflow, arguments.pipeline, days, arguments.runs)) as (
        airflow,
        backfill,
    ):
        print(f"Backfill {backfill.number} of {backfill.pipeline}: {backfill.days} days, {arguments.runs} at once.")
        failed = follow(airflow, backfill, lambda line: print(line, flush=True))
    if failed:
        sys.exit(f"{len(failed)} of {backfill.days} days failed: {', '.join(failed)}; the reasons are above.")


def day(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


@contextlib.contextmanager
def begun(name: str, create: Callable[[Airflow], Backfill]) -> Iterator[tuple[Airflow, Backfill]]:
    """Log in to the Airflow of an environment and create a backfill; on the laptop, start Airflow for this block.

    Airflow does not support creating one on SQLite while the scheduler writes, so there it is created before.
    """
    settings = environment.load(name)
    if name != "laptop":
        airflow = releases.connect(settings)
        yield airflow, create(airflow)
        return
    created: list[Backfill] = []
    with local_airflow.start(report=print, prepare=lambda airflow: created.append(create(airflow))) as airflow:
        yield airflow, created[0]


def create(airflow: Airflow, pipeline: str, days: tuple[datetime.date, datetime.date], runs: int) -> Backfill:
    """Create a run for each day from the first to the last, also for days that ran before.

    Raises ArgumentError or AirflowError with a sentence if nothing can run.
    """
    check_pipeline(airflow, pipeline)
    midnight = datetime.time(tzinfo=datetime.UTC)
    first = datetime.datetime.combine(days[0], midnight)
    end = datetime.datetime.combine(days[1], midnight) + datetime.timedelta(days=1, seconds=-1)
    body = {
        "dag_id": pipeline,
        "from_date": first.isoformat(),
        "to_date": end.isoformat(),
        "reprocess_behavior": "completed",
        "max_active_runs": runs,
    }
    planned = len(post(airflow, "/api/v2/backfills/dry_run", body)["backfills"])
    number = (days[1] - days[0]).days + 1
    if not planned:
        raise ArgumentError(f"No run of {pipeline} lies between {days[0]} and {days[1]}; give days in the past.")
    if planned > number:
        raise ArgumentError(
            f"{pipeline} runs more than once a day ({planned} times in {number} days), expected one run a day; an "
            "ingestion takes all new deliveries anyway."
        )
    return Backfill(pipeline, post(airflow, "/api/v2/backfills", body)["id"], first, end, planned)


def check_pipeline(airflow: Airflow, pipeline: str) -> None:
    """Raise ArgumentError unless Airflow knows a pipeline and may start its runs."""
    known = {dag["dag_id"]: dag for dag in airflow.call("/api/v2/dags?limit=1000")["dags"]}
    if pipeline not in known:
        raise ArgumentError(f"There is no pipeline '{pipeline}' in Airflow{nearest(pipeline, sorted(known))}.")
    if known[pipeline]["is_paused"]:
        raise ArgumentError(f"{pipeline} is paused, so Airflow would not start its runs; unpause it first.")


def post(airflow: Airflow, path: str, body: dict[str, Any]) -> Any:
    """Send a request; AirflowError with Airflow's own sentence if it is refused."""
    try:
        return airflow.call(path, body, repeat=True)
    except urllib.error.HTTPError as error:
        raise AirflowError(f"Airflow refused the backfill of {body['dag_id']} ({reason(error)}).") from None
    except OSError as error:
        raise TaskError(f"Airflow at {airflow.url} does not answer ({error}); check it, and retry.") from None


def follow(airflow: Airflow, backfill: Backfill, report: Callable[[str], None]) -> list[str]:
    """Report each day of a backfill when its run ends, until all have ended; return the days that failed.

    Ctrl-C cancels the backfill.
    """
    ended: dict[str, str] = {}
    try:
        for _ in poll(7 * 24 * 3600, f"The backfill of {backfill.pipeline} did not end within a week"):
            for run in runs_between(airflow, backfill.pipeline, backfill.first, backfill.end):
                state, name = run["state"], run["logical_date"][:10]
                if state in ("success", "failed") and name not in ended:
                    ended[name] = state
                    reason = f": {failure(airflow, backfill.pipeline, run)}" if state == "failed" else ""
                    report(f"{len(ended)} of {backfill.days}  {name}  {state} in {seconds(run):.0f} s{reason}")
            if len(ended) >= backfill.days:
                break
    except KeyboardInterrupt:
        airflow.call(f"/api/v2/backfills/{backfill.number}/cancel", {}, "PUT")
        raise AirflowError(
            f"Backfill {backfill.number} is cancelled; runs that have begun end by themselves."
        ) from None
    return sorted(name for name, state in ended.items() if state == "failed")


def runs_between(airflow: Airflow, pipeline: str, first: datetime.datetime, end: datetime.datetime) -> list[Run]:
    """Return the runs of backfills with a logical date in a span of time, oldest first."""
    runs: list[Run] = []
    span = f"logical_date_gte={quote_id(first.isoformat())}&logical_date_lte={quote_id(end.isoformat())}"
    while True:
        path = f"/api/v2/dags/{pipeline}/dagRuns?{span}&order_by=logical_date&limit=100&offset={len(runs)}"
        page = airflow.call(path)
        runs += page["dag_runs"]
        if not page["dag_runs"] or len(runs) >= page["total_entries"]:
            return [run for run in runs if run["run_type"] == "backfill"]


def failure(airflow: Airflow, pipeline: str, run: Run) -> str:
    """Return the sentence with which a run failed, by the task that failed first."""
    instances = airflow.instances(pipeline, run["dag_run_id"])
    failed = next((each for each in instances if each.state == "failed"), None)
    if failed is None:
        return "no task failed; look at the run in Airflow"
    reason = airflow.xcom(pipeline, run["dag_run_id"], failed, "failure") or "see its log in Airflow"
    return f"{failed.task_id}: {' '.join(str(reason).splitlines()[:2])}"


def seconds(run: Run) -> float:
    begin, end = (datetime.datetime.fromisoformat(run[key]) for key in ("start_date", "end_date"))
    return (end - begin).total_seconds()


if __name__ == "__main__":
    main()

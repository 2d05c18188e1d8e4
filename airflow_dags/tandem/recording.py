"""Record each attempt of a task: scheduler.json in the lake, and the reason of a failure for the notice."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowRescheduleException,
    AirflowSkipException,
    TaskDeferred,
)

from tandem import lake
from tandem.protocol import attempt_folder, scheduler_uri, task_key

log = logging.getLogger(__name__)
FAILURE = "failure"  # the XCom with the reason of a failed attempt
FORMAT = 1
MAX_REASON = 4000  # characters of a notice
NESTED: ContextVar[bool] = ContextVar("NESTED", default=False)  # True while an operator executes others


@dataclass
class Account:
    """The part of an attempt's account that only its operator knows; most of it is written at the end."""

    runtime: str | None = None
    engine: str | None = None  # of a Spark job: light or spark
    engine_reason: str | None = None
    exit_code: int | None = None
    adopted: int | None = None  # the attempt of a dead worker, whose work this attempt completed
    rerun: str | None = None  # the command that runs the task again
    links: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def recording(
    context: Context, job: str | None = None, runtime: str | None = None, kept: Mapping[str, Any] | None = None
) -> Iterator[Account]:
    """Write scheduler.json at the beginning and the end of this block; store its exception, if any, for the notice.

    `kept` is the account of an attempt that was deferred, as a table.

    An attempt that is killed stays "running", and so does one that Airflow suspends. No error of the lake matters here.
    """
    account, document = Account(**kept) if kept else Account(runtime), Document(context, job)
    if NESTED.get():  # within another attempt, which has its own account
        yield account
        return
    document.begin(account, bool(kept))
    try:
        yield account
    except (AirflowRescheduleException, TaskDeferred):  # it resumes in another process
        raise
    except AirflowSkipException as skipped:
        document.end("skipped", account, str(skipped))
        raise
    except BaseException as error:  # a time-out is not an Exception
        reason = "\n".join(exception_lines(error))[:MAX_REASON]
        document.end("failed", account, reason)
        context["ti"].xcom_push(FAILURE, reason)
        raise
    document.end("succeeded", account)


@contextlib.contextmanager
def nested() -> Iterator[None]:
    """Execute operators within another one's attempt, which is recorded once."""
    token = NESTED.set(True)
    try:
        yield
    finally:
        NESTED.reset(token)


class Recorded(BaseOperator):
    """The base, before an operator of a provider, of those whose attempts are recorded."""

    def execute(self, context: Context) -> Any:
        with recording(context):
            return super().execute(context)


class Document:
    """The scheduler's document about an attempt."""

    def __init__(self, context: Context, job: str | None) -> None:
        self.context = context
        self.job = job
        self.began = datetime.now(UTC).isoformat()

    def begin(self, account: Account, deferred: bool) -> None:
        with logging_errors():
            instance: Any = self.context["ti"]
            suspended = deferred or self.context.get("task_reschedule_count")
            resumed = suspended and lake.read_document(self.uri())
            self.began = resumed["began"] if resumed else instance.start_date.astimezone(UTC).isoformat()
            if not resumed:
                self.write("running", account)

    def end(self, state: str, account: Account, reason: str | None = None) -> None:
        with logging_errors():
            self.write(state, account, datetime.now(UTC).isoformat(), reason)

    def write(self, state: str, account: Account, ended: str | None = None, reason: str | None = None) -> None:
        document = {
            "format": FORMAT,
            "task": self.task(),
            "job": self.job,
            "began": self.began,
            "ended": ended,
            "state": state,
            "reason": reason and reason[:MAX_REASON],
            "log": self.context["ti"].log_url,
            **asdict(account),
        }
        lake.write(self.uri(), json.dumps(document, indent=1).encode())

    def task(self) -> dict[str, Any]:
        """The identity of the attempt, as in the documents of jobs."""
        instance: Any = self.context["ti"]
        names = {name: getattr(instance, name) for name in ("dag_id", "run_id", "task_id")}
        map_index = instance.map_index if (instance.map_index or 0) >= 0 else None
        return {**names, "map_index": map_index, "attempt": instance.try_number}

    def uri(self) -> str:
        task = self.task()
        names = {name: task[name] for name in ("dag_id", "run_id", "task_id", "map_index")}
        return scheduler_uri(attempt_folder(task_key(lake_of(self.context), **names), task["attempt"]))


@contextlib.contextmanager
def logging_errors() -> Iterator[None]:
    """Log an error of this block: a task does not fail because the lake cannot be written by its scheduler."""
    try:
        yield
    except Exception as error:
        log.warning("This attempt is not recorded in the lake (%s: %s).", type(error).__name__, error)


def lake_of(context: Mapping[str, Any]) -> str:
    """The root of the lake of a task's pipeline."""
    template = context["dag"].user_defined_macros["lake"]
    root: str = context["task"].render_template(template, context)
    return root.rstrip("/")


def base_url(instance: Any) -> str:
    """The address of Airflow's pages."""
    return str(instance.log_url).partition("/dags/")[0]


def run_url(instance: Any) -> str:
    """The address of the page of a task's run."""
    return f"{base_url(instance)}/dags/{quote(instance.dag_id)}/runs/{quote(instance.run_id)}"


def exception_lines(error: Any) -> list[str]:
    """An exception and its causes as lines, without stacks."""
    lines: list[str] = []
    while isinstance(error, BaseException):
        name = "" if isinstance(error, AirflowException) else f"{type(error).__name__}: "
        lines += f"{'Caused by ' if lines else ''}{name}{error}".splitlines()
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines

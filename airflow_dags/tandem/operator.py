"""The one operator that runs a job through a runtime, and the last lines in the log of a task that failed."""

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from signal import Signals
from typing import Any

from airflow.sdk import BaseOperator, Context, TaskInstanceState
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tandem.lake import read_document
from tandem.notice import note_failure
from tandem.runtimes import ContainerRuntime, Outcome, Work

FINAL = {  # exit codes that another attempt would end with too
    2: "wrong arguments",
    3: "an input is missing or breaks its contract",
    4: "a quality gate refused the result",
    5: "fenced, this attempt or a newer one has published",
}
FENCED = 5
LARGEST_RESULT = 48 << 10  # bytes, as in common.task: XComs lie in Airflow's database
log = logging.getLogger(__name__)


class JobOperator(BaseOperator):
    """Runs a job as one task and returns what it left: {"manifest": URI, "metrics": {…}}.

    A task without the manifest of its own attempt (or of the one that it took over) has failed, whatever its exit code
    says. Exit codes 2 to 5 fail at once (AirflowFailException); any other failure is worth a retry (AirflowException).
    """

    template_fields = ("lake", "parameters", "request", "cluster")

    def __init__(
        self,
        *,
        job: str,
        runtime: ContainerRuntime,
        lake: str,
        predecessors: Mapping[str, str],
        parameters: Mapping[str, Any],
        request: Mapping[str, Any],
        cluster: Any,
        part: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.job = job
        self.runtime = runtime
        self.lake = lake
        self.predecessors = predecessors
        self.parameters = parameters
        self.request = request
        self.cluster = cluster
        self.part = part
        self.work: Work | None = None
        self.handle: Any = None

    def execute(self, context: Context) -> Any:
        self.work = self.rendered_work(context)
        self.handle = self.runtime.submit(self.work)
        outcome = self.runtime.watch(self.handle)
        done = self.work
        if outcome.attempt not in (None, done.attempt):  # begun before this try, maybe before the run was cleared
            done = replace(done, attempt=outcome.attempt, run_started=None)
        uri = f"{done.key}/manifest.json"
        manifest = read_document(uri)
        newest = attempt_of(manifest, done)
        if outcome.exit_code == 0 and manifest and newest == done.attempt:
            return result(outcome) or small({"manifest": uri, "metrics": manifest["metrics"]})
        document = read_document(f"{done.key}/attempt-{done.attempt}/failure.json")
        if attempt_of(document, done) == 0:
            document = None
        code = document["exit_code"] if document else outcome.exit_code
        if code and document is None and newest > done.attempt:
            code = FENCED  # which leaves no document; clusters tell nothing but that a job failed
        failure = AirflowFailException if code in FINAL else AirflowException
        text = "\n".join([ending(code, done), *reasons(outcome, document)])
        note_failure(context["ti"], text)
        raise failure(text)

    def rendered_work(self, context: Context) -> Work:
        """This attempt of the task, once its templates are rendered."""
        instance = context["ti"]
        started = context["dag_run"].start_date
        return Work(
            job=self.job,
            lake=self.lake,
            dag_id=instance.dag_id,
            run_id=instance.run_id,
            task_id=instance.task_id,
            attempt=instance.try_number,
            map_index=self.part,
            predecessors=self.predecessors,
            parameters=self.parameters,
            request=self.request,
            cluster=self.cluster,
            run_started=started.astimezone(UTC).isoformat(timespec="microseconds") if started else None,
        )

    def on_kill(self) -> None:
        if self.handle is not None:
            self.runtime.cancel(self.handle)


def attempt_of(document: Mapping[str, Any] | None, work: Work) -> int:
    """The number of the attempt that left a document in the lake; 0 for none, and for one of an older run of this ID.

    A run that is deleted and made anew, or cleared, keeps its ID and begins later.
    """
    if document is None:
        return 0
    began = document["task"].get("run_started")
    older = began and work.run_started and began < work.run_started
    return 0 if older else int(document["task"]["attempt"])


def result(outcome: Outcome) -> Any:
    """What the job left in its result file, None if it left nothing that can be an XCom; the manifest says it, too."""
    if outcome.result is None:
        return None
    with contextlib.suppress(ValueError):
        if len(outcome.result) <= LARGEST_RESULT:
            return json.loads(outcome.result)
    log.warning("The result file is not JSON, or over %s KiB; its manifest is taken instead.", LARGEST_RESULT >> 10)
    return None


def small(xcom: dict[str, Any]) -> dict[str, Any]:
    """An XCom that fits into Airflow's database: without its largest metrics, of which it says so."""
    kept = {name: len(json.dumps({name: value})) for name, value in xcom["metrics"].items()}
    left_out: list[str] = []
    while kept and sum(kept.values()) > LARGEST_RESULT - 1024:
        left_out.append(max(kept, key=lambda name: kept[name]))
        del kept[left_out[-1]]
    if not left_out:
        return xcom
    told = f"{len(left_out)} metrics, '{left_out[0][:100]}' first; the manifest has them."
    return {**xcom, "metrics": {name: xcom["metrics"][name] for name in kept}, "left_out": told}


def ending(code: int, work: Work) -> str:
    """How a work ended, in one line; a shell and spark-submit tell a signal as 128 plus its number."""
    number = -code if code < 0 else code - 128
    if number in set(Signals):
        how = f"was killed by {Signals(number).name}"
    elif code == 0:
        how = f"ended with exit code 0, but without a manifest of this attempt at {work.key}/manifest.json"
    else:
        how = f"ended with exit code {code}" + (f" ({FINAL[code]})" if code in FINAL else "")
    return f"Attempt {work.attempt} of {work.task_id} {how}."


def reasons(outcome: Outcome, document: Mapping[str, Any] | None) -> list[str]:
    """What the job itself says, its failure document or else its last line, and what the runtime knows beside it."""
    explained = outcome.explanation.splitlines()
    if document is None:
        said = [f"It said last: {outcome.last_line}"] if outcome.last_line else []
        return [*explained, *said] or ["It said nothing."]
    causes = [f"Caused by {cause['type']}: {cause['message']}" for cause in document["exceptions"][1:]]
    return [document["sentence"], *causes, *explained]


def tell_failure(context: Context) -> None:
    """Make a failed task's own error, and how to run it again, the last lines of its log.

    For on_failure_callback and on_retry_callback, which Airflow calls after it has printed its stack. Airflow's page
    folds what comes after the task, so the fold is closed first.
    """
    instance: Any = context["ti"]
    log.info("::endgroup::")
    for line in told(context.get("exception")):
        log.error("%s", line)
    log.error(
        "Airflow tries it again." if instance.state == TaskInstanceState.UP_FOR_RETRY else "It is not tried again."
    )
    task = instance.task
    if isinstance(task, JobOperator) and task.work:
        log.error("To run it by hand: %s", task.runtime.again(replace(task.work, attempt=task.work.attempt + 1)))


def told(error: Any) -> list[str]:
    """An exception and its causes, without stacks."""
    lines: list[str] = []
    while isinstance(error, BaseException):
        name = "" if isinstance(error, AirflowException) else f"{type(error).__name__}: "
        lines += f"{'Caused by ' if lines else ''}{name}{error}".splitlines()
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines

"""The operator that runs a job through a runtime, and the last lines in the log of a failed task."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC
from signal import Signals
from typing import Any

from airflow.sdk import BaseOperator, Context, TaskInstanceState
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tandem.dag_errors import PipelineError
from tandem.failure_notice import exception_lines, recording_failure
from tandem.lake import read_document
from tandem.parameters import Declarations, check_configuration, check_parameters, effective_values, needs_its_task
from tandem.protocol import EXIT_STALE, FINAL, MAX_RESULT, attempt_folder, failure_uri, fit_result, manifest_uri
from tandem.run_kind import is_backfill
from tandem.runtimes.base import Attempt, Outcome, Runtime
from tandem.skipping import skip
from tandem.texts import IN_NAMES, check_texts

MAX_SENTENCE = 2000  # characters of a sentence from a failure document
log = logging.getLogger(__name__)


class JobOperator(BaseOperator):
    """Runs a job as one task and returns its manifest and metrics: {"manifest": URI, "metrics": {…}}.

    A task has succeeded if the manifest of its own attempt (or of the one that it adopted) exists, and failed
    otherwise, whatever its exit code is. Exit codes 2 to 5 fail at once (AirflowFailException); any other failure is
    retried (AirflowException).
    """

    template_fields = ("lake", "parameters", "request", "cluster")

    def __init__(
        self,
        *,
        job: str,
        runtime: Runtime,
        lake: str,
        predecessors: Mapping[str, str],
        parameters: Mapping[str, Any],
        request: Mapping[str, Any],
        cluster: Any,
        declarations: Declarations,
        at_trigger: Sequence[str] = (),
        deadline_seconds: float | None = None,
        shard: int | None = None,
        publishes: bool = False,
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
        self.declarations = declarations  # of the job's parameters
        self.at_trigger = at_trigger  # the names of those that a run may set
        self.deadline_seconds = deadline_seconds
        self.shard = shard
        self.publishes = publishes  # to frontends, so not in a backfill
        self.attempt: Attempt | None = None
        self.handle: Any = None

    def execute(self, context: Context) -> Any:
        if self.publishes and is_backfill(context):
            skip(context["ti"], f"A backfill publishes nothing, so '{self.job}' is skipped; frontends read as before.")
        with recording_failure(context["ti"]):
            self.attempt = self.make_attempt(context)
            self.check(self.attempt)
            self.runtime.check_product(self.attempt)
            self.handle = self.runtime.submit(self.attempt)
            outcome = self.runtime.watch(self.handle)
            ran = self.attempt
            if outcome.attempt_number not in (None, ran.number):  # an older one, maybe from before the run was cleared
                ran = replace(ran, number=outcome.attempt_number, run_started=None)
            result, manifest = conclude(ran, outcome)
        self.describe_assets(context, manifest, manifest_uri(ran.key))
        return result

    def describe_assets(self, context: Context, manifest: Mapping[str, Any], uri: str) -> None:
        """Give the asset event of each dataset the days, rows and manifest; without new rows there is no event."""
        outputs = {output.get("dataset"): output for output in manifest.get("outputs", {}).values()}
        self.outlets = [asset for asset in self.outlets if outputs.get(asset.name, {}).get("rows")]
        for asset in self.outlets:
            output = outputs[asset.name]
            days = sorted(name.removeprefix("date=") for name in output["partitions"] if name.startswith("date="))
            context["outlet_events"][asset].extra = {"days": days, "rows": output["rows"], "manifest": uri}

    def make_attempt(self, context: Context) -> Attempt:
        """This attempt of the task, once its templates are rendered."""
        instance = context["ti"]
        started = context["dag_run"].start_date
        return Attempt(
            job=self.job,
            lake=self.lake,
            dag_id=instance.dag_id,
            run_id=instance.run_id,
            task_id=instance.task_id,
            number=instance.try_number,
            map_index=self.shard,
            predecessors=self.predecessors,
            parameters=effective_values(self.parameters, check_configuration(context), self.at_trigger),
            request=self.request,
            cluster=self.cluster,
            run_started=started.astimezone(UTC).isoformat(timespec="microseconds") if started else None,
            deadline_seconds=self.deadline_seconds,
        )

    def check_early(self, context: Context) -> None:
        """Check all that is known in the first task of a run; raise AirflowFailException with the error.

        A parameter that depends on another task's return value is checked in its own task.
        """
        environment = self.get_template_env(context["dag"])
        deferred = {name for name, value in self.parameters.items() if needs_its_task(value, environment)}
        known = {name: value for name, value in self.parameters.items() if name not in deferred}
        rendered = self.render_template({"lake": self.lake, "parameters": known}, context, environment)
        values = effective_values(rendered["parameters"], check_configuration(context), self.at_trigger)
        attempt = self.make_attempt(context)
        attempt = replace(attempt, task_id=self.task_id, lake=rendered["lake"], parameters=values)
        self.check(attempt, deferred - values.keys())

    def check(self, attempt: Attempt, deferred: Set[str] = frozenset()) -> None:
        """Raise AirflowFailException unless job and runtime accept the parameters, except deferred ones."""
        declarations = {name: entry for name, entry in self.declarations.items() if name not in deferred}
        try:
            check_parameters(declarations, attempt.parameters, f"Task '{attempt.task_id}'")
            check_texts(attempt.names, IN_NAMES)
            check_texts({**attempt.names, **attempt.values}, self.runtime.refused)
        except PipelineError as error:
            raise AirflowFailException(str(error)) from None

    def on_kill(self) -> None:
        if self.handle is not None:
            self.runtime.cancel(self.handle)


def conclude(attempt: Attempt, outcome: Outcome) -> tuple[Any, dict[str, Any]]:
    """Return XCom and manifest of an attempt that ended and published, else raise AirflowException with the reason.

    The manifest decides: a job that is killed after it published, or in its last clean-up, has completed its task.
    """
    uri = manifest_uri(attempt.key)
    manifest = read_document(uri)
    published = attempt_number_of(manifest, attempt)
    if manifest is not None and published == attempt.number:
        if outcome.exit_code:
            end = describe_end(outcome, None, attempt)
            log.warning("%s It had published before, so the task succeeded: %s", end, uri)
        return result_xcom(outcome) or fit_result(uri, manifest.get("metrics", {})), manifest
    document = read_failure_document(failure_uri(attempt_folder(attempt.key, attempt.number)), attempt)
    if outcome.exit_code and document is None and published > attempt.number:
        outcome = outcome._replace(exit_code=EXIT_STALE, guessed=False)  # clusters do not report exit codes
    failure = AirflowFailException if exit_code_of(outcome, document) in FINAL else AirflowException
    raise failure("\n".join([describe_end(outcome, document, attempt), *failure_reasons(outcome, document)]))


def attempt_number_of(document: Mapping[str, Any] | None, attempt: Attempt) -> int:
    """The number of the attempt that wrote a document; 0 without document, or if an older run of this ID wrote it.

    A run that is deleted and recreated, or cleared, keeps its ID and begins later.
    """
    task = (document or {}).get("task")
    if not isinstance(task, dict):
        return 0
    run_started = task.get("run_started")
    older = run_started and attempt.run_started and str(run_started) < attempt.run_started
    return 0 if older else int(task.get("attempt", 0))


def read_failure_document(uri: str, attempt: Attempt) -> dict[str, Any] | None:
    """The failure document of this attempt, None if there is none of the right form."""
    document = read_document(uri)
    if document is None or attempt_number_of(document, attempt) == 0:
        return None
    causes = document.get("exceptions")
    types = (type(document.get("exit_code")), type(document.get("sentence")), type(causes))
    if types != (int, str, list) or not all(isinstance(cause, dict) for cause in causes or []):
        log.warning("%s is not a failure document; it is ignored.", uri)
        return None
    return document


def result_xcom(outcome: Outcome) -> Any:
    """The job's result file as an XCom, None if it does not fit; the manifest contains the same."""
    if outcome.result is None:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        if len(outcome.result) <= MAX_RESULT:
            return json.loads(outcome.result)
    log.warning("The result file is not JSON, or over %s KiB; the manifest is used instead.", MAX_RESULT >> 10)
    return None


def exit_code_of(outcome: Outcome, document: Mapping[str, Any] | None) -> int:
    """The exit code of an attempt: the one in its failure document, if any, because clusters lose it."""
    return int(document["exit_code"]) if document else outcome.exit_code


def describe_end(outcome: Outcome, document: Mapping[str, Any] | None, attempt: Attempt) -> str:
    """One line on the end of an attempt; a shell and spark-submit report a signal as 128 plus its number."""
    code = exit_code_of(outcome, document)
    number = -code if code < 0 else code - 128
    if outcome.guessed and document is None:
        end = "did not succeed"
    elif number in set(Signals):
        end = f"was killed by {Signals(number).name}"
    elif code == 0:
        end = f"ended with exit code 0, but without a manifest of this attempt at {manifest_uri(attempt.key)}"
    else:
        end = f"ended with exit code {code}" + (f" ({FINAL[code]})" if code in FINAL else "")
    return f"Attempt {attempt.number} of {attempt.task_id} {end}."


def failure_reasons(outcome: Outcome, document: Mapping[str, Any] | None) -> list[str]:
    """The reasons from the failure document, or else the job's last line, and the runtime's explanation."""
    explanation = outcome.explanation.splitlines()
    if document is None:
        last_line = [f"Last log line: {outcome.last_line}"] if outcome.last_line else []
        return [*explanation, *last_line] or ["The job produced no output."]
    causes = [f"Caused by {cause.get('type')}: {cause.get('message')}" for cause in document["exceptions"][1:]]
    return [*map(one_line, [document["sentence"], *causes]), *explanation]


def one_line(text: str) -> str:
    """A text of the job as one line of limited length, so that no part of it looks like a line of the operator."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_SENTENCE else f"{line[:MAX_SENTENCE]}…"


def log_failure(context: Context) -> None:
    """Log a failed task's own error and its rerun command as the last lines of its log.

    For on_failure_callback and on_retry_callback, which Airflow calls after it has printed its stack. Airflow's page
    folds the lines after the task, so the fold is closed first.
    """
    instance: Any = context["ti"]
    log.info("::endgroup::")
    for line in exception_lines(context.get("exception")):
        log.error("%s", line)
    retried = instance.state == TaskInstanceState.UP_FOR_RETRY
    log.error("Airflow will retry it." if retried else "It will not be retried.")
    task = instance.task
    if isinstance(task, JobOperator) and task.attempt:
        retry = replace(task.attempt, number=task.attempt.number + 1)
        log.error("To run it manually: %s", task.runtime.rerun_command(retry))

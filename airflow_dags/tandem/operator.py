"""The one operator that runs a job through a runtime, and the last lines in the log of a task that failed."""

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
from tandem.failure_notice import noted, told
from tandem.lake import read_document
from tandem.parameters import Described, check_configuration, check_parameters, given, is_of_its_task
from tandem.protocol import EXIT_STALE, FINAL, MAX_RESULT, attempt_folder, failure_uri, fit_result, manifest_uri
from tandem.runtimes.base import Attempt, ContainerRuntime, Outcome
from tandem.runtimes.polling import PollingRuntime
from tandem.runtimes.released import check_bundle
from tandem.texts import IN_NAMES, check_texts

MAX_SENTENCE = 2000  # characters of what a job says of its failure
log = logging.getLogger(__name__)


class JobOperator(BaseOperator):
    """Runs a job as one task and returns what it left: {"manifest": URI, "metrics": {…}}.

    A task has succeeded if the manifest of its own attempt (or of the one that it took over) is there, and failed if
    it is not, whatever its exit code says. Exit codes 2 to 5 fail at once (AirflowFailException); any other failure is
    worth a retry (AirflowException).
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
        described: Described,
        at_trigger: Sequence[str] = (),
        deadline_seconds: float | None = None,
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
        self.described = described  # the job's parameters
        self.at_trigger = at_trigger  # the names of those that a run may give
        self.deadline_seconds = deadline_seconds
        self.part = part
        self.work: Attempt | None = None
        self.handle: Any = None

    def execute(self, context: Context) -> Any:
        with noted(context["ti"]):
            self.work = self.rendered_work(context)
            self.check(self.work)
            if isinstance(self.runtime, PollingRuntime):
                check_bundle(self.work)
            self.handle = self.runtime.submit(self.work)
            outcome = self.runtime.watch(self.handle)
            done = self.work
            if outcome.attempt not in (None, done.attempt):  # begun before this try, maybe before the run was cleared
                done = replace(done, attempt=outcome.attempt, run_started=None)
            return concluded(done, outcome)

    def rendered_work(self, context: Context) -> Attempt:
        """This attempt of the task, once its templates are rendered."""
        instance = context["ti"]
        started = context["dag_run"].start_date
        return Attempt(
            job=self.job,
            lake=self.lake,
            dag_id=instance.dag_id,
            run_id=instance.run_id,
            task_id=instance.task_id,
            attempt=instance.try_number,
            map_index=self.part,
            predecessors=self.predecessors,
            parameters=given(self.parameters, check_configuration(context), self.at_trigger),
            request=self.request,
            cluster=self.cluster,
            run_started=started.astimezone(UTC).isoformat(timespec="microseconds") if started else None,
            deadline_seconds=self.deadline_seconds,
        )

    def check_early(self, context: Context) -> None:
        """Check what can be known in the first task of a run; AirflowFailException names what is wrong.

        A parameter that is made of what another task returns is checked in its own task.
        """
        environment = self.get_template_env(context["dag"])
        late = {name for name, value in self.parameters.items() if is_of_its_task(value, environment)}
        known = {name: value for name, value in self.parameters.items() if name not in late}
        rendered = self.render_template({"lake": self.lake, "parameters": known}, context, environment)
        values = given(rendered["parameters"], check_configuration(context), self.at_trigger)
        work = replace(self.rendered_work(context), task_id=self.task_id, lake=rendered["lake"], parameters=values)
        self.check(work, late - values.keys())

    def check(self, work: Attempt, late: Set[str] = frozenset()) -> None:
        """Raise AirflowFailException unless the job takes the parameters, but the late ones, and the runtime all."""
        described = {name: entry for name, entry in self.described.items() if name not in late}
        try:
            check_parameters(described, work.parameters, f"Task '{work.task_id}'")
            check_texts(work.names, IN_NAMES)
            check_texts({**work.names, **work.values}, self.runtime.refused)
        except PipelineError as error:
            raise AirflowFailException(str(error)) from None

    def on_kill(self) -> None:
        if self.handle is not None:
            self.runtime.cancel(self.handle)


def concluded(work: Attempt, outcome: Outcome) -> Any:
    """Return the XCom of work that has ended and published; AirflowException says why if it did not.

    The manifest is what counts: a job that is ended after it published, by a signal or in its last clean-up, has done
    all that it was to do.
    """
    uri = manifest_uri(work.key)
    manifest = read_document(uri)
    newest = attempt_of(manifest, work)
    if manifest is not None and newest == work.attempt:
        if outcome.exit_code:
            log.warning("%s It had published before, so the task is done: %s", ending(outcome, None, work), uri)
        return result(outcome) or fit_result(uri, manifest.get("metrics", {}))
    document = failure_document(failure_uri(attempt_folder(work.key, work.attempt)), work)
    if outcome.exit_code and document is None and newest > work.attempt:
        outcome = outcome._replace(exit_code=EXIT_STALE, guessed=False)  # clusters tell nothing but that a job failed
    failure = AirflowFailException if code_of(outcome, document) in FINAL else AirflowException
    raise failure("\n".join([ending(outcome, document, work), *reasons(outcome, document)]))


def attempt_of(document: Mapping[str, Any] | None, work: Attempt) -> int:
    """The number of the attempt that left a document in the lake; 0 for none, and for one of an older run of this ID.

    A run that is deleted and made anew, or cleared, keeps its ID and begins later.
    """
    task = (document or {}).get("task")
    if not isinstance(task, dict):
        return 0
    began = task.get("run_started")
    older = began and work.run_started and str(began) < work.run_started
    return 0 if older else int(task.get("attempt", 0))


def failure_document(uri: str, work: Attempt) -> dict[str, Any] | None:
    """The failure document of this attempt, None if there is none of that form."""
    document = read_document(uri)
    if document is None or attempt_of(document, work) == 0:
        return None
    causes = document.get("exceptions")
    types = (type(document.get("exit_code")), type(document.get("sentence")), type(causes))
    if types != (int, str, list) or not all(isinstance(cause, dict) for cause in causes or []):
        log.warning("%s is not a failure document, so it is left out of account.", uri)
        return None
    return document


def result(outcome: Outcome) -> Any:
    """The job's result file as an XCom, None if it cannot be one; the manifest has the same."""
    if outcome.result is None:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        if len(outcome.result) <= MAX_RESULT:
            return json.loads(outcome.result)
    log.warning("The result file is not JSON, or over %s KiB; its manifest is taken instead.", MAX_RESULT >> 10)
    return None


def code_of(outcome: Outcome, document: Mapping[str, Any] | None) -> int:
    """The exit code of a work: the one that its job wrote down, because clusters swallow them."""
    return int(document["exit_code"]) if document else outcome.exit_code


def ending(outcome: Outcome, document: Mapping[str, Any] | None, work: Attempt) -> str:
    """One line on the end of the work; a shell and spark-submit report a signal as 128 plus its number."""
    code = code_of(outcome, document)
    number = -code if code < 0 else code - 128
    if outcome.guessed and document is None:
        how = "did not succeed"
    elif number in set(Signals):
        how = f"was killed by {Signals(number).name}"
    elif code == 0:
        how = f"ended with exit code 0, but without a manifest of this attempt at {manifest_uri(work.key)}"
    else:
        how = f"ended with exit code {code}" + (f" ({FINAL[code]})" if code in FINAL else "")
    return f"Attempt {work.attempt} of {work.task_id} {how}."


def reasons(outcome: Outcome, document: Mapping[str, Any] | None) -> list[str]:
    """The job's own words, from its failure document or else its last line, and what the runtime adds."""
    explained = outcome.explanation.splitlines()
    if document is None:
        said = [f"It said last: {outcome.last_line}"] if outcome.last_line else []
        return [*explained, *said] or ["It said nothing."]
    causes = [f"Caused by {cause.get('type')}: {cause.get('message')}" for cause in document["exceptions"][1:]]
    return [*map(one_line, [document["sentence"], *causes]), *explained]


def one_line(text: str) -> str:
    """A text as one line, so that none in it can pass for a line of ours, and not longer than a message may be."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_SENTENCE else f"{line[:MAX_SENTENCE]}…"


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

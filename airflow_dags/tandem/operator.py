"""The operator that runs a job through a runtime, and the last lines in the log of a failed task."""

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, replace
from datetime import UTC
from signal import Signals
from typing import Any, NoReturn

from airflow.sdk import BaseOperator, Context, TaskInstanceState
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tandem.dag_errors import PipelineError
from tandem.engine_choice import LIGHT, SPARK, Auto, Choice, by_size, keep, kept, values_of
from tandem.lake import read_document
from tandem.metrics import report_gauges
from tandem.page_link import PageLink
from tandem.parameters import Declarations, check_configuration, check_parameters, effective_values, needs_its_task
from tandem.protocol import (
    EXIT_MEMORY,
    EXIT_STALE,
    FINAL,
    MAX_RESULT,
    MEANINGS,
    attempt_folder,
    failure_uri,
    fit_result,
    manifest_uri,
)
from tandem.recording import Account, exception_lines, recording
from tandem.run_kind import is_backfill
from tandem.runtimes import deferral
from tandem.runtimes.base import Attempt, Outcome, Runtime
from tandem.runtimes.on_demand import open_late
from tandem.runtimes.polling import UNCANCELLED_SECONDS, End, PollingRuntime, Submission
from tandem.runtimes.spark_options import history_links
from tandem.skipping import skip
from tandem.texts import IN_NAMES, check_texts

PRODUCTS = "products/"  # begins the names of the assets of products
MAX_SENTENCE = 2000  # characters of a sentence from a failure document
TRIGGERER_SECONDS = 3600  # the triggerer may be down, beyond all limits of a job, until its task fails
log = logging.getLogger(__name__)


class JobOperator(BaseOperator):
    """Runs a job as one task and returns its manifest and metrics: {"manifest": URI, "metrics": {…}}.

    A task has succeeded if the manifest of its own attempt (or of the one that it adopted) exists, and failed
    otherwise, whatever its exit code is. Exit codes 2 to 5 fail at once (AirflowFailException); any other failure is
    retried (AirflowException).
    """

    template_fields = ("lake", "parameters", "request", "light_request", "cluster")

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
        choice: Choice | None = None,
        auto: Auto | None = None,
        light_request: Mapping[str, Any] | None = None,
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
        self.choice = choice  # of a Spark job whose engine is not chosen in each run
        self.auto = auto
        self.light_request = light_request  # to the runtime of containers, if a run may choose that
        self.opening: list[Any] = []  # the operator that opens a cluster within this task
        self.attempt: Attempt | None = None
        self.handle: Any = None
        self.pages: dict[str, str] = {}  # addresses of pages about the attempt, by label

    @property
    def operator_extra_links(self) -> list[PageLink]:  # type: ignore[override]
        """The links on the page of a task; Airflow also asks a mapped operator, which keeps its runtime elsewhere."""
        own = self.partial_kwargs if self.is_mapped else vars(self)  # type: ignore[attr-defined]
        runtimes = [own["runtime"], *([own["auto"].container] if own["auto"] else [])]
        return [PageLink(label) for label in dict.fromkeys(label for each in runtimes for label in each.labels)]

    def execute(self, context: Context) -> Any:
        with recording(context, self.job, self.runtime.name) as account:
            if self.publishes and is_backfill(context):
                sentence = f"A backfill publishes nothing, so '{self.job}' is skipped; frontends read as before."
                skip(context["ti"], sentence)
            self.choose(context, account)
            self.attempt = self.make_attempt(context)
            self.check(self.attempt)
            self.runtime.check_product(self.attempt)
            self.pages = account.links
            account.rerun = self.rerun_command(self.attempt)
            self.handle = self.runtime.submit(self.attempt)
            self.find_pages(context)
            if isinstance(self.runtime, PollingRuntime):
                self.wait_without_worker(context, account, self.runtime)
            ended = self.conclude(context, account, self.attempt, self.runtime.watch(self.handle))
        return self.hand_on(context, *ended)

    def wait_without_worker(self, context: Context, account: Account, runtime: PollingRuntime) -> NoReturn:
        """Suspend this task until its job has ended; `resume` goes on in another worker."""
        now, started = time.time(), context["ti"].start_date
        until = started.timestamp() + self.execution_timeout.total_seconds() if self.execution_timeout else None
        kept = {**deferral.kept(runtime, self.handle, now, until), "account": asdict(account)}
        deadline = self.deadline_seconds
        limit = deadline and runtime.pending_seconds + deadline + UNCANCELLED_SECONDS + TRIGGERER_SECONDS
        self.defer(trigger=deferral.EndOfJob(**kept), method_name="resume", timeout=limit)

    def resume(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on with an attempt for which Airflow's triggerer has waited."""
        ended, own = deferral.attempt(event), self.make_attempt(context)
        if (ended.key, ended.number) != (own.key, own.number):
            # SQLite gives a new trigger the ID of a deleted one, so a triggerer may still wait for another attempt.
            return self.execute(context)
        runtime: Any = self.runtime
        with recording(context, self.job, runtime.name, event["account"]) as account:
            self.attempt = ended
            self.pages = account.links
            self.handle = Submission(event["id"], self.attempt, runtime.client())
            outcome = runtime.conclude(self.handle, End(**event["end"]))
            concluded = self.conclude(context, account, self.attempt, outcome)
        return self.hand_on(context, *concluded)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume, or record the failure of an attempt for which the triggerer could not wait."""
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        with recording(context, self.job, self.runtime.name):
            self.attempt = self.make_attempt(context)
            error = "".join((next_kwargs or {}).get("traceback") or ["it did not answer in time"]).strip()
            raise AirflowException(
                f"Airflow's triggerer could not wait for the job: {error.splitlines()[-1]}; see that it runs, has the "
                "plugins folder, and the same rights and variables as the workers."
            )

    def conclude(self, context: Context, account: Account, ran: Attempt, outcome: Outcome) -> tuple[Any, Any, Attempt]:
        """Return XCom, manifest and attempt of a job that ended; raise AirflowException if it failed."""
        if outcome.attempt_number not in (None, ran.number):  # an older one, maybe from before the run was cleared
            account.adopted = outcome.attempt_number
            ran = replace(ran, number=outcome.attempt_number, run_started=None)
        try:
            return *conclude(ran, outcome, account), ran
        except AirflowException:
            if outcome.out_of_memory or account.exit_code == EXIT_MEMORY:
                self.move_to_cluster(context, account)
            raise

    def hand_on(self, context: Context, result: Any, manifest: Mapping[str, Any], ran: Attempt) -> Any:
        """Describe the datasets and figures of a manifest to Airflow; return the XCom."""
        self.describe_assets(context, manifest, manifest_uri(ran.key))
        report_gauges(manifest)
        return result

    def choose(self, context: Context, account: Account) -> None:
        """Take the engine that this run chose for a Spark job, if its environment or settings do not; log the reason.

        A cluster that the run has not opened, because it was not needed before, is opened here.
        """
        choice = self.choice
        if self.auto:
            choice = kept(context, self.task_id) or by_size(context, self, values_of(self))
            keep(context, self.task_id, choice)
            if choice.engine == LIGHT:
                self.runtime, self.request = self.auto.container, self.light_request or {}
        if choice:
            log.info("%s", choice.sentence(self.runtime.name))
            account.runtime, account.engine, account.engine_reason = self.runtime.name, *choice
            if self.auto and choice.engine == SPARK and self.auto.openers and self.cluster is None:
                log.info("This run has not opened the cluster, so this task opens it.")
                self.cluster = open_late(context, self.auto.openers, self.opening)

    def move_to_cluster(self, context: Context, account: Account) -> None:
        """Let the next attempt run on a cluster if this one, which ran out of memory, ran in a container by choice."""
        if self.auto and account.engine == LIGHT:
            reason = f"attempt {context['ti'].try_number} ran out of memory in a container"
            keep(context, self.task_id, Choice(SPARK, reason))
            log.warning("The next attempt, if any, runs on a cluster, because this one ran out of memory.")

    def get_openlineage_facets_on_start(self) -> Any:
        """The lineage that Airflow's provider for OpenLineage sends if it is installed and has a receiver."""
        return lineage(self).declared()

    def get_openlineage_facets_on_complete(self, instance: Any) -> Any:
        return lineage(self).published() if self.attempt else lineage(self).declared()  # without an attempt if skipped

    def get_openlineage_facets_on_failure(self, instance: Any) -> Any:
        if self.attempt is None:
            return lineage(self).failed({})
        uri = failure_uri(attempt_folder(self.attempt.key, self.attempt.number))
        return lineage(self).failed(read_failure_document(uri, self.attempt) or {})

    def find_pages(self, context: Context) -> None:
        """Find the pages about an attempt that has started; Airflow shows links to them at once."""
        try:
            self.pages |= self.runtime.links(self.handle)
            for link in self.operator_extra_links:
                if address := link.get_link(self):
                    context["ti"].xcom_push(link.xcom_key, address)
        except Exception as error:
            log.warning("This attempt gets no links to pages about it (%s: %s).", type(error).__name__, error)

    def describe_assets(self, context: Context, manifest: Mapping[str, Any], uri: str) -> None:
        """Give the asset event of each dataset the days, rows and manifest, of each product the version, keys and rows.

        Without new rows of a dataset there is no event.
        """
        extras = dataset_extras(manifest) | product_extras(manifest, self.outlets)
        self.outlets = [asset for asset in self.outlets if asset.name in extras]
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {**extras[asset.name], "manifest": uri}

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

    def rerun_command(self, attempt: Attempt) -> str:
        """The shell command that runs the task again, as its next attempt."""
        return self.runtime.rerun_command(replace(attempt, number=attempt.number + 1))

    def on_kill(self) -> None:
        for operator in self.opening:
            operator.on_kill()
        if self.handle is not None:
            self.runtime.cancel(self.handle)


def dataset_extras(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The extras of the asset events of datasets that got rows, by name."""
    extras = {}
    for output in manifest.get("outputs", {}).values():
        if output.get("dataset") and output.get("rows"):
            days = sorted(name.removeprefix("date=") for name in output["partitions"] if name.startswith("date="))
            extras[output["dataset"]] = {"days": days, "rows": output["rows"]}
    return extras


def product_extras(manifest: Mapping[str, Any], outlets: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The extras of the asset events of products that are live now in the version of this task, by name."""
    metrics = manifest.get("metrics", {})
    if not metrics.get("version"):
        return {}
    extra = {"version": metrics["version"], "keys": metrics.get("items"), "rows": metrics.get("rows")}
    return {asset.name: extra for asset in outlets if asset.name.startswith(PRODUCTS)}


def lineage(operator: JobOperator) -> Any:
    from tandem.openlineage import Lineage  # imports the provider

    return Lineage(operator)


def conclude(attempt: Attempt, outcome: Outcome, account: Account) -> tuple[Any, dict[str, Any]]:
    """Return XCom and manifest of an attempt that ended and published, else raise AirflowException with the reason.

    The manifest decides: a job that is killed after it published, or in its last clean-up, has completed its task.
    The account gets the exit code and further links, as far as they are known.
    """
    account.exit_code = None if outcome.guessed else outcome.exit_code
    uri = manifest_uri(attempt.key)
    manifest = read_document(uri)
    published = attempt_number_of(manifest, attempt)
    account.links |= outcome.links
    if manifest is not None and published == attempt.number:
        account.links |= history_links(attempt, manifest.get("application"))
        if outcome.exit_code:
            end = describe_end(outcome, None, attempt)
            log.warning("%s It had published before, so the task succeeded: %s", end, uri)
        return result_xcom(outcome) or fit_result(uri, manifest.get("metrics", {})), manifest
    document = read_failure_document(failure_uri(attempt_folder(attempt.key, attempt.number)), attempt)
    if outcome.exit_code and document is None and published > attempt.number:
        outcome = outcome._replace(exit_code=EXIT_STALE, guessed=False)  # clusters do not report exit codes
    account.links |= history_links(attempt, (document or {}).get("application"))
    account.exit_code = None if outcome.guessed and document is None else exit_code_of(outcome, document)
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
        end = f"ended with exit code {code}" + (f" ({MEANINGS[code]})" if code in MEANINGS else "")
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
        log.error("To run it manually: %s", task.rerun_command(task.attempt))

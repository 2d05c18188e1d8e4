"""The record of a run, from the documents that it left in the lake; works when any of them is missing."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

from common import protocol
from common.reporting import documents
from common.reporting.comparisons import comparisons
from common.reporting.costs import between, costs
from common.reporting.documents import AttemptDocuments, Ended, InstanceDocuments, RunDocument, RunDocuments, TaskOfRun
from common.reporting.figures import figures
from common.reporting.funnel import funnel, published
from common.reporting.record import FORMAT, Attempt, Failure, Instance, Record, TaskSummary, Warning
from common.reporting.results import result_of

Part = TypeVar("Part")
SHOWN = 50  # mapped instances of a task
STATES = {  # of Airflow
    "success": "succeeded",
    "failed": "failed",
    "skipped": "skipped",
    "upstream_failed": "upstream_failed",
    "running": "running",
    "deferred": "running",
    "up_for_retry": "running",
    "up_for_reschedule": "running",
    "restarting": "running",
}
FAILED = ("failed", "lost")
NOT_STARTED = "not started"
WORST_FIRST = ("failed", "lost", "upstream_failed", "running", NOT_STARTED, "skipped", "succeeded")


def collect(lake: str, dag_id: str, run_id: str, report_task: str) -> Record:
    """Return the record of a run; `report_task` is the task that reports, which leaves itself out."""
    found = documents.load(lake, dag_id, run_id, report_task)
    run = found.run or by_hand(found)
    names = sorted({*run.tasks, *found.tasks} - {report_task})
    tasks = [summarize(name, run.tasks.get(name, TaskOfRun()), found.tasks.get(name, {})) for name in names]
    tasks.sort(key=lambda task: (task.began is None, task.began or run.run_after))
    results = [each for task in tasks if (each := result_of(task.task, found.tasks.get(task.task, {})))]
    failure = find_failure(tasks)
    warned = warnings(found)
    compared = part(warned, "comparisons", lambda: comparisons(results, failure.sentence if failure else None))
    hours = {name: hours_of(instances) for name, instances in found.tasks.items()}
    return Record(
        format=FORMAT,
        environment=run.environment,
        dag=documents.text(dag_id),
        run=documents.text(run_id),
        kind=run.kind,
        run_after=run.run_after,
        state="failed" if failure else "succeeded",
        code=run.code,
        until=run.until,
        began=run.began,
        ended=max((task.ended for task in tasks if task.ended), default=None),
        failure=failure,
        tasks=tasks,
        figures=part(warned, "figures", lambda: figures(results, tasks, compared)),
        funnel=part(warned, "funnel", lambda: funnel(lake, results)),
        comparisons=compared,
        published=part(warned, "products", lambda: published(results)),
        warnings=warned,
        currency=str(run.prices.get("currency", "")),
        costs=costs(run, hours, tasks, results),
        url=run.url,
    )


def part(warned: list[Warning], name: str, make: Callable[[], list[Part]]) -> list[Part]:
    """Return a part of the record; nothing, and a warning, if metrics are not as the job of that name writes them."""
    try:
        return make()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        warned.append(Warning("report_run", f"The {name} of the run cannot be read: {type(error).__name__}, {error}."))
        return []


def hours_of(instances: dict[int | None, InstanceDocuments]) -> dict[str, float]:
    """Return the hours of all attempts of a task's instances by runtime; the job's own where the scheduler's lack.

    An attempt without an end counts nothing.
    """
    hours: dict[str, float] = defaultdict(float)
    for instance in instances.values():
        accounts = [attempt.scheduler for attempt in instance.attempts.values() if attempt.scheduler]
        for account in accounts:
            hours[account.runtime or ""] += between(account.began, account.ended)
        if instance.manifest and not accounts:
            hours[""] += between(instance.manifest.started, instance.manifest.ended)
    return hours


def by_hand(found: RunDocuments) -> RunDocument:
    """Return the account of a run without a scheduler's: it began with its first task."""
    times = [
        each.started
        for instance in instances_of(found)
        for each in (instance.manifest, *(attempt.failure for attempt in instance.attempts.values()))
        if each
    ]
    began = min(times, default=datetime.now(UTC))
    return RunDocument(environment="", kind="by hand", run_after=began, began=began)


def instances_of(found: RunDocuments) -> Iterable[InstanceDocuments]:
    return (instance for instances in found.tasks.values() for instance in instances.values())


def summarize(name: str, known: TaskOfRun, found: dict[int | None, InstanceDocuments]) -> TaskSummary:
    """Return a task with its instances: those that the scheduler knows, and those that left documents."""
    states = {(int(index) if index else None): state for index, state in known.states.items()}
    indices = sorted({*states, *found}, key=lambda index: -1 if index is None else index)
    if len(indices) > 1 and None in indices and None not in found:
        indices.remove(None)  # a mapped task before its expansion
    instances = [
        summarize_instance(index, states.get(index, ""), found.get(index, InstanceDocuments())) for index in indices
    ]
    counts = Counter(instance.state for instance in instances)
    manifests = [each.manifest for each in found.values() if each.manifest]
    accounts = [
        attempt.scheduler
        for each in found.values()
        for _, attempt in sorted(each.attempts.items())
        if attempt.scheduler
    ]
    chosen = next((each for each in reversed(accounts) if each.engine), None)  # by the last attempt
    failures = [attempt.failure for each in found.values() for attempt in each.attempts.values() if attempt.failure]
    ended: list[Ended] = [*manifests, *failures]
    jobs = [*(each.job for each in ended), *(each.job for each in accounts), known.job]
    newest = max(ended, key=lambda each: each.ended, default=None)
    shown = sorted(instances, key=order)[:SHOWN]
    attempts = [attempt for instance in instances for attempt in instance.attempts]
    return TaskSummary(
        task=documents.text(name),
        state=min(counts, key=WORST_FIRST.index, default=NOT_STARTED).replace("lost", "failed"),
        upstream=known.upstream,
        job=next(filter(None, jobs), None),
        engine=chosen.engine if chosen else known.engine,
        engine_reason=chosen.engine_reason if chosen else None,
        runtime=known.runtime or next((each.runtime for each in reversed(accounts) if each.runtime), None),
        instances=len(instances),
        states=dict(counts),
        shown=shown,
        began=min((each for attempt in attempts if (each := attempt.began or attempt.job_began)), default=None),
        job_began=min((attempt.job_began for attempt in attempts if attempt.job_began), default=None),
        ended=max((each for attempt in attempts if (each := attempt.ended or attempt.job_ended)), default=None),
        rows=sum(instance.rows for instance in instances),
        bytes=sum(instance.bytes for instance in instances),
        processor_seconds=round(sum(each.processor_seconds for each in ended), 3),
        peak_memory_bytes=max((each.peak_memory_bytes for each in ended), default=0),
        memory_limit_bytes=size(known.resources.get("memory")),
        parameters=newest.parameters if newest else {},
        fingerprint=newest.fingerprint if newest else None,
        links=links(shown, found),
    )


def order(instance: Instance) -> tuple[int, datetime, float]:
    """Return the place of an instance among those that are shown: the first failures, then the slowest."""
    moment = moment_of_failure(instance) if instance.state in FAILED else datetime.max.replace(tzinfo=UTC)
    return WORST_FIRST.index(instance.state), moment, -instance.seconds


def links(shown: list[Instance], found: dict[int | None, InstanceDocuments]) -> dict[str, str]:
    """Return the links of the newest attempt of the first instance shown."""
    for instance in shown[:1]:
        attempts = found[instance.map_index].attempts if instance.map_index in found else {}
        for number in sorted(attempts, reverse=True):
            if (scheduler := attempts[number].scheduler) and scheduler.links:
                return scheduler.links
    return {}


def summarize_instance(index: int | None, state: str | None, found: InstanceDocuments) -> Instance:
    """Return an instance; its state is the scheduler's, else that of its last attempt."""
    valid = found.manifest.task.attempt if found.manifest else None
    numbers = sorted({*found.attempts, *([valid] if valid is not None else [])})
    attempts = [summarize_attempt(number, found.attempts.get(number, AttemptDocuments()), found) for number in numbers]
    if state == "":
        state = attempts[-1].state if attempts else NOT_STARTED
        state = "succeeded" if found.manifest and state == "lost" else state
    else:
        state = STATES.get(state or "", NOT_STARTED)
    newest = found.manifest or next(
        (failure for number in reversed(numbers) if (failure := found.attempts[number].failure)), None
    )
    instance = Instance(state=state, attempts=attempts, map_index=index, manifest=found.path)
    last = found.attempts.get(numbers[-1]) if numbers else None
    instance.rerun = last.scheduler.rerun if last and last.scheduler and state in FAILED else None
    if found.manifest:
        instance.rows = sum(output.rows for output in found.manifest.outputs.values())
        instance.bytes = sum(output.bytes for output in found.manifest.outputs.values())
    if newest:
        instance.seconds, instance.processor_seconds = newest.seconds, newest.processor_seconds
        instance.peak_memory_bytes = newest.peak_memory_bytes
    elif attempts and attempts[-1].began and attempts[-1].ended:
        instance.seconds = round((attempts[-1].ended - attempts[-1].began).total_seconds(), 3)
    return instance


def summarize_attempt(number: int, found: AttemptDocuments, instance: InstanceDocuments) -> Attempt:
    """Return an attempt; one that left no end was killed."""
    scheduler, failure = found.scheduler, found.failure
    valid = instance.manifest if instance.manifest and instance.manifest.task.attempt == number else None
    attempt = Attempt(number=number, state="succeeded" if valid else "failed" if failure else "lost")
    if job := valid or failure:
        attempt.job_began, attempt.job_ended = job.started, job.ended
        attempt.began, attempt.ended = job.started, job.ended  # unless the scheduler's process knows better
    if scheduler:
        attempt.began, attempt.ended = scheduler.began, scheduler.ended or attempt.ended
        attempt.exit_code, attempt.log = scheduler.exit_code, scheduler.log
        if scheduler.ended:
            attempt.state = scheduler.state
        if scheduler.reason and scheduler.state == "failed":
            attempt.sentence = scheduler.reason.strip().rpartition("\n")[2]
    if failure and not valid:
        attempt.exit_code, attempt.sentence = failure.exit_code, failure.sentence
    return attempt


def find_failure(tasks: list[TaskSummary]) -> Failure | None:
    """Return the failure that decided on a run: that of the task that ended in failure first; None if none did."""
    failed = [(task, instance) for task in tasks for instance in task.shown if instance.state in FAILED]
    if not failed:
        return None
    task, instance = min(failed, key=lambda each: moment_of_failure(each[1]))
    last = instance.attempts[-1] if instance.attempts else None
    lost = "It left no end: its process was killed, or its machine; the log may say more."
    return Failure(
        task=task.task,
        sentence=(last and last.sentence) or (lost if last else "It was marked as failed before it started."),
        map_index=instance.map_index,
        attempt=last.number if last else None,
        exit_code=last.exit_code if last else None,
        rerun=instance.rerun,
    )


def moment_of_failure(instance: Instance) -> datetime:
    times = [time for each in instance.attempts[-1:] for time in (each.ended, each.job_ended, each.began) if time]
    return times[0] if times else datetime.max.replace(tzinfo=UTC)


def warnings(found: RunDocuments) -> list[Warning]:
    """Return the tasks' own warnings, each once, and one about unreadable documents."""
    sentences = {
        (task, sentence): None
        for task, instances in found.tasks.items()
        for instance in instances.values()
        for document in (instance.manifest, *(attempt.failure for attempt in instance.attempts.values()))
        if document
        for sentence in document.warnings
    }
    warned = [Warning(documents.text(task), sentence) for task, sentence in sentences]
    if found.unreadable:
        count, first = len(found.unreadable), sorted(found.unreadable)[0]
        warned.append(Warning("report_run", f"{count} documents of the run cannot be read, {first} first."))
    return warned


def size(text: Any) -> int | None:
    """Return the number of bytes that a text such as 4Gi denotes; None if it denotes none."""
    try:
        return int(protocol.quantity(str(text)))
    except (ValueError, KeyError, OverflowError):
        return None

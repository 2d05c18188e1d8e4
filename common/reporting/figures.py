"""The figures of a run: all numbers that guards and gates look at, with their limits, and those worth a trend.

A metric NAME is limited by the parameter max_NAME or min_NAME of its job, if there is one; so are those of a new job.
Functions by job add the numbers of guards and gates that are made of several metrics.
"""

from collections.abc import Callable, Iterator
from typing import Any

from common.reporting.record import Comparison, Figure, TaskSummary
from common.reporting.results import Result, as_number, counts_of

MOST = 40  # figures of a task
LARGEST = 10  # entries of a metric that counts by name
NAME = 100  # characters
ELSEWHERE = {  # metrics that the funnel and comparisons have
    *("models", "styles", "new_items", "cold_users", "sample", "in_place", "judged_cuts", "drift", "cuts"),
    *("reasons", "dropped", "not_kept", "unknown_types", "unpublishable_keys", "test_days", "tuning_days"),
}


def figures(results: list[Result], tasks: list[TaskSummary], comparisons: list[Comparison]) -> list[Figure]:
    """Return the figures of all tasks."""
    found = [figure for task in tasks for figure in of_resources(task)]
    for result in results:
        found += [*DERIVED.get(result.job, nothing)(result), *of_metrics(result)][:MOST]
    return [*found, *(figure for comparison in comparisons for figure in gates(comparison))]


def of_resources(task: TaskSummary) -> Iterator[Figure]:
    """Yield rows, seconds and peak memory of a task of a job that has run."""
    if task.job is None or not task.shown or task.job_began is None:
        return
    if task.rows:
        yield Figure(task.task, "rows", task.rows)
    yield Figure(task.task, "seconds", max(instance.seconds for instance in task.shown))
    if task.peak_memory_bytes:
        yield Figure(task.task, "peak_memory_bytes", task.peak_memory_bytes, maximum=task.memory_limit_bytes)


def of_metrics(result: Result) -> Iterator[Figure]:
    """Yield the metrics that are numbers, or count by name."""
    for name, value in sorted(result.metrics.items()):
        if name in ELSEWHERE or name == "rows":
            continue
        number = as_number(value)
        if number is not None:
            yield limited(result, name, round(number, 5))
        for key, count in list(counts_of(value).items())[:LARGEST]:
            yield Figure(result.task, f"{name}.{key}"[:NAME], count)


def limited(result: Result, name: str, value: float) -> Figure:
    """Return a figure with its limits by parameters of its job."""
    least, most = (as_number(result.parameters.get(f"{limit}_{name}")) for limit in ("min", "max"))
    return Figure(result.task, name[:NAME], value, least, most)


def share(result: Result, name: str, part: float, whole: float) -> Iterator[Figure]:
    if whole:
        yield limited(result, name, round(part / whole, 5))


def nothing(result: Result) -> Iterator[Figure]:
    yield from ()


def ingested(result: Result) -> Iterator[Figure]:
    yield from share(result, "quarantined_share", result.count("unusable"), result.count("lines"))


def published(result: Result) -> Iterator[Figure]:
    items, before, left_out = (result.count(name) for name in ("items", "items_before", "items_left_out"))
    yield from share(result, "key_drop", max(0, before - items), before)
    yield from share(result, "unpublishable_share", left_out, items + left_out)


DERIVED: dict[str, Callable[[Result], Iterator[Figure]]] = {
    "ingest_events": ingested,
    "ingest_items": ingested,
    "ingest_users": ingested,
    "publish_product": published,
}


def gates(comparison: Comparison) -> Iterator[Figure]:
    """Yield the figure that decides on the chosen model, with the bar that it had to pass.

    A style whose own models fail has no bar: the winner of the first style serves it.
    """
    for model in comparison.models:
        value = model.figures.get(comparison.figure)
        if model.chosen and value is not None:
            name = ".".join(filter(None, (comparison.style, comparison.figure)))
            least = bar(comparison)
            yield Figure(comparison.task, name, value, minimum=None if least is not None and value <= least else least)


def bar(comparison: Comparison) -> float | None:
    """Return the figure of the simple rule that a model must beat."""
    bars: dict[str, Any] = {model.name: model.figures.get(comparison.figure) for model in comparison.models}
    return next((bars[name] for name in ("recent popularity", "recency rule") if name in bars), None)

"""The estimated cost of a run: hours of each task times the environment's rates, and writes into tables."""

from datetime import datetime

from common.reporting.documents import RunDocument
from common.reporting.record import Cost, TaskSummary
from common.reporting.results import Result, as_number

MILLION = 1_000_000


def costs(
    run: RunDocument, hours: dict[str, dict[str, float]], tasks: list[TaskSummary], results: list[Result]
) -> list[Cost]:
    """Return what each task cost; `hours` are those of all attempts of its instances, by runtime."""
    found = []
    ended = {task.task: task.ended for task in tasks}
    last = max((each for each in ended.values() if each), default=None)
    for task in tasks:
        known = run.tasks.get(task.task)
        worked = hours.get(task.task, {})
        if known and known.rates and task.job is None and task.began:  # it opens a cluster
            worked = {"": between(known.opened or task.began, ended.get(closer(task.task)) or last)}
        for rate in known.rates if known else ():
            if time := worked.get(rate.runtime, 0.0) if rate.runtime else sum(worked.values()):
                found.append(Cost(task.task, rate.unit, round(time * rate.per_hour, 6), rate.price))
    return [*found, *writes(run, results)]


def closer(opener: str) -> str:
    """Return the task that closes the cluster that a task opens."""
    return f"close_{opener.removeprefix('open_')}"


def between(began: datetime, ended: datetime | None) -> float:
    """Return the hours between two moments; none without an end."""
    return max(0.0, (ended - began).total_seconds() / 3600) if ended else 0.0


def writes(run: RunDocument, results: list[Result]) -> list[Cost]:
    """Return the cost of writing products: that of new items, and that of letting as large former items expire."""
    price = as_number(run.prices.get("million_write_units"))
    if price is None:
        return []
    units = {
        str(result.metrics.get("table")): result.count("write_units") / result.count("written")
        for result in results
        if result.count("written")
    }
    found = []
    for result in results:
        expired = result.count("expired") * units.get(str(result.metrics.get("table")), 1.0)
        if amount := result.count("write_units") + expired:
            found.append(Cost(result.task, "million write units", amount / MILLION, price))
    return found

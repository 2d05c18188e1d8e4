"""The rows and charts of a run's card, from its record and former ones."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from common.reporting import charts, unusual, words
from common.reporting.record import Attempt, Comparison, Figure, Instance, Record, Step, TaskSummary

MAX_TASKS = 400  # rows of the table; those that did not succeed come first
MAX_BARS = 50  # tasks on the time axis
MAX_ATTEMPTS = 400
MAX_FIGURES = 200
MAX_RUNS = 30  # of a trend
MAX_MODELS = len(charts.SERIES)  # of a chart
MEMORY = "peak_memory_bytes"  # a figure that the table of tasks has with its limit
GOOD = ("succeeded", "skipped")
Row = dict[str, Any]


def content(record: Record, history: list[Record]) -> Row:
    """Return the parts of a card that need more than the record's own fields."""
    former = sorted(history, key=lambda each: each.run_after)[-MAX_RUNS:]
    by_task = costs_by_task(record)
    tasks = first_that_failed(record.tasks, MAX_TASKS)
    attempts = attempt_rows(tasks)
    figures = figure_rows(record, former, unusual.find(record, history))
    return {
        "seconds": seconds_between(record.began, record.ended),
        "cost": sum(by_task.values()) if record.costs else None,
        "states": Counter(task.state for task in record.tasks),
        "tasks": [task_row(task, record, by_task) for task in tasks],
        "attempts": attempts[:MAX_ATTEMPTS],
        "attempts_in_all": sum(task.instances for task in record.tasks),
        "time_axis": time_axes(record),
        "funnel": [step_row(step, before) for before, step in zip([None, *record.funnel], record.funnel)],
        "comparisons": [comparison_row(comparison) for comparison in record.comparisons],
        "guarded": [row for row in figures if row["guarded"]],
        "others": [row for row in figures if not row["guarded"]],
        "marked": [row for row in figures if row["unusual"]],
        "rule": unusual.RULE,
        "runs": len(former),
    }


# Tasks


def seconds_between(begin: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from one moment to another, None if one is unknown."""
    return max((end - begin).total_seconds(), 0.0) if begin and end else None


def costs_by_task(record: Record) -> dict[str, float]:
    """Return the estimated cost of each task that has one."""
    found: dict[str, float] = defaultdict(float)
    for cost in record.costs:
        found[cost.task] += cost.amount * cost.price
    return dict(found)


def first_that_failed(tasks: list[TaskSummary], limit: int) -> list[TaskSummary]:
    """Return at most so many tasks in their order: those that did not succeed, then those that took longest."""
    if len(tasks) <= limit:
        return tasks
    ranked = sorted(tasks, key=lambda each: (each.state in GOOD, -(seconds_between(each.began, each.ended) or 0)))
    kept = {id(task) for task in ranked[:limit]}
    return [task for task in tasks if id(task) in kept]


def ready_at(task: TaskSummary, record: Record) -> datetime | None:
    """Return the moment at which the last task before a task ended, or else at which the run began.

    It is unknown if the record does not have the order of the tasks, as after a run without Airflow.
    """
    if len(record.tasks) > 1 and not any(each.upstream for each in record.tasks):
        return None
    ends = [each.ended for each in record.tasks if each.task in task.upstream and each.ended]
    return max(ends) if ends else record.began


def task_row(task: TaskSummary, record: Record, costs: dict[str, float]) -> Row:
    """Return a task with its times, its cost, and the sentence and exit code of its last attempt that has one."""
    attempts = [attempt for instance in task.shown for attempt in instance.attempts]
    told = next((each for each in reversed(attempts) if each.sentence), None)
    return {
        "task": task,
        "waiting": seconds_between(ready_at(task, record), task.began),
        "starting": seconds_between(task.began, task.job_began),
        "working": seconds_between(task.job_began or task.began, task.ended),
        "attempts": max((len(instance.attempts) for instance in task.shown), default=0),
        "sentence": told.sentence if told else None,
        "exit_code": next((each.exit_code for each in reversed(attempts) if each.exit_code is not None), None),
        "memory_share": task.peak_memory_bytes / task.memory_limit_bytes if task.memory_limit_bytes else None,
        "cost": costs.get(task.task),
    }


def attempt_rows(tasks: Iterable[TaskSummary]) -> list[Row]:
    """Return the attempts of all instances that the record shows, with figures for the one that counts."""
    return [
        {
            "task": task,
            "instance": instance,
            "attempt": attempt,
            "starting": seconds_between(attempt.began, attempt.job_began),
            "working": seconds_between(attempt.job_began or attempt.began, attempt.ended),
            "counts": attempt is instance.attempts[-1],
        }
        for task in tasks
        for instance in task.shown
        for attempt in instance.attempts
    ]


def time_axes(record: Record) -> Row | None:
    """Return the time axis of the tasks for a wide and a narrow page, and the number of tasks that it leaves out."""
    shown = first_that_failed(record.tasks, MAX_BARS)
    bars = [bar for task in shown for bar in task_bars(task, ready_at(task, record))]
    if not bars:
        return None
    names = [bar_name(task) for task in shown]
    return {
        "wide": charts.time_axis(bars, names, 1110, 260),
        "narrow": charts.time_axis(bars, names, 360, 130),
        "left_out": len(record.tasks) - len(shown),
    }


def bar_name(task: TaskSummary) -> str:
    """Return the name of a task on the time axis."""
    return task.task if task.instances == 1 else f"{task.task} × {task.instances:,}"


def task_bars(task: TaskSummary, ready: datetime | None) -> list[Row]:
    """Return the bars of a task: of each attempt if it has one instance, else of all instances together."""
    spans: list[tuple[datetime | None, datetime | None, datetime | None, str]]
    if task.instances == 1 and task.shown:
        spans = [attempt_span(each, task.shown[0]) for each in task.shown[0].attempts]
    else:
        spans = [(task.began, task.job_began, task.ended, task.state)]
    bars: list[Row] = []
    for number, (began, job_began, ended, state) in enumerate(spans):
        if not began or not ended:
            continue
        working = charts.WORKING if state in GOOD else charts.FAILED
        phases = [(charts.STARTING, began, job_began or began), (working, job_began or began, ended)]
        if ready and not number:
            phases.insert(0, (charts.WAITING, ready, began))
        bars += [
            {"task": bar_name(task), "phase": phase, "begin": milliseconds(begin), "end": milliseconds(end)}
            for phase, begin, end in phases
            if end > begin
        ]
    if bars:
        bars[-1]["label"] = words.duration((bars[-1]["end"] - bars[0]["begin"]) / 1000)
    return bars


def attempt_span(attempt: Attempt, instance: Instance) -> tuple[datetime | None, datetime | None, datetime | None, str]:
    """Return beginning, beginning of work, end and state of an attempt; a lost one lasts until the next begins."""
    after = [each.began for each in instance.attempts if each.number > attempt.number and each.began]
    return attempt.began, attempt.job_began, attempt.ended or min(after, default=attempt.job_began), attempt.state


def milliseconds(time: datetime) -> int:
    """Return the milliseconds since 1970."""
    return round(time.timestamp() * 1000)


# Funnel


def step_row(step: Step, before: Step | None) -> Row:
    """Return a step with its parts and records taken out, each with its share, and a bar of the parts."""
    whole = max(step.count, sum(step.parts.values()))  # parts may leave a rest
    ranked = sorted(step.parts.items(), key=lambda each: -each[1])
    shown = [{"name": name, "count": count, "share": count / whole} for name, count in ranked if count and whole]
    for place, part in enumerate(shown):
        part["colour"] = charts.SERIES[min(place, len(charts.SERIES) - 1)]
        part["series"] = min(place, len(charts.SERIES) - 1) + 1
    return {
        "step": step,
        "before": before,
        "parts": shown,
        "bar": charts.parts(shown, whole) if len(shown) > 1 or 0 < sum(step.parts.values()) < whole else None,
        "out": sum(reason.records for reason in step.out),
    }


# Models


def comparison_row(comparison: Comparison) -> Row:
    """Return a comparison with its models, best first, their charts, and the names of figures and groups."""
    models = sorted(
        comparison.models, key=lambda each: (not each.chosen, -each.figures.get(comparison.figure, float("-inf")))
    )
    names = list(dict.fromkeys([comparison.figure, *(name for model in models for name in model.figures)]))
    groups = list(dict.fromkeys(name for model in models for name in model.groups))
    drawn = [model for model in models if comparison.figure in model.figures][:MAX_MODELS]
    dots = [
        {
            "name": model.name,
            "value": model.figures[comparison.figure],
            "low": model.low if model.low is not None else model.figures[comparison.figure],
            "high": model.high if model.high is not None else model.figures[comparison.figure],
            "chosen": model.chosen,
        }
        for model in drawn
    ]
    lines = [
        {"model": model.name, "group": group, "value": value}
        for model in drawn
        for group, value in model.groups.items()
    ]
    return {
        "comparison": comparison,
        "models": models,
        "chosen": next((model for model in models if model.chosen), None),
        "names": names,
        "groups": groups,
        "intervals": charts.intervals(dots, comparison.figure) if len(dots) > 1 else None,
        "by_group": charts.groups(lines, groups, [model.name for model in drawn], comparison.figure) if lines else None,
        "calibration": charts.calibration(comparison.calibration) if comparison.calibration else None,
    }


# Figures


def figure_rows(record: Record, former: list[Record], sentences: dict[tuple[str, str], str]) -> list[Row]:
    """Return the figures with their values in former runs, first those that are unusual or outside their limits."""
    before: dict[tuple[str, str], list[float | None]] = {}
    for number, run in enumerate(former):
        for each in run.figures:
            before.setdefault((each.task, each.name), [None] * len(former))[number] = each.value
    rows = [
        figure_row(figure, before.get((figure.task, figure.name), []), sentences.get((figure.task, figure.name)))
        for figure in record.figures
    ]
    rows.sort(key=lambda row: (not row["outside"], row["unusual"] is None))
    return rows[:MAX_FIGURES]


def figure_row(figure: Figure, before: list[float | None], sentence: str | None) -> Row:
    """Return a figure with its line over former runs, the change since the last one, and a mark if it is unusual."""
    known = [value for value in before if value is not None]
    outside = (figure.minimum is not None and figure.value < figure.minimum) or (
        figure.maximum is not None and figure.value > figure.maximum
    )
    limits = [limit for limit in (figure.minimum, figure.maximum) if limit is not None]
    return {
        "figure": figure,
        "last": known[-1] if known else None,
        "change": figure.value / known[-1] - 1 if known and known[-1] else None,
        "line": charts.sparkline([*before, figure.value], limits, sentence is not None) if known else None,
        "known": len(known),
        "low": min([*known, figure.value]),
        "high": max([*known, figure.value]),
        "unusual": sentence,
        "guarded": outside or bool(sentence) or (bool(limits) and figure.name != MEMORY),
        "outside": outside,
    }

"""The rows of the index page: products, pipelines, runs."""

from collections import defaultdict
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

from common.reporting import charts
from common.reporting.index_entry import IndexEntry

MAX_RUNS = 30  # of a trend
MIN_GAPS = 3  # publications that tell how often a product is published
LATE = 2  # a product is late if its live version is older than so many usual gaps between publications
Row = dict[str, Any]


def content(entries: list[IndexEntry]) -> Row:
    """Return the products, the pipelines and the runs, newest first."""
    newest_first = sorted(entries, key=lambda entry: entry.run_after, reverse=True)
    by_dag: dict[str, list[IndexEntry]] = defaultdict(list)
    publications: dict[str, list[Row]] = defaultdict(list)
    for entry in newest_first:
        by_dag[entry.dag].append(entry)
        for published in entry.published:
            if published.version:
                publications[published.product].append({"entry": entry, "published": published})
    return {
        "products": [product_row(found, by_dag) for _, found in sorted(publications.items())],
        "pipelines": [pipeline_row(runs) for _, runs in sorted(by_dag.items())],
        "runs": sorted(
            (
                {"entry": run, "seconds": seconds(run), "change": change(run, runs[place + 1 :])}
                for runs in by_dag.values()
                for place, run in enumerate(runs)
            ),
            key=lambda row: row["entry"].run_after,
            reverse=True,
        ),
        "environments": sorted({entry.environment for entry in entries if entry.environment}),
    }


def seconds(entry: IndexEntry) -> float | None:
    """Return the duration of a run."""
    return (entry.ended - entry.began).total_seconds() if entry.began and entry.ended else None


def published_at(entry: IndexEntry) -> datetime:
    """Return the time of a run's end, or else the time for which it was due."""
    return entry.ended or entry.run_after


def product_row(found: list[Row], by_dag: dict[str, list[IndexEntry]]) -> Row:
    """Return a product with its live version, the newest run of its pipeline, and the line of its rows."""
    live: IndexEntry = found[0]["entry"]
    times = [published_at(each["entry"]) for each in found]
    gaps = [(later - earlier).total_seconds() for later, earlier in pairwise(times)][:MAX_RUNS]
    usual = median(gaps) if len(gaps) >= MIN_GAPS else None
    rows = [each["published"].rows for each in reversed(found[:MAX_RUNS])]
    return {
        "published": found[0]["published"],
        "live": live,
        "at": times[0],
        "usual": usual,
        "late_after": times[0] + timedelta(seconds=LATE * usual) if usual else None,
        "newest": by_dag[live.dag][0],
        "line": charts.sparkline(rows, []) if len(rows) > 1 else None,
        "low": min(rows),
        "high": max(rows),
        "count": len(rows),
    }


def pipeline_row(runs: list[IndexEntry]) -> Row:
    """Return a pipeline with its newest run, its last success, and the lines of its key figure and duration."""
    shown = runs[:MAX_RUNS]
    figure = next((run.figure for run in shown if run.value is not None), "")
    values = [run.value if run.figure == figure else None for run in reversed(shown)]
    known = [value for value in values if value is not None]
    durations = [found for run in shown if (found := seconds(run)) is not None]
    return {
        "newest": runs[0],
        "success": next((run for run in runs if run.state == "succeeded"), None),
        "runs": len(runs),
        "shown": len(shown),
        "succeeded": sum(run.state == "succeeded" for run in shown),
        "median_seconds": median(durations) if durations else None,
        "figure": figure,
        "value": known[-1] if known else None,
        "line": charts.sparkline(values, []) if len(known) > 1 else None,
        "low": min(known, default=None),
        "high": max(known, default=None),
        "count": len(known),
    }


def change(run: IndexEntry, former: list[IndexEntry]) -> float | None:
    """Return the change of a run's key figure since the last run before it that has it."""
    if run.value is None:
        return None
    value = next((each.value for each in former[:MAX_RUNS] if each.figure == run.figure and each.value), None)
    return run.value / value - 1 if value else None

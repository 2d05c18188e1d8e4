"""The funnel of a run: from delivered lines to users served, with all that was left out on the way.

Each function knows the metrics of one job; jobs without a function have no step.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from common.engines.arrow import batches_of
from common.reporting.documents import Manifest
from common.reporting.record import Example, Published, Reason, Step
from common.reporting.results import Result, as_number

EXAMPLES = 3  # of a reason
MOST = 30  # parts of a step, and reasons
SEARCHED, BATCH = 20_000, 1_000  # rows of a quarantine
CONTENT = 200  # characters
LINES, NEW_EVENTS = "lines delivered", "new events"
WHOLE_FILES = "whole files that cannot be read"
QUARANTINE = ["file", "line", "reason", "content"]


def funnel(lake: str, results: list[Result]) -> list[Step]:
    """Return the steps of all tasks, from deliveries to users."""
    jobs = list(STEPS)
    known = sorted((result for result in results if result.job in STEPS), key=lambda each: jobs.index(each.job))
    return [step for result in known for step in STEPS[result.job](lake, result)]


def step(
    result: Result, name: str, count: int, parts: dict[str, int] | None = None, out: list[Reason] | None = None
) -> Step:
    """Return a step with the largest of its parts and reasons."""
    shown = dict(list((parts or {}).items())[:MOST])
    return Step(name, result.task, count, shown, [each for each in out or [] if each.records][:MOST])


def events_delivered(lake: str, result: Result) -> Iterator[Step]:
    yield step(result, LINES, result.count("lines"))
    out = quarantined(lake, result)
    out += [Reason("duplicates of known events", result.count("duplicates")), forgotten(result), *not_kept(result)]
    yield step(result, NEW_EVENTS, result.count("events"), result.counts("events_by_type"), out)


def items_delivered(lake: str, result: Result) -> Iterator[Step]:
    yield step(result, LINES, result.count("lines"))
    out = [*quarantined(lake, result), *not_kept(result)]
    if "items" in result.metrics or any(each.records for each in out):  # else nothing was new, and the catalogue stays
        yield step(result, "items in the catalogue", result.count("items"), out=out)


def users_delivered(lake: str, result: Result) -> Iterator[Step]:
    yield step(result, LINES, result.count("lines"))
    idle = Reason("cancellations of nothing", result.count("cancellations_of_nothing"))
    out = [*quarantined(lake, result), *not_kept(result), forgotten(result), idle]
    if "users" in result.metrics or any(each.records for each in out):  # else nothing was new, and the periods stay
        yield step(result, "users with a plan or without", result.count("users"), result.counts("users_by_plan"), out)


def interactions(lake: str, result: Result) -> Iterator[Step]:
    yield step(result, "events of the window", result.count("events"), result.counts("target_events"))
    dropped = [Reason(f"events with {reason}", count) for reason, count in result.counts("dropped").items()]
    yield step(result, "pairs of user and item", result.count("interactions"), out=dropped)


def predictions(lake: str, result: Result) -> Iterator[Step]:
    gone = Reason("item no longer available", result.count("no_longer_available"))
    shown = result.counts("rows_by_style")
    yield step(result, "recommendations", sum(shown.values()), shown, [gone])


def trending(lake: str, result: Result) -> Iterator[Step]:
    unlisted = Reason("item not in the catalogue", result.count("events_without_item_in_catalogue"))
    yield step(result, "events of the window", result.count("events"), out=[unlisted])


def churn(lake: str, result: Result) -> Iterator[Step]:
    users, at_risk = result.count("users"), result.count("at_risk")
    yield step(result, "users", users, {"at risk": at_risk, "not at risk": users - at_risk})


def written(lake: str, result: Result) -> Iterator[Step]:
    unpublishable = result.metrics.get("unpublishable_keys")
    out = [
        Reason(reason, int(as_number(each.get("keys")) or 0), [Example("", str(key)) for key in each["examples"]])
        for reason, each in (unpublishable.items() if isinstance(unpublishable, dict) else ())
        if isinstance(each, dict) and isinstance(each.get("examples"), list)
    ]
    yield step(result, f"keys for {result.metrics.get('table', 'the table')}", result.count("items"), out=out)


def served(lake: str, result: Result) -> Iterator[Step]:
    if users := result.count("users"):
        default = round(users * (result.number("default_share") or 0))
        yield step(result, "users served", users, {"by own rows": users - default, "by default rows": default})


STEPS: dict[str, Callable[[str, Result], Iterator[Step]]] = {
    "ingest_events": events_delivered,
    "ingest_items": items_delivered,
    "ingest_users": users_delivered,
    "build_interactions": interactions,
    "select_recommendations": predictions,
    "build_trending_items": trending,
    "predict_churn": churn,
    "write_product": written,
    "publish_product": served,
}


def forgotten(result: Result) -> Reason:
    return Reason("of people who were forgotten", result.count("suppressed"))


def not_kept(result: Result) -> list[Reason]:
    return [Reason(f"not wanted from {source}", count) for source, count in result.counts("not_kept").items()]


def quarantined(lake: str, result: Result) -> list[Reason]:
    """Return the reasons of an ingestion's quarantine, with examples."""
    reasons = result.counts("reasons") | result.counts("dropped")
    if files := result.count("files_quarantined"):
        reasons[WHOLE_FILES] = files
    examples = examples_by_reason(lake, result) if reasons else {}
    return [Reason(reason, count, examples.get(reason, [])) for reason, count in reasons.items()]


def examples_by_reason(lake: str, result: Result) -> dict[str, list[Example]]:
    """Return a few quarantined records of each reason from the first rows of the quarantine; none if it is gone."""
    found: dict[str, list[Example]] = {}
    try:
        for row in itertools.islice(rows_of_quarantine(lake, result), SEARCHED):
            of_reason = found.setdefault(WHOLE_FILES if row["line"] is None else str(row["reason"]), [])
            if len(of_reason) < EXAMPLES:
                file = str(row["file"]).removeprefix(f"{lake}/")
                of_reason.append(Example(file, str(row["content"] or "")[:CONTENT], row["line"]))
    except (OSError, pa.ArrowException):  # deleted, or another version of the contract
        pass
    return found


def rows_of_quarantine(lake: str, result: Result) -> Iterator[dict[str, Any]]:
    for document, folder in zip(result.documents, result.folders, strict=True):
        output = document.outputs.get("quarantine") if isinstance(document, Manifest) else None
        for file in output.files if output else []:
            uri = f"{lake}/{folder}/{file.path}"
            for batch in batches_of(uri, QUARANTINE, BATCH):
                yield from batch.to_pylist()


def published(results: list[Result]) -> list[Published]:
    """Return the products that the run published, and those that were refused."""
    found = []
    for result in results:
        if result.job == "publish_product" and "product" in result.metrics:
            share = result.number("default_share")
            found.append(
                Published(
                    product=str(result.metrics["product"]).partition("@")[0],  # without the version of its contract
                    table=str(result.metrics.get("table", "")),
                    version=str(result.metrics["version"])
                    if result.succeeded and "version" in result.metrics
                    else None,
                    keys=result.count("items"),
                    rows=result.count("rows"),
                    own_rows_share=round(1 - share, 4) if share is not None and result.count("users") else None,
                )
            )
    return found

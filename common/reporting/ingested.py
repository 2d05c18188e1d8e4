"""The beginning of a product's funnel: lines and events that ingestions took in since the run before."""

from collections import Counter
from typing import Any

from common import protocol
from common.reporting import history
from common.reporting.funnel import EXAMPLES, LINES, NEW_EVENTS
from common.reporting.lineage import load_or_none
from common.reporting.record import Reason, Record, Step

DATASET = "curated/events"
MOST = 100  # runs of an ingestion: one every 15 minutes for a day
SINCE = " since the run before"


def steps(lake: str, found: Record, former: Record | None) -> list[Step]:
    """Return the steps of the ingestions between a former run and this one; none if the run reads no events.

    A backfill has none: it reads days long past.
    """
    dag = ingestion_of(lake, found) if found.kind != "backfill" else None
    if dag is None or dag == found.dag:
        return []
    name = protocol.report_name(found.run_after, found.run)
    runs = [
        each
        for each in history.read(lake, dag, MOST, before=name)
        if former is None or each.run_after > former.run_after
    ]
    since = SINCE if former else ""
    return [
        merge(f"{of_name}{since}", same)
        for of_name in (LINES, NEW_EVENTS)
        if (same := [step for each in runs for step in each.funnel if step.name == of_name])
    ]


def ingestion_of(lake: str, found: Record) -> str | None:
    """Return the pipeline that published the newest day of events that a run read; None if it read none."""
    results = [task.shown[0].manifest for task in found.tasks if task.shown and task.shown[0].manifest]
    parents = [
        str(parent["uri"])
        for path in results
        for parent in read(f"{lake}/{path}").get("parents", ())
        if str(parent["uri"]).startswith(f"{lake}/{DATASET}/")
    ]
    publisher = read(max(parents)).get("task", {}) if parents else {}
    return publisher.get("dag_id")


def read(uri: str) -> dict[str, Any]:
    """Return a manifest; an empty one if it is gone."""
    found = load_or_none(uri)
    return found.document if found else {}


def merge(name: str, same: list[Step]) -> Step:
    """Return the sum of the steps of several runs, the newest first."""
    parts, records = Counter[str](), Counter[str]()
    reasons: dict[str, Reason] = {}
    for step in same:
        parts.update(step.parts)
        for each in step.out:
            records[each.reason] += each.records
            kept = reasons.setdefault(each.reason, Reason(each.reason, 0))
            kept.examples = [*kept.examples, *each.examples][:EXAMPLES]
    out = [Reason(reason, count, reasons[reason].examples) for reason, count in records.most_common()]
    return Step(name, same[0].task, sum(step.count for step in same), dict(parts.most_common()), out)

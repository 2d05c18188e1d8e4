"""The beginning of a product's funnel, from the records of ingestions."""

from datetime import timedelta

import records
from run_documents import RunFolder

from common import protocol
from common.handover import storage
from common.reporting import ingested, record
from common.reporting.record import Example, Reason, Record, Step


def ingestion(lake: str, hours: float, lines: int, **types: int) -> None:
    """Write the record of an ingestion so many hours before the product's run."""
    run = records.good_run()
    run.dag, run.run, run.run_after = "ingest", f"{hours} before", run.run_after - timedelta(hours=hours)
    out = [Reason("no user", 2, [Example("a", f"{hours} {n}", n) for n in range(2)])]
    run.funnel = [Step("lines delivered", "ingest_events", lines)]
    run.funnel += [Step("new events", "ingest_events", lines - 2, types, out), Step("other", "ingest_events", 1)]
    storage.write(protocol.record_uri(lake, "ingest", protocol.report_name(run.run_after, run.run)), record.encode(run))


def product(run: RunFolder) -> Record:
    """Return the record of a run that read two days of events."""
    days = [f"{run.lake}/curated/events/date=2026-11-{day}/manifest.json" for day in (24, 25)]
    parents = [{"role": "events", "uri": uri, "digest": ""} for uri in days]
    run.manifest("build_interactions", 0, 10, parents=parents)
    run.write(days[1], {"task": {"dag_id": "ingest", "run_id": "1"}})
    found = run.record()
    found.run_after = records.good_run().run_after
    return found


def test_ingestions_since_the_run_before_are_summed(lake: str) -> None:
    found, former = product(RunFolder(lake)), records.good_run(1)
    for hours, lines in ((-1, 1000), (1, 10), (3, 20), (25, 500)):
        ingestion(lake, hours, lines, view=lines - 5, purchase=3)
    lines, events = ingested.steps(lake, found, former)
    assert (lines.name, lines.count, lines.task) == ("lines delivered since the run before", 30, "ingest_events")
    assert (events.count, events.parts) == (26, {"view": 20, "purchase": 6})
    (reason,) = events.out
    assert (reason.records, [each.content for each in reason.examples]) == (4, ["1 0", "1 1", "3 0"])
    assert [(step.name, step.count) for step in ingested.steps(lake, found, None)] == [
        ("lines delivered", 530),
        ("new events", 524),
    ]
    found.kind = "backfill"
    assert ingested.steps(lake, found, former) == []


def test_runs_without_known_events_have_no_such_steps(lake: str) -> None:
    run = RunFolder(lake)
    run.manifest("train", 0, 10)
    assert ingested.steps(lake, run.record(), None) == []
    found = product(run)
    assert ingested.steps(lake, found, None) == []  # no record of the ingestion
    storage.delete(f"{lake}/curated")
    assert ingested.steps(lake, found, None) == []

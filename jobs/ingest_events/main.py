"""Ingest tracking events of all sources into typed, deduplicated events by date of occurrence.

The key of the deduplication, within a delivery and against earlier ones, is the date of occurrence (UTC), the source
and the ID. So only the partitions of the dates in a delivery are read, and an ID with a time on another day is another
event. The first arrival wins.

Without a window, a run takes the files that are new or have changed by the ledger of the dataset. If there are none, it
publishes no partition.

A corrupt file is left out. A record that breaks a rule of common/ingestion/records.py or of its source goes to
quarantine, a file with too many of them is left out entirely, the rest is used.
"""

import datetime
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from common import contracts
from common.engines import frames
from common.engines.frames import ROWS_PER_PARTITION
from common.errors import InputError, TaskError
from common.handover import Task, manifest, run
from common.handover.manifest import Manifest
from common.handover.storage import File, in_parallel
from common.ingestion import deliveries, records, suppression
from common.ingestion.deliveries import Quarantined
from common.ingestion.engine import parsing
from common.ingestion.events import NOT_KEPT, Delivered, Parsed
from common.ingestion.ledger import Ledger
from common.ingestion.suppression import People
from common.sources import source as sources
from common.sources import tracking_plan
from common.sources.source import Source

SUPPRESSED = "of a person who was forgotten"  # a reason without quarantine
MAX_UNKNOWN = 20  # unknown types that a metric names
QUARANTINE = {"file": "STRING", "line": "BIGINT", "reason": "STRING", "bytes": "BIGINT", "content": "STRING"}


@dataclass
class Summary:
    """Counts of a file: records, unusable ones by reason, events by date and by type; and its first line's position."""

    records: int = 0
    lines: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    events: Counter[datetime.date] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    first: int = 1
    suppressed: int = 0
    not_kept: int = 0


def delivered_files(
    task: Task, known: Ledger, configured: list[Source]
) -> tuple[dict[int, Delivered], list[Quarantined]]:
    """Return the files to ingest of all sources, by number, and those that are left out."""
    listed = task.deliveries("deliveries", [source.deliveries for source in configured])
    found = known.select(task, "deliveries", listed)
    files: list[Delivered] = []
    left_out: list[Quarantined] = []
    for source, each in zip(configured, found, strict=True):
        accepted, others = deliveries.split_by_suffix(each, source.suffix)
        files += [Delivered(source, file, each.arrivals[file.uri]) for file in accepted]
        left_out += others
    return dict(enumerate(files)), left_out


def no_readable_file(task: Task, configured: list[Source], left_out: list[Quarantined]) -> InputError:
    """Return the error for deliveries without a readable file."""
    folders = (
        [task.inputs["deliveries"].folder]
        if left_out
        else [f"{task.lake}/{source.deliveries}" for source in configured]
    )
    return deliveries.no_readable_file(folders, left_out)


def suppressor(session: SparkSession, task: Task, forgotten: People | None) -> Callable[[DataFrame], DataFrame] | None:
    """Return a function that sets the reason SUPPRESSED, which drops an event, on those of people who were forgotten.

    Without any it is None, free of cost. A user ID is looked up by its keyed hash. The key and the list are read as
    rows, because literals of a query appear in Spark's event log. A record that is not used may have no user ID, so
    Python also searches its kept content.
    """
    if forgotten is None:
        return None
    key = parsing.lines_of(session, suppression.key_uri(task.lake), "key")
    listed = parsing.lines_of(session, suppression.users_uri(task.lake), "hash").withColumn("listed", F.lit(True))
    named = parsing.by_python(session, lambda content: bool(forgotten.named_in_line(content)), "content", "BOOLEAN")

    def suppress(parsed: DataFrame) -> DataFrame:
        inner = F.sha2(F.concat("key", "person"), 256)
        hashed = parsed.crossJoin(F.broadcast(key)).withColumn("hash", F.sha2(F.concat(F.col("key"), inner), 256))
        looked_up = hashed.join(F.broadcast(listed), "hash", "left")
        dropped = F.coalesce(F.col("listed"), F.lit(False)) | F.coalesce(named, F.lit(False))
        looked_up = looked_up.withColumn("reason", F.when(dropped, F.lit(SUPPRESSED)).otherwise(F.col("reason")))
        kept = F.when(~F.col("reason").eqNullSafe(SUPPRESSED), F.col("content")).alias("content")
        names = [name for name in parsed.columns if name != "person"]
        return looked_up.select(*[kept if name == "content" else F.col(name) for name in names])

    return suppress


def summarise(parsed: Parsed, files: dict[int, Delivered], known: Iterable[str]) -> dict[int, Summary]:
    """Count records by reason, events by date and known type of each file, and find its first position, in one pass.

    Raises TaskError if the number of lines differs from the survey's.
    """
    summaries = {number: Summary() for number in parsed.surveys}
    kind = F.when(F.col("type").isin(list(known)), F.col("type")).alias("type")
    counts = [
        F.count("*").alias("records"),
        F.count_if(F.coalesce("entry", F.lit(0)) == 0).alias("lines"),
        F.min("line_position").alias("first"),
    ]
    for group in parsed.frame.groupBy("file", "date", "reason", kind).agg(*counts).collect():
        summary = summaries[group.file]
        summary.first = min(group.first, summary.first) if summary.records else group.first
        summary.records += group.records
        summary.lines += group.lines
        if group.reason == SUPPRESSED:
            summary.suppressed += group.records
        elif group.reason == NOT_KEPT:
            summary.not_kept += group.records
        elif group.reason:
            summary.unusable[group.reason] += group.records
        else:
            summary.events[group.date] += group.records
            summary.types[group.type or ""] += group.records
    for number, survey in parsed.surveys.items():
        summary = summaries[number]
        if survey is None:
            summary.first = 1
            continue
        if summary.lines + len(survey.too_long) != survey.lines:
            raise TaskError(
                f"{files[number].file.uri} has {summary.lines} lines of up to 1 MiB, and had "
                f"{survey.lines - len(survey.too_long)} before; rerun the task when the delivery is complete."
            )
        summary.records += len(survey.too_long)
        if survey.too_long:
            summary.unusable[records.TOO_LONG] += len(survey.too_long)
    return summaries


def quarantine_lines(session: SparkSession, lines: DataFrame, starts: DataFrame) -> DataFrame:
    """Return rows of quarantine@2 for unusable lines; `starts` has one row per file."""
    content = parsing.by_python(session, records.escape, "content", "STRING").alias("content")
    shown = lines.where(~F.col("reason").isin(SUPPRESSED, NOT_KEPT))
    placed = shown.join(F.broadcast(starts), "file")
    return placed.select(F.col("name").alias("file"), parsing.line_number().alias("line"), "reason", "bytes", content)


def quarantine(
    session: SparkSession,
    parsed: Parsed,
    all_of_bad_files: Parsed | None,
    files: dict[int, Delivered],
    summaries: dict[int, Summary],
    left_out: list[Quarantined],
    forgotten: People | None,
) -> DataFrame:
    """Return rows of quarantine@2: files that are left out, unusable lines, and all lines of bad files."""
    rows = deliveries.quarantine_of_files(left_out)
    skipped = {number: survey.too_long if survey else [] for number, survey in parsed.surveys.items()}
    for number, lines in skipped.items():
        rows += [
            deliveries.quarantine_of_line(files[number].file, line, records.TOO_LONG)
            for line in lines
            if not (forgotten and forgotten.named_in_line(line.content))
        ]
    result = frames.small_table(session, QUARANTINE, rows)

    def starts(firsts: dict[int, int]) -> DataFrame:
        kinds = {"file": "BIGINT", "name": "STRING", "first": "BIGINT", "skipped": "ARRAY<BIGINT>"}
        return frames.small_table(
            session,
            kinds,
            [
                (number, deliveries.name_of(files[number].file), first, [line.number for line in skipped[number]])
                for number, first in firsts.items()
            ],
        )

    bad_files = set(all_of_bad_files.surveys) if all_of_bad_files else set()
    firsts = {number: summary.first for number, summary in summaries.items() if summary.unusable}
    if kept := {number: first for number, first in firsts.items() if number not in bad_files}:
        unusable = used(parsed.frame, bad_files).where("reason IS NOT NULL")
        result = result.unionByName(quarantine_lines(session, unusable, starts(kept)))
    if all_of_bad_files is not None:
        begins = all_of_bad_files.frame.groupBy("file").agg(F.min("line_position").alias("first")).collect()
        firsts = {row.file: row.first if all_of_bad_files.surveys[row.file] else 1 for row in begins}
        result = result.unionByName(quarantine_lines(session, all_of_bad_files.frame, starts(firsts)))
    return result


def used(parsed: DataFrame, bad_files: Iterable[int]) -> DataFrame:
    """Return the lines of files that are not left out."""
    numbers = list(bad_files)
    return parsed.where(~F.col("file").isin(numbers)) if numbers else parsed


def new_events(parsed: DataFrame, known: DataFrame | None, rows: dict[datetime.date, int], new: int) -> DataFrame:
    """Return new usable events, each once: the first to arrive.

    `known` has `date`, `source` and `event_id` of the published events for the dates of the delivery, of which `rows`
    has the number of events, with the `new` ones.
    """
    unused = {"reason", "person", "bytes", "content"}
    arrived = parsed.where("reason IS NULL").select(*[name for name in parsed.columns if name not in unused])
    both = arrived if known is None else arrived.unionByName(known, allowMissingColumns=True)
    first = parsing.first_arrivals(both, rows, new).where("arrival IS NOT NULL")  # known events have none
    columns = [
        F.col(field.name) if field.name in first.columns else F.lit(None).cast(field.dataType).alias(field.name)
        for field in frames.schema(contracts.load("events@3"))
    ]
    return first.select("date", *columns)


def known_events(published: list[Manifest | None]) -> DataFrame | None:
    """Return the date, source and ID of the events of these partitions; None if there are none."""
    files = [file.uri for partition in published for file in manifest.partition_files(partition)]
    if not files:
        return None
    return frames.scan(files, contracts.load("events@3")).select(F.to_date("time").alias("date"), "source", "event_id")


def unknown_types(parsed: DataFrame, known: Iterable[str]) -> dict[str, int]:
    """Return the most frequent types that the tracking plan lacks, with their numbers of events."""
    unknown = parsed.where(F.col("reason").isNull() & ~F.col("type").isin(list(known))).groupBy("type").count()
    return {row["type"]: row["count"] for row in unknown.orderBy(F.desc("count"), "type").limit(MAX_UNKNOWN).collect()}


def count(
    summaries: dict[int, Summary], files: dict[int, Delivered], bad_files: set[int], left_out: int
) -> tuple[dict[str, object], Counter[str]]:
    """Return the metrics of a delivery before the deduplication, and the number of unusable records by reason."""
    reasons = sum((summary.unusable for summary in summaries.values()), Counter())
    if in_bad_files := sum(summaries[number].events.total() for number in bad_files):
        reasons[records.IN_BAD_FILE] = in_bad_files
    not_kept: Counter[str] = Counter()
    for number, summary in summaries.items():
        not_kept[files[number].source.name] += summary.not_kept
    types = sum((summary.types for number, summary in summaries.items() if number not in bad_files), Counter())
    metrics = {
        "lines": sum(summary.records for summary in summaries.values()),
        **deliveries.quarantine_metrics(reasons, left_out, len(bad_files)),
        "suppressed": sum(summary.suppressed for summary in summaries.values()),
        "not_kept": dict(+not_kept),
        "events_by_type": {name: number for name, number in types.most_common() if name},
        "unknown_types": {},
    }
    return metrics, reasons


def main(task: Task) -> None:
    configured = sources.load("events")
    with frames.session(task) as session, ExitStack() as kept:
        checked = {source.name: parsing.check(session, source) for source in configured}
        ledger = Ledger.load(task, "events")
        files, left_out = delivered_files(task, ledger, configured)
        forgotten = suppression.load(task.lake)
        suppress = suppressor(session, task, forgotten)

        def parse(chosen: dict[int, Delivered], usable: str | None = None) -> Parsed:
            return kept.enter_context(parsing.parse(session, task, chosen, checked, usable, suppress))

        parsed = parse(files)
        left_out += parsed.unreadable
        if parsed.surveys:
            ingest(session, task, ledger, files, parsed, parse, left_out, forgotten)
        elif ledger.may_be_idle:
            publish_nothing(session, task, ledger, left_out)
        else:
            raise no_readable_file(task, configured, [*left_out, *itertools.starmap(Quarantined, ledger.waiting)])


def ingest(
    session: SparkSession,
    task: Task,
    ledger: Ledger,
    files: dict[int, Delivered],
    parsed: Parsed,
    parse: Callable[..., Parsed],
    left_out: list[Quarantined],
    forgotten: People | None,
) -> None:
    """Publish the new events of readable files, and the quarantine."""
    max_share, known = task.parameters["max_quarantined_share"], list(tracking_plan.load().types)
    with parsing.expression_errors({files[number].source.file: None for number in parsed.surveys}):
        summaries = summarise(parsed, files, known)
    bad_files = {
        number
        for number, summary in summaries.items()
        if records.too_many(summary.unusable.total(), summary.records, max_share)
    }
    metrics, reasons = count(summaries, files, bad_files, len(left_out))
    usable = used(parsed.frame, bad_files)
    if any(summary.types[""] for number, summary in summaries.items() if number not in bad_files):
        metrics["unknown_types"] = unknown_types(usable, known)
    task.metrics |= metrics
    task.log("parsed", **task.metrics)
    events = sum((summary.events for number, summary in summaries.items() if number not in bad_files), Counter())
    kept = events.total() + task.metrics["suppressed"] + sum(task.metrics["not_kept"].values())
    if reasons or not ledger.may_be_idle:  # else files without any record
        deliveries.refuse_unusable(kept, task.metrics["lines"], reasons, max_share)

    whole = parse({number: files[number] for number in bad_files}, records.IN_BAD_FILE) if bad_files else None
    quarantined = quarantine(session, parsed, whole, files, summaries, left_out, forgotten)
    quarantined = quarantined.repartition(1 + reasons.total() // ROWS_PER_PARTITION)
    frames.write(task, "quarantine", quarantined.sortWithinPartitions("file", "line"))
    added = publish(task, usable, events)
    task.metrics |= {"events": added, "duplicates": events.total() - added}
    ledger.record(task, quarantined_counts(files, summaries, bad_files, left_out))


def publish_nothing(session: SparkSession, task: Task, ledger: Ledger, left_out: list[Quarantined]) -> None:
    """Hand over the quarantine and the metrics of a run without a readable file."""
    task.metrics |= count({}, {}, set(), len(left_out))[0] | {"events": 0, "duplicates": 0}
    rows = deliveries.quarantine_of_files(left_out)
    frames.write(task, "quarantine", frames.small_table(session, QUARANTINE, rows))
    ledger.record(task, quarantined_counts({}, {}, set(), left_out))


def quarantined_counts(
    files: dict[int, Delivered], summaries: dict[int, Summary], bad_files: set[int], left_out: list[Quarantined]
) -> dict[File, int]:
    """Return the number of quarantined records of each file; 1 for a file that was not read to its end."""
    counts = {file: 1 for file, _ in left_out}
    for number, summary in summaries.items():
        in_bad_file = summary.events.total() if number in bad_files else 0
        counts[files[number].file] = summary.unusable.total() + in_bad_file
    return counts


def publish(task: Task, usable: DataFrame, events: Counter[datetime.date]) -> int:
    """Append the new events to their dates; return their number."""
    dates = sorted(events)
    published = in_parallel(lambda date: task.partition("events", f"date={date}")[1], dates)
    seen = dict(zip(dates, published, strict=True))
    rows = {date: events[date] + manifest.partition_rows(seen[date]) for date in dates}
    fresh = new_events(usable, known_events(list(seen.values())), rows, events.total())
    return frames.append(task, "events", fresh, {str(date): manifest for date, manifest in seen.items()})


if __name__ == "__main__":
    run(main)

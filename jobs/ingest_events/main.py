"""Ingest tracking events of all sources into typed, deduplicated events by date of occurrence.

The key of the deduplication, within a delivery and against earlier ones, is the date of occurrence (UTC), the source
and the ID. So only the partitions of the dates in a delivery are read, and an ID with a time on another day is another
event. The first arrival wins.

Without a window, a run takes the files that are new or have changed by the ledger of the dataset. If there are none, it
publishes no partition.

First Python on the workers reads each file to its end, as a stream. That finds corrupt files, and lines that are too
long, which Spark's reader drops silently. Then the complete files are read, and each source's expressions applied. A
record that breaks a rule of common/ingestion/records.py or of its source goes to quarantine, a file with too many of
them is left out entirely, the rest is used.
"""

import datetime
import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from common import contracts
from common.engines import spark
from common.engines.spark import ROWS_PER_PARTITION
from common.errors import InputError, TaskError
from common.handover import Task, manifest, run
from common.handover.manifest import Manifest
from common.handover.storage import File, in_parallel
from common.ingestion import deliveries, records, suppression
from common.ingestion.deliveries import Quarantined, Survey
from common.ingestion.ledger import Ledger
from common.ingestion.spark import mapping, reading
from common.ingestion.spark.mapping import NOT_KEPT
from common.ingestion.spark.reading import Delivered
from common.ingestion.suppression import People
from common.sources import source as sources
from common.sources import tracking_plan
from common.sources.source import Source

EVENNESS = 8  # buckets per partition of a large date, so that hashes spread evenly
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


def readable(session: SparkSession, files: dict[int, Delivered], left_out: list[Quarantined]) -> dict[int, Survey]:
    """Return the surveys of the readable files by number, and add the others to those that are left out.

    A Parquet file has an empty survey; in `files` it gets its schema.
    """
    text = {number: each for number, each in files.items() if each.source.format != "parquet"}
    results: dict[int, Survey | str] = {}
    if text:
        slices = min(len(text), 8 * session.sparkContext.defaultParallelism)
        surveyed = session.sparkContext.parallelize(list(text.values()), slices).map(reading.survey_or_reason).collect()
        results |= dict(zip(text, surveyed, strict=True))
    parquet = {number: each for number, each in files.items() if number not in text}
    readable_parquet, unreadable = reading.with_schemas(session, parquet)
    files |= readable_parquet
    results |= unreadable | dict.fromkeys(readable_parquet, Survey())
    surveys = {number: survey for number, survey in results.items() if isinstance(survey, Survey)}
    left_out += [
        Quarantined(files[number].file, reason) for number, reason in sorted(results.items()) if isinstance(reason, str)
    ]
    return surveys


def parse(
    session: SparkSession,
    files: dict[int, Delivered],
    types: dict[str, dict[str, DataType]],
    reason_of_usable: str | None = None,
) -> DataFrame:
    """Return the events of files, of each source by its expressions, without columns of none; see `mapping.mapped`."""
    by_source: defaultdict[str, dict[int, Delivered]] = defaultdict(dict)
    for number, each in files.items():
        by_source[each.source.name][number] = each
    parts = []
    for name, own in by_source.items():
        source = next(iter(own.values())).source
        parts.append(mapping.mapped(reading.records_of(session, source, own), source, types[name], reason_of_usable))
    return functools.reduce(functools.partial(DataFrame.unionByName, allowMissingColumns=True), parts)


def suppress(session: SparkSession, task: Task, forgotten: People | None, parsed: DataFrame) -> DataFrame:
    """Set the reason SUPPRESSED, which drops an event, on those of people who were forgotten; free of cost without any.

    A user ID is looked up by its keyed hash. The key and the list are read as rows, because literals of a query appear
    in Spark's event log. A record that is not used may have no user ID, so Python also searches its kept content.
    """
    if forgotten is None:
        return parsed.drop("person")
    key = session.read.text(suppression.key_uri(task.lake)).select(F.col("value").alias("key"))
    listed = session.read.text(suppression.users_uri(task.lake)).select(F.col("value").alias("hash"))
    named = F.udf(lambda content: bool(content and forgotten.named_in_line(bytes(content))), "BOOLEAN")
    inner = F.sha2(F.concat("key", "person"), 256)
    hashed = parsed.crossJoin(F.broadcast(key)).withColumn("hash", F.sha2(F.concat("key", inner), 256))
    looked_up = hashed.join(F.broadcast(listed.withColumn("listed", F.lit(True))), "hash", "left")
    dropped = F.coalesce("listed", F.lit(False)) | named("content")
    looked_up = looked_up.withColumn("reason", F.when(dropped, F.lit(SUPPRESSED)).otherwise(F.col("reason")))
    return looked_up.select(
        *[
            F.when(F.col("reason") != SUPPRESSED, F.col(name)).alias(name) if name == "content" else name
            for name in parsed.columns
            if name != "person"
        ]
    )


def summarise(
    parsed: DataFrame, files: dict[int, Delivered], surveys: dict[int, Survey], known: Iterable[str]
) -> dict[int, Summary]:
    """Count records by reason, events by date and known type of each file, and find its first position, in one pass.

    Raises TaskError if Spark's number of lines differs from the survey's.
    """
    summaries = {number: Summary() for number in surveys}
    kind = F.when(F.col("type").isin(list(known)), F.col("type")).alias("type")
    counts = [
        F.count("*").alias("records"),
        F.count_if(F.coalesce("entry", F.lit(0)) == 0).alias("lines"),
        F.min("line_position").alias("first"),
    ]
    for group in parsed.groupBy("file", "date", "reason", kind).agg(*counts).collect():
        summary = summaries[group.file]
        if files[group.file].by_spark:
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
    for number, survey in surveys.items():
        if not files[number].by_spark:
            continue
        summary = summaries[number]
        if summary.lines + len(survey.too_long) != survey.lines:
            raise TaskError(
                f"{files[number].file.uri} has {summary.lines} lines of up to 1 MiB, and had "
                f"{survey.lines - len(survey.too_long)} before; rerun the task when the delivery is complete."
            )
        summary.records += len(survey.too_long)
        if survey.too_long:
            summary.unusable[records.TOO_LONG] += len(survey.too_long)
    return summaries


def quarantine_lines(lines: DataFrame, starts: DataFrame) -> DataFrame:
    """Return rows of quarantine@2 for unusable lines; `starts` has one row per file.

    Its `skipped` are the numbers of lines that Spark's reader dropped, ascending: each shifts the later ones by one.
    """
    number = F.aggregate("skipped", F.col("line_position") - F.col("first") + 1, lambda line, skipped: F.when(
        skipped <= line, line + 1).otherwise(line))  # fmt: skip
    readable_text = F.udf(records.escape, "STRING")
    return (
        lines.where(~F.col("reason").isin(SUPPRESSED, NOT_KEPT))
        .join(F.broadcast(starts), "file")
        .select(
            F.col("name").alias("file"),
            number.alias("line"),
            "reason",
            "bytes",
            readable_text("content").alias("content"),
        )
    )


def quarantine(
    session: SparkSession,
    parsed: DataFrame,
    all_of_bad_files: DataFrame | None,
    files: dict[int, Delivered],
    surveys: dict[int, Survey],
    summaries: dict[int, Summary],
    bad_files: set[int],
    left_out: list[Quarantined],
    forgotten: People | None,
) -> DataFrame:
    """Return rows of quarantine@2: files that are left out, unusable lines, and all lines of bad files."""
    rows = deliveries.quarantine_of_files(left_out)
    skipped = {number: surveys[number].too_long if files[number].by_spark else [] for number in surveys}
    for number, lines in skipped.items():
        rows += [
            deliveries.quarantine_of_line(files[number].file, line, records.TOO_LONG)
            for line in lines
            if not (forgotten and forgotten.named_in_line(line.content))
        ]
    result = spark.small_table(session, QUARANTINE, rows)

    def starts(firsts: dict[int, int]) -> DataFrame:
        kinds = {"file": "BIGINT", "name": "STRING", "first": "BIGINT", "skipped": "ARRAY<BIGINT>"}
        return spark.small_table(
            session,
            kinds,
            [
                (number, deliveries.name_of(files[number].file), first, [line.number for line in skipped[number]])
                for number, first in firsts.items()
            ],
        )

    firsts = {number: summary.first for number, summary in summaries.items() if summary.unusable}
    if kept := {number: first for number, first in firsts.items() if number not in bad_files}:
        result = result.unionByName(quarantine_lines(used(parsed, bad_files), starts(kept)))
    if all_of_bad_files is not None:
        begins = all_of_bad_files.groupBy("file").agg(F.min("line_position").alias("first")).collect()
        firsts = {row.file: row.first if files[row.file].by_spark else 1 for row in begins}
        result = result.unionByName(quarantine_lines(all_of_bad_files, starts(firsts)))
    return result


def used(parsed: DataFrame, bad_files: Iterable[int]) -> DataFrame:
    """Return the lines of files that are not left out."""
    numbers = list(bad_files)
    return parsed.where(~F.col("file").isin(numbers)) if numbers else parsed


def new_events(parsed: DataFrame, known: DataFrame, buckets: DataFrame, partitions: int) -> DataFrame:
    """Return new usable events, each once: the first to arrive; one shuffle, by date and bucket of event IDs.

    `known` has `date`, `source` and `event_id` of the published events for the dates of the delivery. `buckets` has the
    number of buckets per date.
    """
    arrived = parsed.where("reason IS NULL").drop("reason", "bytes", "content")
    both = arrived.unionByName(known, allowMissingColumns=True)
    spread = both.join(F.broadcast(buckets), "date").withColumn(
        "bucket", F.pmod(F.xxhash64("source", "event_id"), F.col("buckets"))
    )
    same_event = Window.partitionBy("date", "bucket", "event_id", "source").orderBy(
        F.asc_nulls_first("arrival"), "file", "line_position", "entry"
    )
    first = spread.repartition(partitions, "date", "bucket").withColumn("number", F.row_number().over(same_event))
    columns = [
        F.col(field.name) if field.name in first.columns else F.lit(None).cast(field.dataType).alias(field.name)
        for field in spark.schema(contracts.load("events@3"))
    ]
    return first.where("number = 1 AND arrival IS NOT NULL").select("date", *columns)  # known events have no arrival


def known_events(session: SparkSession, published: list[Manifest | None]) -> DataFrame:
    """Return the date, source and ID of the events of these partitions."""
    files = [file.uri for partition in published for file in manifest.partition_files(partition)]
    if not files:
        return spark.small_table(session, {"date": "DATE", "source": "STRING", "event_id": "STRING"}, [])
    events = session.read.schema(spark.schema(contracts.load("events@3"))).parquet(*files)
    return events.select(F.to_date("time").alias("date"), "source", "event_id")


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
    with spark.session(task) as session:
        types = {source.name: mapping.check_types(session, source) for source in configured}
        ledger = Ledger.load(task, "events")
        files, left_out = delivered_files(task, ledger, configured)
        surveys = readable(session, files, left_out)
        if surveys:
            ingest(session, task, ledger, types, files, surveys, left_out)
        elif ledger.may_be_idle:
            publish_nothing(session, task, ledger, left_out)
        else:
            raise no_readable_file(task, configured, [*left_out, *itertools.starmap(Quarantined, ledger.waiting)])


def ingest(
    session: SparkSession,
    task: Task,
    ledger: Ledger,
    types: dict[str, dict[str, DataType]],
    files: dict[int, Delivered],
    surveys: dict[int, Survey],
    left_out: list[Quarantined],
) -> None:
    """Publish the new events of readable files, and the quarantine."""
    max_share, known = task.parameters["max_quarantined_share"], list(tracking_plan.load().types)
    forgotten = suppression.load(task.lake)
    parsed = parse(session, {number: files[number] for number in surveys}, types)
    parsed = suppress(session, task, forgotten, parsed).persist(StorageLevel.DISK_ONLY)
    with mapping.expression_errors({files[number].source.file: None for number in surveys}):
        summaries = summarise(parsed, files, surveys, known)
    bad_files = {
        number
        for number, summary in summaries.items()
        if records.too_many(summary.unusable.total(), summary.records, max_share)
    }
    metrics, reasons = count(summaries, files, bad_files, len(left_out))
    usable = used(parsed, bad_files)
    if any(summary.types[""] for number, summary in summaries.items() if number not in bad_files):
        metrics["unknown_types"] = unknown_types(usable, known)
    task.metrics |= metrics
    task.log("parsed", **task.metrics)
    events = sum((summary.events for number, summary in summaries.items() if number not in bad_files), Counter())
    kept = events.total() + task.metrics["suppressed"] + sum(task.metrics["not_kept"].values())
    if reasons or not ledger.may_be_idle:  # else files without any record
        deliveries.refuse_unusable(kept, task.metrics["lines"], reasons, max_share)

    all_of_bad_files = None
    if bad_files:
        bad = parse(session, {number: files[number] for number in bad_files}, types, records.IN_BAD_FILE)
        all_of_bad_files = suppress(session, task, forgotten, bad).persist(StorageLevel.DISK_ONLY)
    quarantined = quarantine(
        session, parsed, all_of_bad_files, files, surveys, summaries, bad_files, left_out, forgotten
    )
    quarantined = quarantined.repartition(1 + reasons.total() // ROWS_PER_PARTITION)
    spark.write(task, "quarantine", quarantined.sortWithinPartitions("file", "line"))
    added = publish(session, task, usable, events)
    task.metrics |= {"events": added, "duplicates": events.total() - added}
    ledger.record(task, quarantined_counts(files, summaries, bad_files, left_out))


def publish_nothing(session: SparkSession, task: Task, ledger: Ledger, left_out: list[Quarantined]) -> None:
    """Hand over the quarantine and the metrics of a run without a readable file."""
    task.metrics |= count({}, {}, set(), len(left_out))[0] | {"events": 0, "duplicates": 0}
    rows = deliveries.quarantine_of_files(left_out)
    spark.write(task, "quarantine", spark.small_table(session, QUARANTINE, rows))
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


def publish(session: SparkSession, task: Task, usable: DataFrame, events: Counter[datetime.date]) -> int:
    """Append the new events to their dates; return their number."""
    dates = sorted(events)
    published = in_parallel(lambda date: task.partition("events", f"date={date}")[1], dates)
    seen = dict(zip(dates, published, strict=True))
    rows = {date: events[date] + manifest.partition_rows(seen[date]) for date in dates}
    parts = [1 if number <= ROWS_PER_PARTITION else EVENNESS * number // ROWS_PER_PARTITION for number in rows.values()]
    buckets = spark.small_table(session, {"date": "DATE", "buckets": "BIGINT"}, zip(rows, parts, strict=True))
    partitions = max(session.sparkContext.defaultParallelism, -(-sum(rows.values()) // ROWS_PER_PARTITION))
    fresh = new_events(usable, known_events(session, list(seen.values())), buckets, partitions)
    if max(parts, default=1) > 1 and sum(rows.values()) > EVENNESS * events.total():
        fresh = fresh.repartition("date")  # few new events of large dates: one file each, not one per partition
    return spark.append(task, "events", fresh, {str(date): manifest for date, manifest in seen.items()})


if __name__ == "__main__":
    run(main)

"""Ingest tracking events as delivered into typed, deduplicated events by date of occurrence.

The key of the deduplication, within a delivery and against earlier ones, is the date of occurrence (UTC) and the ID. So
only the partitions of the dates in a delivery are read, and an ID with a time on another day is another event. The
first arrival wins.

First Python on the workers reads each file to its end, as a stream. That finds corrupt files, and lines that are too
long, which Spark's reader drops silently. Then Spark reads the complete files. A line that breaks a rule of
common/ingestion/records.py goes to quarantine, a file with too many of them is left out entirely, the rest is used.
"""

import datetime
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from common import contracts
from common.contracts import CONTROL, MAX_BYTES
from common.engines import spark
from common.engines.spark import ROWS_PER_PARTITION
from common.errors import TaskError
from common.handover import Task, manifest, run
from common.handover.manifest import Manifest
from common.handover.storage import File, in_parallel
from common.ingestion import deliveries, records, suppression
from common.ingestion.deliveries import Quarantined, Survey
from common.ingestion.suppression import People

EVENT = (
    "event_id STRING, user_id STRING, item_id STRING, type STRING, quantity BIGINT, unit_price DOUBLE, "
    "time STRING, country STRING"
)
TYPES = ("purchase", "cancellation")
EVENNESS = 8  # buckets per partition of a large date, so that hashes spread evenly
READER = {
    "lineSep": "\n",
    "mapreduce.input.linerecordreader.line.maxlength": str(records.MAX_RECORD + 2),  # longer lines are dropped
    "recursiveFileLookup": "true",  # folder names do not become columns
    "__globPaths__": "false",  # brackets in names are literal
}
JSON = {"allowNonNumericNumbers": "false", "allowSingleQuotes": "false"}
SUPPRESSED = "of a person who was forgotten"  # a reason without quarantine
END = "end of line e1f7c2d0"  # ID of an object appended to each line; it follows if the line is one object
# Other JSON values that Spark converts to text; apart from control characters, text may look the same.
SUSPICIOUS = rf"{CONTROL}|^(?:[\[{{]|true$|false$|-?[0-9]+[.E]|\x22-?Infinity\x22$)"


@dataclass
class Summary:
    """Counts of a file: lines, unusable ones by reason, events by date; and the position of its first line."""

    lines: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    events: Counter[datetime.date] = field(default_factory=Counter)
    first: int = 0
    suppressed: int = 0


def readable(session: SparkSession, task: Task) -> tuple[dict[int, File], dict[int, Survey], list[Quarantined]]:
    """Return the readable files and their surveys, by number, and the files that are left out.

    Raises InputError if no file can be read.
    """
    source = task.input("deliveries")
    files, left_out = deliveries.accept_files(source, ".gz")
    slices = min(len(files), 8 * session.sparkContext.defaultParallelism)
    results = session.sparkContext.parallelize(files, slices).map(deliveries.survey_or_reason).collect()
    surveys = {number: survey for number, survey in enumerate(results) if isinstance(survey, Survey)}
    left_out += [
        Quarantined(file, reason) for file, reason in zip(files, results, strict=True) if isinstance(reason, str)
    ]
    if not surveys:
        raise deliveries.no_readable_file(source, left_out)
    return {number: files[number] for number in surveys}, surveys, left_out


def read_lines(session: SparkSession, task: Task, files: dict[int, File]) -> DataFrame:
    """Return each line with the number of its file, its arrival day and its position.

    A gzipped file can't be split, so its lines have consecutive positions. A line's number is its position minus that
    of the file's first line, without counting.
    """
    lines = session.read.options(**READER).text([file.uri for file in files.values()])
    numbers = {file.uri: number for number, file in files.items()}
    arrivals = task.input("deliveries").arrivals
    rows = []
    for path in lines.inputFiles():  # percent-encoded
        uri = unquote(path)
        spellings = {path, path.replace("file:///", "file:/", 1)}  # Hadoop's file systems begin either way
        rows += [(spelling, numbers[uri], arrivals[uri]) for spelling in spellings]
    known = spark.small_table(session, {"path": "STRING", "file": "BIGINT", "arrival": "DATE"}, rows)
    with_positions = lines.select(
        "value", F.col("_metadata.file_path").alias("path"), F.monotonically_increasing_id().alias("position")
    )
    return with_positions.join(F.broadcast(known), "path").drop("path")


def parse(lines: DataFrame, reason_of_usable: str | None = None) -> DataFrame:
    """Return the fields of each line, `date`, and `reason`: null if the line is used.

    A line that is not used has no fields, but its size (`bytes`) and its beginning (`content`). With
    `reason_of_usable` no line is used.
    """
    appended = F.concat(F.lit("["), "value", F.lit(f',{{"event_id":"{END}"}}]'))
    with_objects = lines.withColumn("objects", F.from_json(appended, f"ARRAY<STRUCT<{EVENT}>>", JSON))
    event = F.get("objects", F.lit(0))
    fields = {name: event[name] for name in contracts.load("events@2").columns}
    for name in ("event_id", "user_id", "item_id", "country"):
        fields[name] = F.nullif(fields[name], F.lit(""))  # empty text is null
    time = fields["time"]
    with_seconds = F.regexp_replace(time, "^(.{10}[T ].{5})", "$1:00")  # Spark parses no zone after minutes
    whole = F.when(F.substring(time, 17, 1) == ":", time).otherwise(with_seconds)
    fields["time"] = F.when(time.rlike(rf"^{records.TIME}\z"), F.try_to_timestamp(whole))
    typed = with_objects.select(
        "arrival", "position", "file", "value", "objects", *[field.alias(name) for name, field in fields.items()]
    )
    reason = F.coalesce(unusable(), F.lit(reason_of_usable))
    reasoned = typed.withColumn("reason", reason)
    bad = F.col("reason").isNotNull()
    return reasoned.select(
        "arrival",
        "position",
        "file",
        "reason",
        *[F.when(~bad, F.col(name)).alias(name) for name in fields],
        F.when(~bad, F.to_date("time")).alias("date"),
        F.when(bad, F.octet_length("value")).cast("bigint").alias("bytes"),
        F.when(bad, F.substring(F.col("value").cast("binary"), 1, records.MAX_KEPT)).alias("content"),
    )


def suppress(session: SparkSession, task: Task, forgotten: People | None, parsed: DataFrame) -> DataFrame:
    """Set the reason SUPPRESSED, which drops a line, on lines of people who were forgotten; free of cost without any.

    A user ID is looked up by its keyed hash. The key and the list are read as rows, because literals of a query appear
    in Spark's event log. Lines that are not used have no user ID, so Python searches their kept content.
    """
    if forgotten is None:
        return parsed
    key = session.read.text(suppression.key_uri(task.lake)).select(F.col("value").alias("key"))
    listed = session.read.text(suppression.users_uri(task.lake)).select(F.col("value").alias("hash"))
    named = F.udf(lambda content: bool(content and forgotten.named_in_line(bytes(content))), "BOOLEAN")
    inner = F.sha2(F.concat("key", "user_id"), 256)
    hashed = parsed.crossJoin(F.broadcast(key)).withColumn("hash", F.sha2(F.concat("key", inner), 256))
    looked_up = hashed.join(F.broadcast(listed.withColumn("listed", F.lit(True))), "hash", "left")
    dropped = F.coalesce("listed", F.lit(False)) | named("content")
    return looked_up.withColumn("reason", F.when(dropped, F.lit(SUPPRESSED)).otherwise(F.col("reason"))).select(
        *[
            F.when(F.col("reason") != SUPPRESSED, F.col(name)).alias(name) if name == "content" else name
            for name in parsed.columns
        ]
    )


def unusable() -> Column:
    """Return the first reason why a line is unusable, null if it is usable; see common/ingestion/records.py."""
    escapes = F.replace("value", F.lit("\\\\"), F.lit(""))
    end = F.get("objects", F.lit(1))["event_id"]
    one = (F.size("objects") == 2) & (end == END) & F.get("objects", F.lit(0)).isNotNull()
    latest = F.timestamp_add("DAY", F.lit(1 + records.CLOCKS_AHEAD.days), F.col("arrival").cast("timestamp"))
    reasons = {
        records.NOT_UTF8: ~F.is_valid_utf8("value"),
        records.HALF_A_PAIR: F.when(F.contains("value", F.lit("\\u")), escapes.rlike(records.HALF)),
        records.NOT_JSON: ~F.coalesce(one, F.lit(False)),
        records.missing("event ID"): F.col("event_id").isNull(),
        records.bad("event ID"): bad_text("event_id"),
        records.missing("item ID"): F.col("item_id").isNull(),
        records.bad("item ID"): bad_text("item_id"),
        records.bad("user ID"): bad_text("user_id"),
        "unknown type": ~F.coalesce(F.col("type").isin(*TYPES), F.lit(False)),
        records.BAD_TIME: ~F.coalesce(F.col("time") >= F.lit(records.FIRST_TIME), F.lit(False)),
        # One clock that is years ahead would move the end of every window without an end.
        records.AFTER_ARRIVAL: F.col("time") >= latest,
        "quantity not a positive whole number": ~F.coalesce(F.col("quantity") > 0, F.lit(False)),
        "unit price not a number from 0": ~F.coalesce(F.col("unit_price").between(0, 1e300), F.lit(False)),
        records.bad("country"): bad_text("country"),
    }
    return F.coalesce(*[F.when(condition, F.lit(reason)) for reason, condition in reasons.items()])


def bad_text(name: str) -> Column:
    """Return true for values that are too long, have control characters, or were neither text nor integer in JSON.

    Spark converts any value to text, so the few that look like a number, a boolean, an object or an array are parsed
    once more.
    """
    value = F.col(name)
    kinds = ("DOUBLE", "BOOLEAN", "MAP<STRING, STRING>", "ARRAY<STRING>")
    other = [F.from_json("value", f"{name} {kind}", JSON)[name].isNotNull() for kind in kinds]
    lookup = value.rlike(CONTROL) | other[0] | other[1] | other[2] | other[3]
    return (F.octet_length(value) > MAX_BYTES) | F.when(value.rlike(SUSPICIOUS), lookup).otherwise(False)


def summarise(parsed: DataFrame, files: dict[int, File], surveys: dict[int, Survey]) -> dict[int, Summary]:
    """Count lines by reason and events by date of each file, and find its first position, in one pass.

    Raises TaskError if Spark's number of lines differs from the survey's.
    """
    summaries: defaultdict[int, Summary] = defaultdict(Summary)
    groups = parsed.groupBy("file", "date", "reason").agg(F.count("*").alias("lines"), F.min("position").alias("first"))
    for group in groups.collect():
        summary = summaries[group.file]
        summary.first = min(group.first, summary.first) if summary.lines else group.first
        summary.lines += group.lines
        if group.reason == SUPPRESSED:
            summary.suppressed += group.lines
        elif group.reason:
            summary.unusable[group.reason] += group.lines
        else:
            summary.events[group.date] += group.lines
    for number, survey in surveys.items():
        summary = summaries[number]
        if summary.lines + len(survey.too_long) != survey.lines:
            raise TaskError(
                f"{files[number].uri} has {summary.lines} lines of up to 1 MiB, and had "
                f"{survey.lines - len(survey.too_long)} before; rerun the task when the delivery is complete."
            )
        summary.lines = survey.lines
        if survey.too_long:
            summary.unusable[records.TOO_LONG] += len(survey.too_long)
    return dict(summaries)


def quarantine_lines(lines: DataFrame, starts: DataFrame) -> DataFrame:
    """Return rows of quarantine@2 for unusable lines; `starts` has one row per file.

    Its `skipped` are the numbers of lines that Spark's reader dropped, ascending: each shifts the later ones by one.
    """
    number = F.aggregate("skipped", F.col("position") - F.col("first") + 1, lambda line, skipped: F.when(
        skipped <= line, line + 1).otherwise(line))  # fmt: skip
    readable_text = F.udf(records.escape, "STRING")
    return (
        lines.where(F.col("reason") != SUPPRESSED)
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
    task: Task,
    parsed: DataFrame,
    files: dict[int, File],
    surveys: dict[int, Survey],
    summaries: dict[int, Summary],
    bad_files: set[int],
    left_out: list[Quarantined],
    forgotten: People | None,
) -> DataFrame:
    """Return rows of quarantine@2: files that are left out, unusable lines, and all lines of bad files."""
    columns = {"file": "STRING", "line": "BIGINT", "reason": "STRING", "bytes": "BIGINT", "content": "STRING"}
    rows = deliveries.quarantine_of_files(left_out)
    for number, survey in surveys.items():
        rows += [
            deliveries.quarantine_of_line(files[number], line, records.TOO_LONG)
            for line in survey.too_long
            if not (forgotten and forgotten.named_in_line(line.content))
        ]
    result = spark.small_table(session, columns, rows)

    def starts(firsts: dict[int, int]) -> DataFrame:
        kinds = {"file": "BIGINT", "name": "STRING", "first": "BIGINT", "skipped": "ARRAY<BIGINT>"}
        return spark.small_table(
            session,
            kinds,
            [
                (number, deliveries.name_of(files[number]), first, [line.number for line in surveys[number].too_long])
                for number, first in firsts.items()
            ],
        )

    firsts = {number: summary.first for number, summary in summaries.items() if summary.unusable}
    if kept := {number: first for number, first in firsts.items() if number not in bad_files}:
        result = result.unionByName(quarantine_lines(used(parsed, bad_files), starts(kept)))
    if bad_files:
        lines = parse(read_lines(session, task, {number: files[number] for number in bad_files}), records.IN_BAD_FILE)
        lines = suppress(session, task, forgotten, lines).persist(StorageLevel.DISK_ONLY)
        begins = lines.groupBy("file").agg(F.min("position").alias("first")).collect()
        result = result.unionByName(quarantine_lines(lines, starts({row.file: row.first for row in begins})))
    return result


def used(parsed: DataFrame, bad_files: Iterable[int]) -> DataFrame:
    """Return the lines of files that are not left out."""
    numbers = list(bad_files)
    return parsed.where(~F.col("file").isin(numbers)) if numbers else parsed


def new_events(parsed: DataFrame, known: DataFrame, buckets: DataFrame, partitions: int) -> DataFrame:
    """Return new usable events, each once: the first to arrive; one shuffle, by date and bucket of event IDs.

    `known` has `date` and `event_id` of the published events for the dates of the delivery. `buckets` has the number of
    buckets per date.
    """
    arrived = parsed.where("reason IS NULL").drop("reason", "bytes", "content")
    both = arrived.unionByName(known, allowMissingColumns=True)
    spread = both.join(F.broadcast(buckets), "date").withColumn(
        "bucket", F.pmod(F.xxhash64("event_id"), F.col("buckets"))
    )
    same_event = Window.partitionBy("date", "bucket", "event_id").orderBy(
        F.asc_nulls_first("arrival"), "file", "position"
    )
    first = spread.repartition(partitions, "date", "bucket").withColumn("number", F.row_number().over(same_event))
    names = list(contracts.load("events@2").columns)
    return first.where("number = 1 AND arrival IS NOT NULL").select("date", *names)  # known events have no arrival


def known_events(session: SparkSession, published: list[Manifest | None]) -> DataFrame:
    """Return the date and ID of the events of these partitions."""
    files = [file.uri for partition in published for file in manifest.partition_files(partition)]
    if not files:
        return spark.small_table(session, {"date": "DATE", "event_id": "STRING"}, [])
    events = session.read.schema(spark.schema(contracts.load("events@2"))).parquet(*files)
    return events.select(F.to_date("time").alias("date"), "event_id")


def main(task: Task) -> None:
    max_share = task.parameters["max_quarantined_share"]
    with spark.session(task) as session:
        forgotten = suppression.load(task.lake)
        files, surveys, left_out = readable(session, task)
        parsed = suppress(session, task, forgotten, parse(read_lines(session, task, files)))
        parsed = parsed.persist(StorageLevel.DISK_ONLY)
        summaries = summarise(parsed, files, surveys)
        bad_files = {
            number
            for number, summary in summaries.items()
            if records.too_many(summary.unusable.total(), summary.lines, max_share)
        }
        reasons = sum((summary.unusable for summary in summaries.values()), Counter())
        in_bad_files = sum(summaries[number].events.total() for number in bad_files)
        if in_bad_files:
            reasons[records.IN_BAD_FILE] = in_bad_files
        events = sum((summary.events for number, summary in summaries.items() if number not in bad_files), Counter())
        unusable, suppressed = reasons.total(), sum(summary.suppressed for summary in summaries.values())
        task.metrics |= {
            "lines": sum(summary.lines for summary in summaries.values()),
            **deliveries.quarantine_metrics(reasons, len(left_out), len(bad_files)),
            "suppressed": suppressed,
        }
        task.log("parsed", **task.metrics)
        deliveries.refuse_unusable(events.total() + suppressed, task.metrics["lines"], reasons, max_share)

        quarantined = quarantine(session, task, parsed, files, surveys, summaries, bad_files, left_out, forgotten)
        quarantined = quarantined.repartition(1 + unusable // ROWS_PER_PARTITION)
        spark.write(task, "quarantine", quarantined.sortWithinPartitions("file", "line"))

        dates = sorted(events)
        published = in_parallel(lambda date: task.partition("events", f"date={date}")[1], dates)
        seen = dict(zip(dates, published, strict=True))
        rows = {date: events[date] + manifest.partition_rows(seen[date]) for date in dates}
        parts = [
            1 if number <= ROWS_PER_PARTITION else EVENNESS * number // ROWS_PER_PARTITION for number in rows.values()
        ]
        buckets = spark.small_table(session, {"date": "DATE", "buckets": "BIGINT"}, zip(rows, parts, strict=True))
        partitions = max(session.sparkContext.defaultParallelism, -(-sum(rows.values()) // ROWS_PER_PARTITION))
        fresh = new_events(used(parsed, bad_files), known_events(session, list(seen.values())), buckets, partitions)
        added = spark.append(task, "events", fresh, {str(date): manifest for date, manifest in seen.items()})
        task.metrics |= {"events": added, "duplicates": events.total() - added}


if __name__ == "__main__":
    run(main)

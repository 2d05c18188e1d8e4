"""Tracking events as they were delivered, to typed and deduplicated events by date of occurrence.

An event is known by its date of occurrence (UTC) and its ID: that is the key of the deduplication, within a delivery
and against what earlier ones brought. So only the partitions of the dates that a delivery touches are looked at, and an
ID that comes again with a time on another day is another event. The first arrival wins.
"""

import datetime
from collections import Counter
from dataclasses import dataclass, field

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from common import contracts, spark
from common.failures import InputError, Refused
from common.manifest import Manifest
from common.spark import ROWS_PER_PARTITION
from common.storage import at_once
from common.task import Task, run

EVENT = (
    "event_id STRING, user_id STRING, item_id STRING, type STRING, quantity BIGINT, unit_price DOUBLE, "
    "time TIMESTAMP, country STRING"
)
TYPES = ("purchase", "cancellation")
EVENNESS = 8  # buckets of a large date for each of its partitions, so that their hashes spread evenly


@dataclass
class Summary:
    """What the lines of all files amount to: how many, why some are unusable, events by date, first lines of files."""

    lines: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    events: Counter[datetime.date] = field(default_factory=Counter)
    first_positions: dict[int, int] = field(default_factory=dict)


def read_lines(session: SparkSession, task: Task) -> DataFrame:
    """Each line with its file, its arrival day (from the folder's name) and its position.

    A gzipped file can't be split, so its lines have consecutive positions, and a line's number is its position less
    that of the file's first line: line numbers without counting.
    """
    files = [file.uri for file in task.input("deliveries").files]
    if not files:
        raise InputError("No delivery lies in raw/events for these arrival days; load one, or name other days.")
    for file in files:
        if not file.endswith(".gz"):
            raise InputError(f"{file} is not gzipped, expected *.jsonl.gz; pack it, or move it out of the delivery.")
    base = f"{task.lake}/{task.job.inputs['deliveries'].raw}"
    return (
        session.read.option("basePath", base)
        .text(files)
        .select(
            "value",
            F.col("_metadata.file_path").alias("path"),
            F.col("arrival").cast("date"),
            F.monotonically_increasing_id().alias("position"),
        )
    )


def parse(lines: DataFrame) -> DataFrame:
    """The fields of each line, `date`, and `reason`: why it can't be used, null if it can.

    `content` and `path` are kept of unusable lines only; `file` stands for the path in all.
    """
    parsed = lines.withColumn("event", F.from_json("value", EVENT))
    names = list(contracts.load("events@1").columns)
    fields = {name: F.col(f"event.{name}") for name in names}
    fields["user_id"] = F.when(fields["user_id"] != "", fields["user_id"])  # an empty ID is none
    typed = parsed.select(
        "arrival",
        "position",
        F.xxhash64("path").alias("file"),
        unusable().alias("reason"),
        *[fields[name].alias(name) for name in names],
        F.to_date("event.time").alias("date"),
        "path",
        "value",
    )
    bad = F.col("reason").isNotNull()
    return (
        typed.withColumn("path", F.when(bad, F.col("path")))
        .withColumnRenamed("value", "content")
        .withColumn("content", F.when(bad, F.col("content")))
    )


def unusable() -> Column:
    """Why a line can't be used, null if it can: the first reason of these."""
    event = {name: F.col(f"event.{name}") for name in ("event_id", "item_id", "type", "time", "quantity", "unit_price")}
    reasons = {
        "no event in JSON": F.coalesce(*[column.cast("string") for column in event.values()]).isNull(),
        "no event ID": F.coalesce(event["event_id"], F.lit("")) == "",
        "no item ID": F.coalesce(event["item_id"], F.lit("")) == "",
        "unknown type": ~F.coalesce(event["type"].isin(*TYPES), F.lit(False)),
        "bad time": event["time"].isNull(),
        # One clock that is years ahead would move the end of every window that is open at its end.
        "time after the arrival": F.to_date(event["time"]) > F.date_add("arrival", 1),
        "quantity not a positive whole number": ~F.coalesce(event["quantity"] > 0, F.lit(False)),
        "unit price not a number from 0": ~F.coalesce(event["unit_price"].between(0, 1e300), F.lit(False)),
    }
    return F.coalesce(*[F.when(condition, F.lit(reason)) for reason, condition in reasons.items()])


def summarise(parsed: DataFrame) -> Summary:
    """Count lines by reason and events by date, and find where each file begins, in one pass."""
    summary = Summary()
    groups = parsed.groupBy("file", "date", "reason").agg(F.count("*").alias("lines"), F.min("position").alias("first"))
    for group in groups.collect():
        summary.lines += group.lines
        if group.reason:
            summary.unusable[group.reason] += group.lines
        else:
            summary.events[group.date] += group.lines
        summary.first_positions[group.file] = min(group.first, summary.first_positions.get(group.file, group.first))
    return summary


def refuse_if_too_bad(summary: Summary, most_unusable: float) -> None:
    """Refused if more than this share of the lines is unusable, with the three most frequent reasons."""
    unusable = summary.unusable.total()
    if unusable > most_unusable * summary.lines:
        reasons = ", ".join(f"{reason} ({lines})" for reason, lines in summary.unusable.most_common(3))
        raise Refused(
            f"{unusable} of {summary.lines} lines are unusable, at most {most_unusable:.1%} may be: {reasons}; nothing "
            "was published: have the deliveries mended, or raise most_unusable."
        )


def quarantined(parsed: DataFrame, first_positions: DataFrame) -> DataFrame:
    """File, line number, reason and content of each unusable line; `first_positions` has one row a file."""
    return (
        parsed.where("reason IS NOT NULL")
        .join(F.broadcast(first_positions), "file")
        .select(
            F.col("path").alias("file"),
            (F.col("position") - F.col("first") + 1).alias("line"),
            "reason",
            "content",
        )
    )


def new_events(parsed: DataFrame, known: DataFrame, buckets: DataFrame, partitions: int) -> DataFrame:
    """Usable events that are not known, each once: the first to arrive; one shuffle, by date and bucket of event IDs.

    `known` has `date` and `event_id` of what is published for the dates of the delivery. `buckets` has for each date
    in how many parts it is split.
    """
    arrived = parsed.where("reason IS NULL").drop("reason", "path", "content")
    both = arrived.unionByName(known, allowMissingColumns=True)
    spread = both.join(F.broadcast(buckets), "date").withColumn(
        "bucket", F.pmod(F.xxhash64("event_id"), F.col("buckets"))
    )
    same_event = Window.partitionBy("date", "bucket", "event_id").orderBy(
        F.asc_nulls_first("arrival"), "file", "position"
    )
    first = spread.repartition(partitions, "date", "bucket").withColumn("place", F.row_number().over(same_event))
    names = list(contracts.load("events@1").columns)
    return first.where("place = 1 AND arrival IS NOT NULL").select("date", *names)  # what is known has no arrival


def known_events(session: SparkSession, published: list[Manifest | None]) -> DataFrame:
    """Date and ID of the events that these partitions hold."""
    files = [file.uri for manifest in published for file in spark.listed(manifest)]
    if not files:
        return spark.small_table(session, {"date": "DATE", "event_id": "STRING"}, [])
    events = session.read.schema(spark.schema(contracts.load("events@1"))).parquet(*files)
    return events.select(F.to_date("time").alias("date"), "event_id")


def main(task: Task) -> None:
    with spark.session(task) as session:
        parsed = parse(read_lines(session, task)).persist(StorageLevel.DISK_ONLY)
        summary = summarise(parsed)
        unusable = summary.unusable.total()
        task.metrics |= {"lines": summary.lines, "unusable": unusable, "reasons": dict(summary.unusable.most_common())}
        task.log("parsed", **task.metrics)
        refuse_if_too_bad(summary, task.parameters["most_unusable"])

        first_positions = spark.small_table(
            session, {"file": "BIGINT", "first": "BIGINT"}, summary.first_positions.items()
        )
        quarantine = quarantined(parsed, first_positions).repartition(1 + unusable // ROWS_PER_PARTITION)
        spark.write(task, "quarantine", quarantine.sortWithinPartitions("file", "line"))

        dates = sorted(summary.events)
        found = at_once(lambda date: task.partition("events", f"date={date}")[1], dates)
        seen = dict(zip(dates, found, strict=True))
        rows = {date: summary.events[date] + spark.rows(seen[date]) for date in dates}
        parts = [
            1 if number <= ROWS_PER_PARTITION else EVENNESS * number // ROWS_PER_PARTITION for number in rows.values()
        ]
        buckets = spark.small_table(session, {"date": "DATE", "buckets": "BIGINT"}, zip(rows, parts, strict=True))
        partitions = max(session.sparkContext.defaultParallelism, -(-sum(rows.values()) // ROWS_PER_PARTITION))
        events = new_events(parsed, known_events(session, list(seen.values())), buckets, partitions)
        added = spark.append(task, "events", events, {str(date): manifest for date, manifest in seen.items()})
        task.metrics |= {"events": added, "duplicates": summary.events.total() - added}


if __name__ == "__main__":
    run(main)

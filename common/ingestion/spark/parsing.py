"""Events of deliveries on Spark: Python on the workers finds unreadable files first, then Spark reads the others.

Python reads each file to its end, as a stream. That finds corrupt files, and lines that are too long, which Spark's
reader drops silently.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from common.engines import frames
from common.engines.frames import ROWS_PER_PARTITION
from common.handover.task import Task
from common.ingestion.deliveries import Quarantined, Survey
from common.ingestion.events import Delivered, Parsed
from common.ingestion.spark import mapping, reading
from common.ingestion.spark.mapping import check_types as check
from common.ingestion.spark.mapping import expression_errors

EVENNESS = 8  # buckets per partition of a large date, so that hashes spread evenly

__all__ = ["by_python", "check", "expression_errors", "first_arrivals", "line_number", "lines_of", "parse"]


@contextmanager
def parse(
    session: SparkSession,
    task: Task,
    files: dict[int, Delivered],
    checked: Mapping[str, dict[str, DataType]],
    usable: str | None = None,
    change: Callable[[DataFrame], DataFrame] | None = None,
) -> Iterator[Parsed]:
    """Yield the events of files, changed, while they are kept; `usable` is the reason of those that could be used."""
    surveys, unreadable = readable(session, files)
    frame = None
    if surveys:
        mapped = events_of(session, {number: files[number] for number in surveys}, checked, usable)
        frame = (change(mapped) if change else mapped.drop("person")).persist(StorageLevel.DISK_ONLY)
    of_spark = {number: each if reading.by_spark(files[number]) else None for number, each in surveys.items()}
    yield Parsed(frame, of_spark, unreadable)
    if frame is not None:
        frame.unpersist()


def readable(session: SparkSession, files: dict[int, Delivered]) -> tuple[dict[int, Survey], list[Quarantined]]:
    """Return the surveys of the readable files by number, and the other files.

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
    reasons = {number: reason for number, reason in sorted(results.items()) if isinstance(reason, str)}
    return surveys, [Quarantined(files[number].file, reason) for number, reason in reasons.items()]


def events_of(
    session: SparkSession, files: dict[int, Delivered], checked: Mapping[str, dict[str, DataType]], usable: str | None
) -> DataFrame:
    """Return the events of files, of each source by its expressions, without columns of none; see `mapping.mapped`."""
    by_source: defaultdict[str, dict[int, Delivered]] = defaultdict(dict)
    for number, each in files.items():
        by_source[each.source.name][number] = each
    parts = []
    for name, own in by_source.items():
        source = next(iter(own.values())).source
        parts.append(mapping.mapped(reading.records_of(session, source, own), source, checked[name], usable))
    return functools.reduce(functools.partial(DataFrame.unionByName, allowMissingColumns=True), parts)


def lines_of(session: SparkSession, uri: str, name: str) -> DataFrame:
    """Return the lines of a small text as a frame with one column."""
    return session.read.text(uri).select(F.col("value").alias(name))


def by_python(session: SparkSession, function: Callable[[bytes], Any], column: str, kind: str) -> Column:
    """Return the results of a Python function for a column of bytes; null for null."""
    return F.udf(lambda content: None if content is None else function(bytes(content)), kind)(column)


def line_number() -> Column:
    """Return the number of a line in its file, of lines with the position of its `first` line.

    `skipped` are the numbers of lines that Spark's reader dropped, ascending: each shifts the later ones by one.
    """
    number = F.col("line_position") - F.col("first") + 1
    return F.aggregate("skipped", number, lambda line, skipped: F.when(skipped <= line, line + 1).otherwise(line))


def first_arrivals(both: DataFrame, rows: dict[Any, int], new: int) -> DataFrame:
    """Return each event of a date and a source once: the first to arrive; `rows` has about their number by date.

    One shuffle, by date and bucket of event IDs. Of a few `new` events of large dates it makes one partition per date.
    """
    parts = [1 if number <= ROWS_PER_PARTITION else EVENNESS * number // ROWS_PER_PARTITION for number in rows.values()]
    session = both.sparkSession
    buckets = frames.small_table(session, {"date": "DATE", "buckets": "BIGINT"}, zip(rows, parts, strict=True))
    partitions = max(session.sparkContext.defaultParallelism, -(-sum(rows.values()) // ROWS_PER_PARTITION))
    spread = both.join(F.broadcast(buckets), "date").withColumn(
        "bucket", F.pmod(F.xxhash64("source", "event_id"), F.col("buckets"))
    )
    same_event = Window.partitionBy("date", "bucket", "event_id", "source").orderBy(
        F.asc_nulls_first("arrival"), "file", "line_position", "entry"
    )
    ordered = spread.repartition(partitions, "date", "bucket").withColumn("number", F.row_number().over(same_event))
    first = ordered.where("number = 1").drop("number", "bucket", "buckets")
    few = max(parts, default=1) > 1 and sum(rows.values()) > EVENNESS * new
    return first.repartition("date") if few else first

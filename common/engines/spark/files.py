"""Files of frames by Spark: read Parquet by a contract, write it with counts made in the same pass."""

import contextlib
import hashlib
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, DataFrameWriter, Observation, SparkSession
from pyspark.sql import functions as F

from common.contracts import Column, Contract
from common.engines.schemas import schema
from common.engines.spark.buckets import bucket_of
from common.errors import InputError, TaskError
from common.handover import storage

BROKEN = "broken input: "  # prefix of an error that a row raises, to find it in the text of Spark's error
MISPLACED, DISTINCT = "_misplaced", "_distinct "  # counts that no column of a contract has


def scan(uris: Sequence[str], contract: Contract) -> DataFrame:
    """Return the rows of files with the columns of a contract; those that a file lacks are null."""
    return SparkSession.active().read.schema(schema(contract)).parquet(*uris)


def scan_checked(uris: Sequence[str], contract: Contract) -> DataFrame:
    """Return the rows of files; a file that breaks the contract raises an error that `input_errors` explains."""
    frame = scan(uris, contract)
    return frame.select(*[checked_column(name, column, contract) for name, column in contract.columns.items()])


def scan_dated(dataset: str, uris: Sequence[str], contract: Contract) -> DataFrame:
    """Return the rows of files of a dataset, with the `date` of their partition."""
    reader = SparkSession.active().read.schema(schema(contract)).option("basePath", dataset)
    return reader.parquet(*uris).select(*contract.columns, "date")


def small_table(spark: SparkSession, columns: dict[str, str], rows: Iterable[tuple[Any, ...]]) -> DataFrame:
    """Return a few rows as a frame, with SQL types by column; unlike createDataFrame it starts no Python on workers."""
    objects = json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str)
    fields = ", ".join(f"{name}: {kind}" for name, kind in columns.items())
    return spark.sql(f"SELECT inline(from_json(:objects, 'ARRAY<STRUCT<{fields}>>'))", {"objects": objects})


def types_of(frame: DataFrame) -> dict[str, str]:
    """Return the types of a frame's columns, in Spark's SQL."""
    return {field.name: field.dataType.simpleString() for field in frame.schema}


def checked_column(name: str, column: Column, contract: Contract) -> SparkColumn:
    """Return a column that raises an error if it is null; this costs one check of each value that is read anyway."""
    if column.nullable:
        return F.col(name)
    wrong = F.lit(f" breaks {contract.name}: column '{name}' is missing or null; rerun the task that wrote it.")
    return F.coalesce(name, F.raise_error(F.concat(F.lit(BROKEN), "_metadata.file_path", wrong))).alias(name)


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Replace Spark's error about a file that it read by InputError, in one sentence that names the file."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:  # Spark 4 raises either
        text = str(error)
        if broken := re.search(rf"{BROKEN}(\S+)(.*?wrote it\.)", text, re.DOTALL):
            raise InputError(f"{uri_of(broken[1])}{broken[2]}") from None
        if failed := re.search(r"\[FAILED_READ_FILE\S*\] Encountered error while reading file (\S+)\.\s+(.*)", text):
            uri = uri_of(failed[1])
            if uri.endswith(".gz"):
                raise InputError(f"{uri} is cut off or not gzip; redeliver it.") from None
            raise InputError(
                f"{uri} can't be read by its contract ({failed[2].split(' SQLSTATE')[0].rstrip('.')}); "
                "run the two jobs at versions that agree."
            ) from None
        raise


def uri_of(path: str) -> str:
    """Return a file's URI, as manifests have it, from Spark's, which quotes characters."""
    return re.sub("^file:/+", "file:///", urllib.parse.unquote(path))


def save(frame: DataFrame, folder: str, counts: Sequence[SparkColumn]) -> dict[str, Any]:
    """Write a frame as files of a folder; return the counts, aggregates of its rows, by name."""
    observation = Observation()
    parquet_writer(frame.observe(observation, *counts)).save(folder)
    return counted(observation)


def save_buckets(
    frame: DataFrame, keys: Sequence[str], buckets: int, folder: str, counts: Sequence[SparkColumn]
) -> dict[str, Any]:
    """Write a frame that is `in_buckets` as one file per bucket, its rows sorted by the keys; return the counts.

    Columns that begin with _ are counted, but not written.
    """
    marked = frame.withColumn(MISPLACED, ~F.spark_partition_id().eqNullSafe(bucket_of(keys[0], buckets)))
    misplaced = F.count_if(MISPLACED).alias(MISPLACED)
    observation = Observation()
    observed = marked.observe(observation, misplaced, *counts)
    kept = observed.drop(*[name for name in observed.columns if name.startswith("_")])
    parquet_writer(kept.sortWithinPartitions(*keys)).save(folder)
    found = counted(observation)
    if found[MISPLACED]:
        raise TaskError(
            f"Spark put {found[MISPLACED]} rows into the files of other buckets of {folder}, so nothing is published; "
            "check the shuffle in common/engines/spark/buckets.py, then rerun the task."
        )
    return found


def save_by_date(
    frame: DataFrame, dataset: str, version: str, counts: Sequence[SparkColumn], columns: Sequence[str], most: int
) -> tuple[dict[str, Any], list[str]]:
    """Write rows to folders of a version in the partitions of their `date`; return the counts.

    Also returns those of some columns that have more than about `most` values.
    """
    # By default Hadoop's committer shares a folder with other writers of the dataset, and deletes it at its end.
    number = str(int(hashlib.sha256(version.encode()).hexdigest()[:7], 16))
    private = {
        "mapreduce.job.application.attempt.id": number,
        "mapreduce.fileoutputcommitter.cleanup.skipped": "true",
    }
    name, _, value = version.partition("=")
    distinct = [F.approx_count_distinct(column).alias(f"{DISTINCT}{column}") for column in columns]
    observation = Observation()
    frame = frame.withColumn(name, F.lit(value)).observe(observation, *counts, *distinct)
    parquet_writer(frame).partitionBy("date", name).options(**private).save(dataset)
    shared = f"{dataset}/_temporary"
    for folder in [shared, *(f"{shared}/{job}" for job in storage.folders(shared))]:  # committers differ in the folder
        storage.delete(f"{folder}/{number}")
    found = counted(observation)
    return found, [column for column in columns if found[f"{DISTINCT}{column}"] > most]


def counted(observation: Observation) -> dict[str, Any]:
    """Return the counts of a frame that was written."""
    counts: dict[str, Any] = observation.get
    return counts


def kept(frame: DataFrame) -> DataFrame:
    """Return the frame: what is counted and written is evaluated once anyway."""
    return frame


def parquet_writer(frame: DataFrame) -> DataFrameWriter:
    """Return a writer that adds files to a folder without a success marker: the manifest decides."""
    without_marker = {"mapreduce.fileoutputcommitter.marksuccessfuljobs": "false"}
    return frame.write.format("parquet").mode("append").options(**without_marker)

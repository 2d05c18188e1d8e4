"""Reading and writing tables in Spark jobs, checked by their contracts."""

import contextlib
import datetime
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, DataFrameWriter, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DoubleType,
    FloatType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from common import contracts
from common.contracts import Column, Contract
from common.engines.spark.buckets import PLACE, bucket_of, in_buckets
from common.errors import GateRefused, InputError, TaskError
from common.handover.buckets import ROWS_PER_BUCKET, buckets_for
from common.handover.task import Task

ROWS_PER_PARTITION = ROWS_PER_BUCKET
TOTAL, MISPLACED = "_rows", "_misplaced"  # names of counts that no column of a contract has

TYPES: dict[str, DataType] = {
    "string": StringType(),
    "int64": LongType(),
    "float64": DoubleType(),
    "float32": FloatType(),
    "boolean": BooleanType(),
    "date": DateType(),
    "timestamp": TimestampType(),
    "map": MapType(StringType(), StringType()),
}
BROKEN = "broken input: "  # prefix of an error that a row raises, to find it in the text of Spark's error


def read(task: Task, role: str) -> DataFrame:
    """Return an input with the columns of its contract, from only the files that the manifests name.

    A file that is not Parquet, lacks a column, or has one of another type or with a forbidden null, ends the job with
    InputError, which names the file, once the frame is evaluated within `session`. Of a dataset whose window has a set
    end, only rows that had arrived before it are returned.
    """
    source = task.input(role)
    contract = contract_of(role, source.contract)
    frame = SparkSession.active().read.schema(schema(contract)).parquet(*[file.uri for file in source.files])
    checked = frame.select(*[checked_column(name, column, contract) for name, column in contract.columns.items()])
    return known_before(checked, source.until) if source.until and "arrival" in contract.columns else checked


def known_before(frame: DataFrame, day: datetime.date) -> DataFrame:
    """Return the rows that had arrived before a day; those of unknown arrival, too."""
    return frame.where(F.coalesce(F.col("arrival") < F.lit(day), F.lit(True)))


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
        if broken := re.search(rf"{BROKEN}(.*?wrote it\.)", text, re.DOTALL):
            raise InputError(broken[1]) from None
        if failed := re.search(r"\[FAILED_READ_FILE\S*\] Encountered error while reading file (\S+)\.\s+(.*)", text):
            if failed[1].endswith(".gz"):
                raise InputError(f"{failed[1]} is cut off or not gzip; redeliver it.") from None
            raise InputError(
                f"{failed[1]} can't be read by its contract ({failed[2].split(' SQLSTATE')[0].rstrip('.')}); "
                "run the two jobs at versions that agree."
            ) from None
        raise


def partitions_for(rows: int) -> int:
    """Return the number of shuffle partitions for some rows, at least 1."""
    return max(1, -(-rows // ROWS_PER_PARTITION))


def small_table(spark: SparkSession, columns: dict[str, str], rows: Iterable[tuple[Any, ...]]) -> DataFrame:
    """Return a few rows as a frame, with SQL types by column; unlike createDataFrame it starts no Python on workers."""
    objects = json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str)
    fields = ", ".join(f"{name}: {kind}" for name, kind in columns.items())
    return spark.sql(f"SELECT inline(from_json(:objects, 'ARRAY<STRUCT<{fields}>>'))", {"objects": objects})


def contract_of(role: str, contract: Contract | None) -> Contract:
    if contract is None:
        raise InputError(f"Input '{role}' is raw and has no contract; read its files instead.")
    return contract


def schema(contract: Contract) -> StructType:
    """Return the columns of a contract as a Spark schema."""
    return StructType(
        [StructField(name, TYPES[column.type], column.nullable) for name, column in contract.columns.items()]
    )


def write(task: Task, role: str, frame: DataFrame) -> None:
    """Write a frame as an output; check its contract and count its rows in the same pass over the data.

    Raises GateRefused if a column is missing, of another type, or has a value that the contract forbids.
    """
    contract = contract_of_output(task, role)
    observation = Observation()
    counts = [F.count(F.lit(1)).alias(TOTAL), *forbidden_counts(contract)]
    parquet_writer(select_contract(frame, contract).observe(observation, *counts)).save(task.folder(role))
    record(task, role, contract, observation.get)


def write_buckets(task: Task, role: str, frame: DataFrame, keys: list[str], rows: int) -> None:
    """Write a frame as an output in buckets of its first key: one file per bucket, its rows sorted by all keys.

    `rows` is about their number. A frame that `in_buckets` shuffled to as many buckets is not shuffled another time.
    Raises the errors of `write`.
    """
    contract, buckets = contract_of_output(task, role), buckets_for(rows)
    placed = frame if PLACE in frame.columns else in_buckets(frame, keys[0], buckets)
    selected = select_contract(placed, contract)
    marked = selected.withColumn(MISPLACED, ~F.spark_partition_id().eqNullSafe(bucket_of(keys[0], buckets)))
    observation = Observation()
    counts = [F.count(F.lit(1)).alias(TOTAL), F.count_if(MISPLACED).alias(MISPLACED), *forbidden_counts(contract)]
    observed = marked.observe(observation, *counts).drop(MISPLACED)
    parquet_writer(observed.sortWithinPartitions(*keys)).save(task.folder(role))
    found = observation.get
    if found[MISPLACED]:
        raise TaskError(
            f"Spark put {found[MISPLACED]} rows of '{role}' into the files of other buckets, so nothing is published; "
            "check the shuffle in common/engines/spark/buckets.py, then rerun the task."
        )
    record(task, role, contract, found, buckets)


def record(task: Task, role: str, contract: Contract, counts: dict[str, Any], buckets: int | None = None) -> None:
    """Record an output that was written; GateRefused or TaskError if the counts made by the write forbid it."""
    refuse_forbidden(role, contract, counts)
    task.record_output(role, counts[TOTAL], buckets)
    if counts[TOTAL] and not task.outputs[role]["files"]:
        raise lost_rows(counts[TOTAL], 0, task.folder(role))


def lost_rows(written: int, found: int, folder: str) -> TaskError:
    """Return the error of a commit that lost files: committer and file system do not report a mismatch."""
    return TaskError(
        f"Spark wrote {written} rows to {folder}, but its files contain {found}, so nothing is published; "
        "check the committer's settings in common/engines/spark, then rerun the task."
    )


def select_contract(frame: DataFrame, contract: Contract) -> DataFrame:
    """Select the columns of the contract, in its order; GateRefused if one is missing or of another type."""
    types = {field.name: field.dataType for field in frame.schema}
    for name, column in contract.columns.items():
        found = types[name].simpleString() if name in types else "missing"
        if found != TYPES[column.type].simpleString():  # by name: values of a map may be null or not
            raise GateRefused(
                f"The output breaks {contract.name}: column '{name}' is {found}, expected {column.type}; "
                "fix the job or publish a new contract version."
            )
    return frame.select(*contract.columns)


def forbidden_counts(contract: Contract) -> list[SparkColumn]:
    """Return, for each column of a contract, the number of forbidden values, under the column's name."""
    return [F.count_if(is_forbidden(name, column)).alias(name) for name, column in contract.columns.items()]


def refuse_forbidden(role: str, contract: Contract, counts: dict[str, Any]) -> None:
    """Raise GateRefused if one of the `forbidden_counts` is not 0."""
    for name, column in contract.columns.items():
        if counts[name]:
            limits = f"empty, longer than {column.max_bytes:,} bytes or have control characters"
            wrong = limits if column.type == "string" else "non-finite or out of range"
            raise GateRefused(
                f"The output '{role}' breaks {contract.name}: {counts[name]} values of column '{name}' are null, "
                f"{wrong}; fix the job or publish a new contract version."
            )


def is_forbidden(name: str, column: Column) -> SparkColumn:
    """Return a condition that holds for the values of a column that its contract forbids."""
    value = F.col(name)
    forbidden = F.lit(False) if column.nullable else value.isNull()
    if column.type == "string":
        size = F.octet_length(value)
        forbidden = forbidden | (size == 0) | (size > column.max_bytes) | value.rlike(contracts.CONTROL)
    if column.type in ("float64", "float32"):
        forbidden = forbidden | ~(F.abs(value) < math.inf)
    if column.minimum is not None:
        forbidden = forbidden | (value < column.minimum)
    if column.maximum is not None:
        forbidden = forbidden | (value > column.maximum)
    return forbidden


def parquet_writer(frame: DataFrame) -> DataFrameWriter:
    """Return a writer that adds files to a folder without a success marker: the manifest decides."""
    without_marker = {"mapreduce.fileoutputcommitter.marksuccessfuljobs": "false"}
    return frame.write.format("parquet").mode("append").options(**without_marker)


def contract_of_output(task: Task, role: str) -> Contract:
    return contracts.load(task.job.outputs[role].contract or "")

"""Tables into and out of Spark jobs, checked by their contracts."""

import contextlib
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
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from common import contracts
from common.contracts import Column, Contract
from common.errors import GateRefused, InputError, TaskError
from common.handover.task import Task

ROWS_PER_PARTITION = 500_000  # more of them, and the hash aggregate of a 1 GiB heap sorts and spills
TYPES: dict[str, DataType] = {
    "string": StringType(),
    "int64": LongType(),
    "float64": DoubleType(),
    "float32": FloatType(),
    "boolean": BooleanType(),
    "date": DateType(),
    "timestamp": TimestampType(),
}
BROKEN = "broken input: "  # begins the error that a row raises, to be found again in what Spark says of it


def read(task: Task, role: str) -> DataFrame:
    """An input with the columns of its contract, from the files that the manifests name and no others.

    A file that is no Parquet file, lacks a column, or has it in another type or null where the contract forbids it,
    ends the job with InputError, which names the file, as soon as the frame is worked on within `session`.
    """
    source = task.input(role)
    contract = contract_of(role, source.contract)
    frame = SparkSession.active().read.schema(schema(contract)).parquet(*[file.uri for file in source.files])
    return frame.select(*[checked(name, column, contract) for name, column in contract.columns.items()])


def checked(name: str, column: Column, contract: Contract) -> SparkColumn:
    """A column that can't be null without an error; it costs one look at each value that is read anyway."""
    if column.nullable:
        return F.col(name)
    wrong = F.lit(f" breaks {contract.name}: column '{name}' is missing or null; run the task that wrote it again.")
    return F.coalesce(name, F.raise_error(F.concat(F.lit(BROKEN), "_metadata.file_path", wrong))).alias(name)


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Raise InputError, in one sentence that names the file, in place of Spark's error about a file that it read."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:  # Spark 4 raises either
        text = str(error)
        if found := re.search(rf"{BROKEN}(.*?again\.)", text, re.DOTALL):
            raise InputError(found[1]) from None
        if found := re.search(r"\[FAILED_READ_FILE\S*\] Encountered error while reading file (\S+)\.\s+(.*)", text):
            if found[1].endswith(".gz"):
                raise InputError(f"{found[1]} is cut off or not gzip; deliver it again.") from None
            raise InputError(
                f"{found[1]} can't be read by its contract ({found[2].split(' SQLSTATE')[0].rstrip('.')}); "
                "run the two jobs at versions that agree."
            ) from None
        raise


def small_table(spark: SparkSession, columns: dict[str, str], rows: Iterable[tuple[Any, ...]]) -> DataFrame:
    """A few rows as a frame, types by column in SQL's words; unlike createDataFrame it starts no Python on workers."""
    objects = json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str)
    fields = ", ".join(f"{name}: {kind}" for name, kind in columns.items())
    return spark.sql(f"SELECT inline(from_json(:objects, 'ARRAY<STRUCT<{fields}>>'))", {"objects": objects})


def contract_of(role: str, contract: Contract | None) -> Contract:
    if contract is None:
        raise InputError(f"Input '{role}' is raw, it has no contract by which it could be read as a table.")
    return contract


def schema(contract: Contract) -> StructType:
    """The columns of a contract as Spark sees them."""
    return StructType(
        [StructField(name, TYPES[column.type], column.nullable) for name, column in contract.columns.items()]
    )


def write(task: Task, role: str, frame: DataFrame) -> None:
    """Write a frame as an output, and check its contract and count its rows in the same pass over the data.

    Raises GateRefused if a column is missing or of another type, or has a value that the contract forbids.
    """
    contract = contract_of_output(task, role)
    seen = Observation()
    counted = fitted(frame, contract).observe(seen, F.count(F.lit(1)).alias("rows of all"), *forbidden(contract))
    parquet_writer(counted).save(task.folder(role))
    counts = seen.get
    refuse_forbidden(role, contract, counts)
    task.record_output(role, counts["rows of all"])
    if counts["rows of all"] and not task.outputs[role]["files"]:
        raise lost(counts["rows of all"], 0, task.folder(role))


def lost(written: int, found: int, folder: str) -> TaskError:
    """The failure of a commit that left out files: a misfit of committer and file system says nothing by itself."""
    return TaskError(
        f"Spark wrote {written} rows to {folder}, but files there hold {found} of them, so nothing is published; "
        "look at the committer's settings in common/engines/spark, then run the task again."
    )


def fitted(frame: DataFrame, contract: Contract) -> DataFrame:
    """The columns of the contract, in its order; GateRefused if one is missing or of another type."""
    there = {field.name: field.dataType for field in frame.schema}
    for name, column in contract.columns.items():
        if there.get(name) != TYPES[column.type]:
            found = there[name].simpleString() if name in there else "missing"
            raise GateRefused(
                f"The output breaks {contract.name}: column '{name}' is {found}, expected {column.type}; "
                "mend the job or make a new version of the contract."
            )
    return frame.select(*contract.columns)


def forbidden(contract: Contract) -> list[SparkColumn]:
    """For each column of a contract the number of values that it forbids, under the column's name."""
    return [F.count_if(breaks(name, column)).alias(name) for name, column in contract.columns.items()]


def refuse_forbidden(role: str, contract: Contract, counts: dict[str, Any]) -> None:
    """GateRefused if one of the numbers that `forbidden` asked for is not 0."""
    for name, column in contract.columns.items():
        if counts[name]:
            limits = f"empty, longer than {column.max_bytes:,} bytes or have control characters"
            wrong = limits if column.type == "string" else "not finite or out of range"
            raise GateRefused(
                f"The output '{role}' breaks {contract.name}: {counts[name]} values of column '{name}' are null, "
                f"{wrong}; mend the job or make a new version of the contract."
            )


def breaks(name: str, column: Column) -> SparkColumn:
    """A condition for the values of a column that its contract forbids."""
    value = F.col(name)
    broken = F.lit(False) if column.nullable else value.isNull()
    if column.type == "string":
        size = F.octet_length(value)
        broken = broken | (size == 0) | (size > column.max_bytes) | value.rlike(contracts.CONTROL)
    if column.type in ("float64", "float32"):
        broken = broken | ~(F.abs(value) < math.inf)
    if column.minimum is not None:
        broken = broken | (value < column.minimum)
    if column.maximum is not None:
        broken = broken | (value > column.maximum)
    return broken


def parquet_writer(frame: DataFrame) -> DataFrameWriter:
    """A writer that adds files to a folder and leaves no marker there: the manifest says what counts."""
    without_marker = {"mapreduce.fileoutputcommitter.marksuccessfuljobs": "false"}
    return frame.write.format("parquet").mode("append").options(**without_marker)


def contract_of_output(task: Task, role: str) -> Contract:
    return contracts.load(task.job.outputs[role].contract or "")

"""Spark session, tables in and tables out, of Spark jobs."""

import contextlib
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.java_gateway import launch_gateway
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

from common import contracts, days, s3, storage
from common.contracts import Column, Contract
from common.failures import Failure, InputError, Refused
from common.heartbeat import repeatedly
from common.manifest import Manifest
from common.storage import File
from common.task import LAST_LINE_TO, Task

ROWS_PER_PARTITION = 500_000  # more of them, and the hash aggregate of a 1 GiB heap sorts and spills
MANY_FILES = 24  # of one partition, when they are small
TYPES: dict[str, DataType] = {
    "string": StringType(),
    "integer": LongType(),
    "number": DoubleType(),
    "small_number": FloatType(),
    "boolean": BooleanType(),
    "date": DateType(),
    "timestamp": TimestampType(),
}
BROKEN = "broken input: "  # begins the error that a row raises, to be found again in what Spark says of it
SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.files.openCostInBytes": str(256 * 1024),  # a lake has many small files, most of them of one day each
    "spark.sql.inMemoryColumnarStorage.compressed": "false",  # what is kept is read back once or twice, from local disk
    "spark.log.level": "ERROR",
}
LOCAL_SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",  # a Spark job to look at files costs more
}
# Hadoop starts a process, chmod, for each file of a checksum that it lays beside a file of data.
WITHOUT_CHECKSUMS = {"spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem"}
AWS_SDK = "software.amazon.awssdk"
COMMIT_PROTOCOL = "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol"


@contextlib.contextmanager
def session(task: Task) -> Iterator[SparkSession]:
    """The Spark session of a task: on the cluster that spark-submit named, else in this process and on all its cores.

    Tells the task's alive line how many Spark tasks of the running stages are done.
    """
    settings = dict(SETTINGS)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not under spark-submit
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        settings |= {"spark.master": "local[*]"} | own_settings(task)
    if (settings.get("spark.master") or submitted_to()).startswith("local"):
        settings |= LOCAL_SETTINGS
        if not storage.is_s3(task.lake):
            settings |= WITHOUT_CHECKSUMS
    former = SparkSession.getActiveSession()
    spark = SparkSession.builder.appName(task.task_id).config(map=settings).getOrCreate()
    use_s3(spark, task.lake)
    with repeatedly(progress_of(spark, task), 5), input_errors():
        yield spark
    if former is None:
        spark.stop()


def tell_launcher(sentence: str) -> None:
    """Print a line on the stderr of spark-submit, which sends what a driver in Python prints there to its stdout."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        gateway: Any = SparkContext._gateway or launch_gateway()
        gateway.jvm.java.lang.System.err.println(sentence)
        log4j = gateway.jvm.org.apache.logging.log4j  # before there is a session it would log its own end behind that
        log4j.core.config.Configurator.setRootLevel(log4j.Level.ERROR)


LAST_LINE_TO.append(tell_launcher)


def submitted_to() -> str:
    """The master that spark-submit was told, before there is a session."""
    SparkContext._ensure_initialized()
    return SparkConf().get("spark.master", "") or ""


def own_settings(task: Task) -> dict[str, str]:
    """What `[spark]` of `job.toml` asks for, as far as it applies to a single process."""
    wanted: dict[str, str] = dict(task.job.spark.get("conf", {}))
    if memory := task.job.spark.get("driver_memory"):
        wanted["spark.driver.memory"] = memory
    return wanted


def use_s3(spark: SparkSession, lake: str) -> None:
    """Reach a lake on S3 where the environment names its server; Amazon's own clusters know their way.

    Files are uploaded to where they belong and appear when the job commits, which needs two classes that plain Spark
    lacks. Pending uploads below the folder may be another task's, so a commit leaves them alone.
    """
    endpoint = s3.endpoint()
    if not (storage.is_s3(lake) and endpoint):
        return
    java: Any = spark._jvm
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    settings = {
        "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "fs.s3a.endpoint": endpoint,
        "fs.s3a.endpoint.region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        "fs.s3a.path.style.access": "true",
        "fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https:")).lower(),
        "fs.s3a.aws.credentials.provider": f"{AWS_SDK}.auth.credentials.EnvironmentVariableCredentialsProvider",
        "fs.s3a.committer.name": "magic",
        "fs.s3a.committer.abort.pending.uploads": "false",
        # Each attempt has a folder of its own, so nothing has to be looked up before a file or a folder is made.
        "fs.s3a.performance.flags": "create,mkdir",
        "mapreduce.outputcommitter.factory.scheme.s3": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory",
        "mapreduce.outputcommitter.factory.scheme.s3a": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory",
    }
    if key := s3.key_of_encryption():
        settings |= {"fs.s3a.encryption.algorithm": "SSE-KMS", "fs.s3a.encryption.key": key}
    for name, value in settings.items():
        hadoop.set(name, value)
    with contextlib.suppress(Exception):  # without them Spark renames what it wrote, which is slower and right as well
        java.java.lang.Class.forName(COMMIT_PROTOCOL)
        spark.conf.set("spark.sql.sources.commitProtocolClass", COMMIT_PROTOCOL)
        spark.conf.set(
            "spark.sql.parquet.output.committer.class",
            "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter",
        )


def progress_of(spark: SparkSession, task: Task) -> Callable[[], None]:
    """A function that tells the task how far Spark's running stages are."""
    tracker = spark.sparkContext.statusTracker()

    def look() -> None:
        with contextlib.suppress(Exception):  # a line about progress must not end the work
            stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            if running := [stage for stage in stages if stage]:
                name = running[0].name.split(" at ")[0]
                done, total = (
                    sum(getattr(stage, field) for stage in running) for field in ("numCompletedTasks", "numTasks")
                )
                task.progress(f"Spark tasks of '{name}'", done, total)

    return look


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

    Raises Refused if a column is missing or of another type, or has a value that the contract forbids.
    """
    contract = contract_of_output(task, role)
    seen = Observation()
    counted = fitted(frame, contract).observe(seen, F.count(F.lit(1)).alias("rows of all"), *forbidden(contract))
    parquet_writer(counted).save(task.folder(role))
    counts = seen.get
    refuse_forbidden(role, contract, counts)
    task.written(role, counts["rows of all"])
    if counts["rows of all"] and not task.outputs[role]["files"]:
        raise lost(counts["rows of all"], 0, task.folder(role))


def lost(written: int, found: int, folder: str) -> Failure:
    """The failure of a commit that left out files: a misfit of committer and file system says nothing by itself."""
    return Failure(
        f"Spark wrote {written} rows to {folder}, but files there hold {found} of them, so nothing is published; "
        "look at the committer's settings in common/spark.py, then run the task again."
    )


def fitted(frame: DataFrame, contract: Contract) -> DataFrame:
    """The columns of the contract, in its order; Refused if one is missing or of another type."""
    there = {field.name: field.dataType for field in frame.schema}
    for name, column in contract.columns.items():
        if there.get(name) != TYPES[column.type]:
            found = there[name].simpleString() if name in there else "missing"
            raise Refused(
                f"The output breaks {contract.name}: column '{name}' is {found}, expected {column.type}; "
                "mend the job or make a new version of the contract."
            )
    return frame.select(*contract.columns)


def forbidden(contract: Contract) -> list[SparkColumn]:
    """For each column of a contract the number of values that it forbids, under the column's name."""
    return [F.count_if(breaks(name, column)).alias(name) for name, column in contract.columns.items()]


def refuse_forbidden(role: str, contract: Contract, counts: dict[str, Any]) -> None:
    """Refused if one of the numbers that `forbidden` asked for is not 0."""
    for name, column in contract.columns.items():
        if counts[name]:
            limits = f"empty, longer than {column.max_bytes:,} bytes or have control characters"
            wrong = limits if column.type == "string" else "not finite or out of range"
            raise Refused(
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
    if column.type in ("number", "small_number"):
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


def append(task: Task, role: str, frame: DataFrame, partitions: dict[str, Manifest | None]) -> int:
    """Add rows to partitions of a dataset: those of the contract, and a column `date` that says to which partition.

    `partitions` has, for each date that may get rows, what was published of it when the task read it. Files go
    straight to their partitions, into a folder of this process, and count once the partition's manifest names them
    beside the former ones. A partition that got no rows stays as it is, unless it lies in many small files: then what
    it held is written again beside the new rows, and only that counts. Returns how many rows were added.
    Raises Fenced or Failure if a partition changed meanwhile, Failure if the files do not hold all the rows, Refused
    for a value that the contract forbids.
    """
    dataset = f"{task.lake}/{task.job.outputs[role].dataset}"
    folders = {f"{dataset}/date={date}": seen for date, seen in partitions.items()}
    former = {folder: listed(seen) for folder, seen in folders.items()}
    own = {folder: f"{folder}/{task.version}" for folder in folders}
    name, _, version = task.version.partition("=")
    # By default Hadoop's committer shares a folder with other writers of the dataset, and deletes it at its end.
    number = str(int(hashlib.sha256(task.version.encode()).hexdigest()[:7], 16))
    private = {
        "mapreduce.job.application.attempt.id": number,
        "mapreduce.fileoutputcommitter.cleanup.skipped": "true",
    }
    contract = contract_of_output(task, role)
    added = Observation()
    frame = frame.observe(added, *forbidden(contract))
    gathered = {folder: former[folder] for folder, seen in folders.items() if scattered(seen)}
    if gathered:
        frame = frame.unionByName(rows_with_date(dataset, gathered.values(), contract).repartition("date"))
    observation = Observation()
    placed = frame.withColumn(name, F.lit(version)).observe(observation, F.count(F.lit(1)).alias("rows"))
    parquet_writer(placed).partitionBy("date", name).options(**private).save(dataset)
    storage.delete(f"{dataset}/_temporary/{number}")
    found = storage.files_of(list(own.values()))
    new = {folder: found[own[folder]] for folder in folders}
    written = rows_by_date(dataset, [file for files in new.values() for file in files], contract)
    refuse_forbidden(role, contract, added.get)
    sent, total = observation.get["rows"], sum(written.values())
    if sent != total:
        raise lost(sent, total, dataset)
    filled = {folder: files for folder, files in new.items() if files}
    # Those that have rows from before, too: then a lost document is whole again when its days are delivered once more.
    days.note(dataset, {day_of(folder) for folder, seen in folders.items() if seen or folder in filled})
    for folder, files in filled.items():
        seen, count = folders[folder], written[day_of(folder)]
        if folder in gathered:
            task.publish_partition(role, folder, seen, count, files)
        else:
            task.publish_partition(role, folder, seen, rows(seen) + count, former[folder] + files)
    return total - sum(rows(folders[folder]) for folder in gathered)


def day_of(folder: str) -> str:
    """The day of a partition's folder."""
    return folder.rpartition("=")[2]


def scattered(partition: Manifest | None) -> bool:
    """Whether a partition lies in so many small files that to open them costs more than to write them once again."""
    files = len(listed(partition))
    return files >= MANY_FILES and rows(partition) < files * ROWS_PER_PARTITION // MANY_FILES


def rows_with_date(dataset: str, files: Iterable[list[File]], contract: Contract) -> DataFrame:
    """The rows of files of a dataset, with the date of their partition."""
    reader = SparkSession.active().read.schema(schema(contract)).option("basePath", dataset)
    return reader.parquet(*[file.uri for of_folder in files for file in of_folder]).select(*contract.columns, "date")


def rows_by_date(dataset: str, files: list[File], contract: Contract) -> dict[str, int]:
    """How many rows the files of each date hold; Spark answers it from the files' footers, no column is read."""
    if not files:
        return {}
    counted = rows_with_date(dataset, [files], contract).groupBy(F.col("date").cast("string")).count()
    return {row[0]: row[1] for row in counted.collect()}


def contract_of_output(task: Task, role: str) -> Contract:
    return contracts.load(task.job.outputs[role].contract or "")


def listed(partition: Manifest | None) -> list[File]:
    """The files that the manifest of a dataset's partition names."""
    if partition is None:
        return []
    folder = partition.uri.rpartition("/")[0]
    (output,) = partition.document["outputs"].values()
    return [File(f"{folder}/{file['path']}", file["bytes"]) for file in output["files"]]


def rows(partition: Manifest | None) -> int:
    """How many rows the manifest of a dataset's partition counts."""
    return sum(output["rows"] for output in partition.document["outputs"].values()) if partition else 0

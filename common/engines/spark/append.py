"""Append rows to the partitions of a dataset, and compact those in many small files."""

import hashlib
from collections.abc import Iterable

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from common.contracts import Contract
from common.engines.spark.io import (
    ROWS_PER_PARTITION,
    contract_of_output,
    forbidden,
    lost,
    parquet_writer,
    refuse_forbidden,
    schema,
)
from common.handover import storage
from common.handover.manifest import Manifest, partition_files, partition_rows
from common.handover.partitions import register
from common.handover.storage import File
from common.handover.task import Task

MANY_FILES = 24  # of one partition, when they are small


def append(task: Task, role: str, frame: DataFrame, partitions: dict[str, Manifest | None]) -> int:
    """Add rows to partitions of a dataset: those of the contract, and a column `date` that says to which partition.

    `partitions` has, for each date that may get rows, what was published of it when the task read it. Files go
    straight to their partitions, into a folder of this process, and count once the partition's manifest names them
    beside the former ones. A partition that got no rows stays as it is, unless it lies in many small files: then what
    it held is written again beside the new rows, and only that counts. Returns how many rows were added.
    Raises StaleAttempt or TaskError if a partition changed concurrently, TaskError if the files do not hold all rows,
    GateRefused for a value that the contract forbids.
    """
    dataset = f"{task.lake}/{task.job.outputs[role].dataset}"
    folders = {f"{dataset}/date={date}": seen for date, seen in partitions.items()}
    former = {folder: partition_files(seen) for folder, seen in folders.items()}
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
    register(dataset, {day_of(folder) for folder, seen in folders.items() if seen or folder in filled})
    for folder, files in filled.items():
        seen, count = folders[folder], written[day_of(folder)]
        if folder in gathered:
            task.publish_partition(role, folder, seen, count, files)
        else:
            task.publish_partition(role, folder, seen, partition_rows(seen) + count, former[folder] + files)
    return total - sum(partition_rows(folders[folder]) for folder in gathered)


def day_of(folder: str) -> str:
    """The day of a partition's folder."""
    return folder.rpartition("=")[2]


def scattered(partition: Manifest | None) -> bool:
    """Whether a partition lies in so many small files that to open them costs more than to write them once again."""
    files = len(partition_files(partition))
    return files >= MANY_FILES and partition_rows(partition) < files * ROWS_PER_PARTITION // MANY_FILES


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

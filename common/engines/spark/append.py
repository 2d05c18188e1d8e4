"""Append rows to the partitions of a dataset, and compact partitions with many small files."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from common.contracts import Contract
from common.engines.spark.io import (
    contract_of_output,
    forbidden_counts,
    lost_rows,
    parquet_writer,
    refuse_forbidden,
    schema,
)
from common.handover import storage
from common.handover.manifest import Manifest, partition_files, partition_rows, rows_by_arrival
from common.handover.partitions import register
from common.handover.storage import File
from common.handover.task import Task

MANY_FILES = 8  # of about the same size in a partition, which are worth a compaction
MAX_SMALL = 32 << 20  # bytes; larger files are never rewritten


def append(task: Task, role: str, frame: DataFrame, partitions: dict[str, Manifest | None]) -> int:
    """Add rows to partitions of a dataset: the columns of the contract, and `date`, which names the partition.

    `partitions` has, for each date that may get rows, the manifest that the task read. Files are written directly to
    their partitions, into a folder of this process, and count once the partition's manifest names them in addition to
    the former ones. A partition that got no rows is left unchanged. Many small files of a partition are compacted: they
    are rewritten as one, together with the new rows.
    Returns the number of added rows. Raises StaleAttempt or TaskError if a partition changed concurrently, TaskError if
    the files do not contain all rows, GateRefused for a value that the contract forbids.
    """
    dataset = f"{task.lake}/{task.job.outputs[role].dataset}"
    contract = contract_of_output(task, role)
    seen = {f"{dataset}/date={date}": partition for date, partition in partitions.items()}
    compacted = {folder: small for folder, each in seen.items() if (small := files_to_compact(partition_files(each)))}
    counts = Observation()
    frame = frame.observe(counts, *forbidden_counts(contract))
    if compacted:
        frame = frame.unionByName(rows_with_date(dataset, compacted.values(), contract).repartition("date"))
    written = write_by_date(task, dataset, frame)
    files = new_files(task, seen)
    rows = rows_by_date(dataset, files.values(), contract)
    refuse_forbidden(role, contract, counts.get)
    if written != total_of(rows):
        raise lost_rows(written, total_of(rows), dataset)
    # Days with former rows, too: redelivering the days of a lost index restores it.
    register(dataset, {day_of(folder) for folder in seen if seen[folder] or folder in files})
    rewritten = rows_by_date(dataset, compacted.values(), contract)
    for folder, added in files.items():
        kept = [file for file in partition_files(seen[folder]) if file not in compacted.get(folder, ())]
        arrivals = former_arrivals(seen[folder]) - rewritten[day_of(folder)] + rows[day_of(folder)]
        dated = {arrival: count for arrival, count in arrivals.items() if arrival}
        task.publish_partition(role, folder, seen[folder], arrivals.total(), kept + added, dated)
    return written - total_of(rewritten)


def files_to_compact(files: list[File]) -> list[File]:
    """Return the files of a partition that are worth rewriting as one: many of about the same size, and smaller ones.

    So a row is rewritten once for each size that its file grows through, and a partition keeps few files.
    """
    small = [file for file in files if file.bytes < MAX_SMALL]
    sizes = Counter(map(magnitude, small))
    full = [size for size, number in sizes.items() if number >= MANY_FILES]
    return [file for file in small if magnitude(file) <= max(full)] if full else []


def magnitude(file: File) -> int:
    """Return the order of magnitude of a file, by factors of 8: 0 up to 256 KiB."""
    return (file.bytes >> 16).bit_length() // 3


def write_by_date(task: Task, dataset: str, frame: DataFrame) -> int:
    """Write rows to this process's folders in the partitions of their `date`; return the number of rows."""
    # By default Hadoop's committer shares a folder with other writers of the dataset, and deletes it at its end.
    number = str(int(hashlib.sha256(task.version.encode()).hexdigest()[:7], 16))
    private = {
        "mapreduce.job.application.attempt.id": number,
        "mapreduce.fileoutputcommitter.cleanup.skipped": "true",
    }
    name, _, version = task.version.partition("=")
    total = Observation()
    frame = frame.withColumn(name, F.lit(version)).observe(total, F.count(F.lit(1)).alias("rows"))
    parquet_writer(frame).partitionBy("date", name).options(**private).save(dataset)
    storage.delete(f"{dataset}/_temporary/{number}")
    return int(total.get["rows"])


def new_files(task: Task, folders: Iterable[str]) -> dict[str, list[File]]:
    """Return the files that this process has written, by folder of a partition that got some."""
    listed = storage.files_of([f"{folder}/{task.version}" for folder in folders])
    return {folder.rpartition("/")[0]: files for folder, files in listed.items() if files}


def day_of(folder: str) -> str:
    """Return the day of a partition's folder."""
    return folder.rpartition("=")[2]


def rows_with_date(dataset: str, files: Iterable[list[File]], contract: Contract) -> DataFrame:
    """Return the rows of files of a dataset, with the date of their partition."""
    reader = SparkSession.active().read.schema(schema(contract)).option("basePath", dataset)
    return reader.parquet(*[file.uri for each in files for file in each]).select(*contract.columns, "date")


def rows_by_date(dataset: str, files: Collection[list[File]], contract: Contract) -> defaultdict[str, Counter[str]]:
    """Return the number of rows in the files of each date, by day of arrival; '' where that is not known."""
    rows: defaultdict[str, Counter[str]] = defaultdict(Counter)
    if not files:
        return rows
    arrival = F.col("arrival") if "arrival" in contract.columns else F.lit(None)
    by_day = [F.col("date").cast("string"), F.coalesce(arrival.cast("string"), F.lit(""))]
    for date, day, count in rows_with_date(dataset, files, contract).groupBy(*by_day).count().collect():
        rows[date][day] = count
    return rows


def total_of(rows: dict[str, Counter[str]]) -> int:
    """Return the number of rows of all dates and days of arrival."""
    return sum(arrivals.total() for arrivals in rows.values())


def former_arrivals(partition: Manifest | None) -> Counter[str]:
    """Return the number of rows of a partition by day of arrival; '' where that is not known."""
    arrivals = rows_by_arrival(partition)
    return arrivals + Counter({"": partition_rows(partition) - arrivals.total()})

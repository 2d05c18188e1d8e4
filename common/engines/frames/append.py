"""Append rows to the partitions of a dataset, and compact partitions with many small files."""

import datetime
import functools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from common.contracts import Contract
from common.engines import volume
from common.engines.frames import engine
from common.engines.frames.checks import report_checks
from common.engines.frames.io import TOTAL, contract_of_output, forbidden_counts, lost_rows, refuse_forbidden
from common.engines.volume import report_volume
from common.handover import storage
from common.handover.manifest import Manifest, partition_files, partition_rows, rows_by_arrival
from common.handover.partitions import register
from common.handover.storage import File
from common.handover.task import Task

ARRIVAL = "arrival"
Counts = dict[str, Counter[str]]  # by column and value; by arrival always
MANY_FILES = 8  # of about the same size in a partition, which are worth a compaction
MAX_SMALL = 32 << 20  # bytes; larger files are never rewritten


def append(task: Task, role: str, frame: DataFrame, partitions: dict[str, Manifest | None]) -> int:
    """Add rows to partitions of a dataset: the columns of the contract, and `date`, which names the partition.

    `partitions` has, for each date that may get rows, the manifest that the task read. Files are written directly to
    their partitions, into a folder of this process, and count once the partition's manifest names them in addition to
    the former ones. A partition that got no rows is left unchanged. Many small files of a partition are compacted: they
    are rewritten as one, together with the new rows.
    Returns the number of added rows. Raises StaleAttempt or TaskError if a partition changed concurrently, TaskError if
    the files do not contain all rows, GateRefused for a value that the contract forbids, or a check that refuses. A key
    is unique in a day, whose key columns this reads.
    """
    dataset = f"{task.lake}/{task.job.outputs[role].dataset}"
    contract = contract_of_output(task, role)
    seen = {f"{dataset}/date={date}": partition for date, partition in partitions.items()}
    compacted = {folder: small for folder, each in seen.items() if (small := files_to_compact(partition_files(each)))}
    counts, former = [F.count(F.lit(1)).alias(TOTAL)], Observation()
    if compacted:  # their rows were checked before
        frame = frame.observe(former, *forbidden_counts(contract))
        known = engine.files.kept(rows_with_date(dataset, compacted.values(), contract))
        frame = frame.unionByName(known.repartition("date"))
    else:
        counts += forbidden_counts(contract)
    found, columns = write_by_date(task, dataset, frame, contract, counts)
    written: int = found[TOTAL]
    values = former.get if compacted else found
    added = new_files(task, seen)
    rows = counts_by_date(dataset, added.values(), columns, contract)
    refuse_forbidden(role, contract, values)
    if written != total_of(rows):
        raise lost_rows(written, total_of(rows), dataset)
    files = {
        folder: [file for file in partition_files(seen[folder]) if file not in compacted.get(folder, ())] + new
        for folder, new in added.items()
    }
    every = functools.partial(rows_with_date, dataset, files.values(), contract)
    report_checks(task, role, contract, values, every if files else None, ["date"])
    rewritten = counts_by_date(dataset, compacted.values(), columns, contract)
    of_days = {
        folder: changed_counts(seen[folder], columns, rewritten[day_of(folder)], rows[day_of(folder)])
        for folder in files
    }
    if newest := max((arrival for day in rows.values() for arrival in day[ARRIVAL]), default=""):
        days = {day_of(folder): volume.Day(each[ARRIVAL].total(), each) for folder, each in of_days.items()}
        report_volume(task, contract, dataset, partitions, days, datetime.date.fromisoformat(newest))
    # Days with former rows, too: redelivering the days of a lost index restores it.
    register(dataset, {day_of(folder) for folder in seen if seen[folder] or folder in files})
    for folder, each in of_days.items():
        task.publish_partition(role, folder, seen[folder], each[ARRIVAL].total(), files[folder], statistics_of(each))
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


def write_by_date(
    task: Task, dataset: str, frame: DataFrame, contract: Contract, counts: Sequence[Column]
) -> tuple[dict[str, Any], list[str]]:
    """Write rows to this process's folders in the partitions of their `date`; return the counts of them.

    Also returns the columns by which the contract expects volume, without those of too many values to be counted.
    """
    columns = sorted({column for check in contract.checks for column in check.by})
    found, many = engine.files.save_by_date(frame, dataset, task.version, counts, columns, volume.MAX_VALUES)
    for column in many:
        task.warn(
            f"'{column}' of {dataset.removeprefix(f'{task.lake}/')} has more than {volume.MAX_VALUES} values, so "
            f"{contract.name} can't compare their numbers; correct the deliveries, or take the column out of the check."
        )
    return found, [column for column in columns if column not in many]


def new_files(task: Task, folders: Iterable[str]) -> dict[str, list[File]]:
    """Return the files that this process has written, by folder of a partition that got some."""
    listed = storage.files_of([f"{folder}/{task.version}" for folder in folders])
    return {folder.rpartition("/")[0]: files for folder, files in listed.items() if files}


def day_of(folder: str) -> str:
    """Return the day of a partition's folder."""
    return folder.rpartition("=")[2]


def rows_with_date(dataset: str, files: Iterable[list[File]], contract: Contract) -> DataFrame:
    """Return the rows of files of a dataset, with the date of their partition."""
    return engine.files.scan_dated(dataset, [file.uri for each in files for file in each], contract)


def counts_by_date(
    dataset: str, files: Collection[list[File]], columns: list[str], contract: Contract
) -> defaultdict[str, Counts]:
    """Return the number of rows in the files of each date, by day of arrival and by value of columns; '' is null."""
    counts: defaultdict[str, Counts] = defaultdict(lambda: defaultdict(Counter))
    if not files:
        return counts
    names = [ARRIVAL, *columns]
    values = [
        F.coalesce(F.col(name).cast("string"), F.lit("")).alias(name)
        if name in contract.columns
        else F.lit("").alias(name)
        for name in names
    ]
    rows = rows_with_date(dataset, files, contract).select(F.col("date").cast("string"), *values)
    grouped = rows.groupingSets([["date", name] for name in names], "date", *names).count()
    for date, *of_columns, count in grouped.collect():
        name, value = next((name, value) for name, value in zip(names, of_columns, strict=True) if value is not None)
        counts[date][name][value] = count
    return counts


def total_of(counts: dict[str, Counts]) -> int:
    """Return the number of rows of all dates and days of arrival."""
    return sum(each[ARRIVAL].total() for each in counts.values())


def changed_counts(partition: Manifest | None, columns: list[str], rewritten: Counts, rows: Counts) -> Counts:
    """Return the counts of a day without its rewritten rows and with other rows.

    A column is left out if its former values were not counted, or if there are too many.
    """
    former = volume.day_of(partition).counts
    known = {column: Counter(former.get(column, {})) for column in columns if column in former or not partition}
    arrivals = rows_by_arrival(partition)
    known[ARRIVAL] = arrivals + Counter({"": partition_rows(partition) - arrivals.total()})
    changed = {column: counts - rewritten[column] + rows[column] for column, counts in known.items()}
    return {
        column: counts for column, counts in changed.items() if column == ARRIVAL or len(counts) <= volume.MAX_VALUES
    }


def statistics_of(counts: Counts) -> dict[str, Any]:
    """Return the counts of a day as its manifest has them."""
    arrivals = {arrival: count for arrival, count in counts[ARRIVAL].items() if arrival}
    by_value = {column: dict(each) for column, each in counts.items() if column != ARRIVAL}
    return {key: each for key, each in (("arrivals", arrivals), ("counts", by_value)) if each}

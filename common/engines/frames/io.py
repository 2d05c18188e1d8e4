"""Reading and writing tables in Spark jobs, checked by their contracts."""

import datetime
import functools
from collections.abc import Iterable
from typing import Any

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from common import contracts
from common.contracts import Contract
from common.engines.frames import engine
from common.engines.frames.checks import mark_repeated, repeated_counts, report_checks, value_counts
from common.engines.schemas import PLACE, TYPES, is_forbidden
from common.errors import GateRefused, InputError, TaskError
from common.handover.buckets import ROWS_PER_BUCKET, buckets_for
from common.handover.task import Task

ROWS_PER_PARTITION = ROWS_PER_BUCKET
TOTAL = "_rows"  # a count that no column of a contract has


def read(task: Task, role: str) -> DataFrame:
    """Return an input with the columns of its contract, from only the files that the manifests name.

    A file that is not Parquet, lacks a column, or has one of another type or with a forbidden null, ends the job with
    InputError, which names the file, at the latest once the frame is evaluated within `session`. Of a dataset whose
    window has a set end, only rows that had arrived before it are returned.
    """
    source = task.input(role)
    contract = contract_of(role, source.contract)
    frame = engine.files.scan_checked([file.uri for file in source.files], contract)
    return known_before(frame, source.until) if source.until and "arrival" in contract.columns else frame


def known_before(frame: DataFrame, day: datetime.date) -> DataFrame:
    """Return the rows that had arrived before a day; those of unknown arrival, too."""
    return frame.where(F.coalesce(F.col("arrival") < F.lit(day), F.lit(True)))


def partitions_for(rows: int) -> int:
    """Return the number of shuffle partitions for some rows, at least 1."""
    return max(1, -(-rows // ROWS_PER_PARTITION))


def contract_of(role: str, contract: Contract | None) -> Contract:
    if contract is None:
        raise InputError(f"Input '{role}' is raw and has no contract; read its files instead.")
    return contract


def write(task: Task, role: str, frame: DataFrame) -> None:
    """Write a frame as an output; check its contract and count its rows in the same pass over the data.

    Raises GateRefused if a column is missing, of another type, or has a value that the contract forbids, or if a check
    of the contract that refuses is broken. A unique key reads its columns back, and shuffles them.
    """
    contract = contract_of_output(task, role)
    counts = [F.count(F.lit(1)).alias(TOTAL), *forbidden_counts(contract)]
    record(task, role, contract, engine.files.save(select_contract(frame, contract), task.folder(role), counts))


def write_buckets(task: Task, role: str, frame: DataFrame, keys: list[str], rows: int) -> None:
    """Write a frame as an output in buckets of its first key: one file per bucket, its rows sorted by all keys.

    `rows` is about their number. A frame that is `in_buckets` already is not shuffled another time.
    Raises the errors of `write`. A unique key with the buckets' key is checked while its rows are sorted anyway.
    """
    contract, buckets = contract_of_output(task, role), buckets_for(rows)
    placed = frame if PLACE in frame.columns else engine.buckets.in_buckets(engine.files.kept(frame), keys[0], buckets)
    marked = mark_repeated(select_contract(placed, contract, [PLACE]), contract, keys)
    counts = [F.count(F.lit(1)).alias(TOTAL), *forbidden_counts(contract), *repeated_counts(marked)]
    record(task, role, contract, engine.files.save_buckets(marked, keys, buckets, task.folder(role), counts), buckets)


def record(task: Task, role: str, contract: Contract, counts: dict[str, Any], buckets: int | None = None) -> None:
    """Record an output that was written; GateRefused or TaskError if the counts made by the write forbid it."""
    refuse_forbidden(role, contract, counts)
    task.record_output(role, counts[TOTAL], buckets)
    if counts[TOTAL] and not task.outputs[role]["files"]:
        raise lost_rows(counts[TOTAL], 0, task.folder(role))
    report_checks(task, role, contract, counts, functools.partial(read_back, task, role) if counts[TOTAL] else None)


def read_back(task: Task, role: str) -> DataFrame:
    """Return the rows of an output that was written, at least one."""
    files = [f"{task.key}/{file['path']}" for file in task.outputs[role]["files"]]
    return engine.files.scan(files, contract_of_output(task, role))


def lost_rows(written: int, found: int, folder: str) -> TaskError:
    """Return the error of a commit that lost files: committer and file system do not report a mismatch."""
    return TaskError(
        f"The job wrote {written} rows to {folder}, but its files contain {found}, so nothing is published; "
        "check the committer's settings in common/engines/spark, then rerun the task."
    )


def select_contract(frame: DataFrame, contract: Contract, more: Iterable[str] = ()) -> DataFrame:
    """Select the columns of the contract, in its order, and more; GateRefused if one is missing or of another type."""
    types = engine.files.types_of(frame)
    for name, column in contract.columns.items():
        found = types.get(name, "missing")
        if found != TYPES[column.type].simpleString():  # by name: values of a map may be null or not
            raise GateRefused(
                f"The output breaks {contract.name}: column '{name}' is {found}, expected {column.type}; "
                "fix the job or publish a new contract version."
            )
    return frame.select(*contract.columns, *more)


def forbidden_counts(contract: Contract) -> list[SparkColumn]:
    """Return, for each column of a contract, the number of forbidden values, under its name; and `value_counts`."""
    of_columns = [F.count_if(is_forbidden(name, column)).alias(name) for name, column in contract.columns.items()]
    return of_columns + value_counts(contract)


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


def contract_of_output(task: Task, role: str) -> Contract:
    return contracts.load(task.job.outputs[role].contract or "")

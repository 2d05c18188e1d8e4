"""Checks of a contract on the rows that a Spark job writes: allowed values and unique keys."""

from collections.abc import Callable, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from common.contracts import Contract
from common.engines import breaches
from common.engines.schemas import PLACE
from common.handover.task import Task

WRONG, EXAMPLE, REPEATED = "_wrong", "_example", "_repeated"  # counts and columns, each with the position of its check


def value_counts(contract: Contract) -> list[Column]:
    """Return, for each check of allowed values, the number of others and the least of them."""
    counts = []
    for position, check in enumerate(contract.checks):
        if check.column:
            wrong = ~F.col(check.column).isin(*check.allowed)
            counts.append(F.count_if(wrong).alias(f"{WRONG}{position}"))
            counts.append(F.min(F.when(wrong, F.col(check.column))).alias(f"{EXAMPLE}{position}"))
    return counts


def mark_repeated(frame: DataFrame, contract: Contract, keys: Sequence[str]) -> DataFrame:
    """Add a column for each unique key with the buckets' key: true for rows with the same values as a row before.

    The frame is `in_buckets` of the first of `keys`, so this needs no shuffle, and leaves its rows sorted by the keys.
    """
    for position, check in enumerate(contract.checks):
        if keys[0] in check.unique:
            ordered = sorted(check.unique, key=lambda name: keys.index(name) if name in keys else len(keys))
            same = Window.partitionBy(*ordered, PLACE).orderBy(F.lit(1))
            frame = frame.withColumn(f"{REPEATED}{position}", F.row_number().over(same) > 1)
    return frame


def repeated_counts(frame: DataFrame) -> list[Column]:
    """Return the numbers of the rows that `mark_repeated` marked, under the names of their columns."""
    return [F.count_if(name).alias(name) for name in frame.columns if name.startswith(REPEATED)]


def report_checks(
    task: Task,
    role: str,
    contract: Contract,
    counts: dict[str, Any],
    written: Callable[[], DataFrame] | None,
    within: Sequence[str] = (),
) -> None:
    """Report each check that is broken by the counts of the write; GateRefused if one refuses.

    Unique keys that the write did not count are counted in the rows that were `written`, if any, `within` columns.
    """
    for position, check in enumerate(contract.checks):
        if wrong := counts.get(f"{WRONG}{position}"):
            breaches.report_values(task, role, contract, check, wrong, counts[f"{EXAMPLE}{position}"])
        if check.unique and written:
            known = counts.get(f"{REPEATED}{position}")
            if repeated := number_repeated(written(), [*within, *check.unique]) if known is None else known:
                breaches.report_repeated(task, role, contract, check, repeated)


def number_repeated(frame: DataFrame, keys: Sequence[str]) -> int:
    """Return the number of rows with the same keys as another row before them; it shuffles these columns."""
    several = frame.groupBy(*keys).count().where("count > 1")
    (total,) = several.agg(F.sum(F.col("count") - 1)).collect()
    return total[0] or 0

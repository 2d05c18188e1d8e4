"""Functions of pyspark that jobs use, over rows with edge cases: evaluated by the engine of the process."""

import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from common.engines import frames
from jobs.build_user_features import main as job

UTC = datetime.UTC
NAN = float("nan")
SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "g": pa.string(),
        "n": pa.int64(),
        "x": pa.float64(),
        "t": pa.string(),
        "time": pa.timestamp("us", "UTC"),
        "day": pa.date32(),
        "flag": pa.bool_(),
    }
)


def at(*numbers: int) -> datetime.datetime:
    return datetime.datetime(*numbers, tzinfo=UTC)


def rows() -> list[tuple[Any, ...]]:
    day = datetime.date
    values = [
        ("a", 1, 0.5, "a=b=c", at(2024, 2, 29, 23, 59, 59, 999999), day(2024, 2, 29), True),
        ("a", 1, -0.0, "=", at(1969, 12, 31, 23, 59, 59, 999999), day(1970, 1, 1), False),
        ("a", 2, 0.0, "", at(1969, 12, 31, 23, 59, 59, 999999), day(1969, 12, 31), None),
        ("a", 3, 2.5, "Ärger=ß", at(2023, 1, 1), day(2023, 1, 1), True),
        ("a", None, None, None, at(2023, 1, 2), None, None),
        ("b", -7, NAN, "b", at(1900, 1, 1), day(1900, 1, 1), False),
        ("b", 9, 3.5, "a", at(9999, 12, 31, 12), day(9999, 12, 31), False),
        ("b", 9, -1.5, "a", at(2038, 1, 19, 3, 14, 8), day(1582, 10, 16), None),
        ("b", None, float("inf"), "\U0001f600", None, day(2038, 1, 19), None),
        ("b", 2**53 + 1, 1e300, "\uffff", None, None, True),
        ("c", None, None, None, None, None, None),
        ("c", None, None, None, None, None, None),
        ("d", 2**62, 1e-310, "z", at(2023, 6, 5, 7), day(2023, 6, 5), False),
        ("d", 2**62, -float("inf"), "z", at(2023, 6, 4, 7), day(2023, 6, 4), False),
        ("e", 4, -0.0, "é", at(2023, 6, 3, 7), day(2023, 6, 3), True),
        ("e", 5, -0.0, "é", at(2023, 6, 3, 7), day(2023, 6, 2), True),
        (None, 0, 7.0, "e\u0301", at(2000, 12, 31, 1), day(2000, 12, 31), True),
        (None, 6, 7.0, "E", at(2000, 12, 30, 1), day(2000, 12, 30), None),
    ]
    return [(number, *each) for number, each in enumerate(values)]


def of_rows() -> dict[str, Column]:
    n, x, t, time, day, flag = (F.col(name) for name in ("n", "x", "t", "time", "day", "flag"))
    dates = F.array(*[F.lit(datetime.date(2023, 6, each)) for each in (3, 4, 5)])
    texts = F.array(t, F.lit("a"), F.lit(None).cast("string"), t)
    pair = F.when(n.isNotNull() & t.isNotNull(), F.struct(n, t.alias("text")))
    return {
        "coalesce": F.coalesce(x, n * F.lit(0.5)),
        "greatest": F.greatest(F.lit(-2.0), F.least(F.lit(2.0), x)),
        "least": F.least(x, n.cast("double"), F.lit(0.0)),
        "when": F.when(flag, x),
        "otherwise": F.when(x > 1, F.lit(1.0)).otherwise(0.0),
        "and": flag & (n > 1),
        "or": flag | (n > 1),
        "not": ~flag,
        "less": x < 0,
        "at_least": x >= 2.5,
        "equal": x == 0,
        "between": n.between(1, 3),
        "isin": t.isin(["a", "z"]),
        "isin_nothing": t.isin([]),
        "is_null": t.isNull(),
        "same": n.eqNullSafe(F.lit(None).cast("bigint")),
        "to_date": F.to_date("time"),
        "hour": F.hour("time"),
        "hour_text": F.hour("time").cast("string"),
        "weekday": F.weekday("time"),
        "weekday_of_day": F.weekday("day"),
        "datediff": F.datediff(F.lit(datetime.date(2023, 6, 5)), "day"),
        "datediff_of_columns": F.datediff(F.to_date("time"), "day") - 1,
        "date_add": F.date_add(F.when(n < 9, day), 30),
        "date_before_time": time < F.lit(datetime.date(2023, 1, 2)),
        "time_before_time": time <= F.lit(at(2023, 1, 1)),
        "filtered_dates": F.filter(dates, lambda each: F.date_add(each, 1) > day),
        "filtered_by_time": F.filter(dates, lambda each: F.date_add(each, 0) > time),
        "get": F.get(F.array(*map(F.lit, (0.25, -0.5, 1.0))), F.when(n < 100, n).cast("int")),
        "size": F.size(texts),
        "size_of_null": F.size(F.when(flag, texts)),
        "distinct": F.sort_array(F.array_distinct(texts)),
        "compact": F.array_compact(texts),
        "flatten": F.flatten(F.array(texts, F.array(t))),
        "sorted_pairs": F.sort_array(
            F.array(pair, F.struct(F.lit(1).cast("bigint").alias("n"), F.lit("b").alias("text")))
        ),
        "field": pair["text"],
        "concat": F.concat(F.lit("t="), t),
        "prefix": F.substring_index("t", "=", 1),
        "prefix_2": F.substring_index("t", "=", 2),
        "prefix_0": F.substring_index("t", "=", 0),
        "suffix": F.substring_index("t", "=", -1),
        "rest": F.expr("substring(t, instr(t, '=') + 1)"),
        "rounded": frames.rounded(x, 2.0**-20),
        "rounded_small": frames.rounded(x, 2.0),
        "product": x * n,
        "ratio": F.when(n != 0, x / n),
        "ratio_of_integers": F.when(n != 0, F.lit(7) / n),
        "negative": -n,
        "negative_ratio": -n / F.lit(3),
        "sqrt": F.sqrt(F.abs(x)),
        "to_float": F.when(~x.between(1e38, 1e308), x).cast("float"),
        "to_double": n.cast("double"),
        "flag_to_double": flag.cast("double"),
        "to_bigint": F.lit("17").cast("bigint"),
        "literal": F.lit(0.1) + F.lit(1e-7) * F.lit(5e-324),
    }


def of_plans() -> dict[str, Column]:
    """Expressions of a tracking plan that DuckDB alone would compute differently, without an error."""
    texts = ["value", "round(value, 2)", "log(quantity)", "log1p(value)", "try_cast(value AS INT)", "quantity / 3"]
    texts += ["greatest(value, quantity)", "quantity % 5", "if(value > 3, 1, 0.5)", "quantity > 1.5"]
    return {text: frames.of_events(text).cast("float") for text in texts}  # logs of 64 bits differ in the last one


def of_shares(days: int, longer: int) -> Column:
    """The log of each ratio that features of users have: of 64 bits it differs, of 32 bits it does not."""
    return job.trend(days, longer).cast("float")


def of_groups() -> dict[str, Column]:
    n, x, t, time, day, flag = (F.col(name) for name in ("n", "x", "t", "time", "day", "flag"))
    exact = F.when(x.between(-10, 10), x)
    pair = F.struct("n", "t")
    texts = F.collect_list(F.when(flag, F.array(t, F.lit("a"))))
    return {
        "count": F.count("*"),
        "count_values": F.count(x),
        "count_if": F.count_if(flag),
        "sum": F.sum(exact),
        "sum_of_zeros": F.sum(F.when(x == 0, x)),
        "sum_of_integers": F.sum(F.when(n < 100, n)),
        "avg": F.avg(exact),
        "avg_of_integers": F.avg("n"),
        "min": F.min(F.when(x != 0, x)),
        "max": F.max(x),
        "min_day": F.min("day"),
        "max_time": F.max("time"),
        "max_text": F.max("t"),
        "max_flag": F.max(flag),
        "bool_or": F.bool_or(flag),
        "set_size": F.size(F.collect_set("t")),
        "set": F.sort_array(F.collect_set("t")),
        "list": F.sort_array(F.collect_list("t")),
        "flat_size": F.size(F.array_distinct(F.flatten(texts))),
        "set_of_empty": F.size(F.collect_set(F.when(F.lit(False), t))),
        "pairs": F.sort_array(F.collect_list(F.when(flag, F.struct((-n).alias("less"), "t")))),
        "latest": F.max(F.when(t.isNotNull() & time.isNotNull(), F.struct("time", "t")))["t"],
        "latest_even_null": F.max(F.when(time.isNotNull(), F.struct("time", "n", "t")))["t"],
        "max_by": F.max_by("t", day),
        "max_by_null_value": F.max_by(F.when(flag, t), day),
        "max_by_struct": F.max_by("t", F.when(flag, F.struct("time", "n", "t"))),
        "struct_max_by": F.max_by(pair, F.when(n > 1, day))["t"],
        "mode": F.mode("t", deterministic=True),
        "mode_of_some": F.mode(F.when(flag, t), deterministic=True),
        "mode_of_numbers": F.mode("n", deterministic=True),
    }


def of_windows() -> dict[str, Column]:
    earlier = Window.partitionBy("g").orderBy("day", "row").rowsBetween(Window.unboundedPreceding, -1)
    by_time = Window.partitionBy("g", "flag").orderBy("time", "row")
    return {
        "last": F.last("t", ignorenulls=True).over(earlier),
        "last_number": F.last(F.when(F.col("n") > 1, F.col("n")), ignorenulls=True).over(earlier),
        "last_even_null": F.last("t").over(earlier),
        "row_number": F.row_number().over(by_time),
        "row_number_descending": F.row_number().over(Window.partitionBy("g").orderBy(F.desc("x"), "row")),
    }


def write_rows(folder: str) -> None:
    """Write the rows that `evaluate` reads."""
    days = [(recent, whole) for recent in range(91) for whole in range(recent, 181)]
    shares = {
        "row": range(len(days)),
        "recent": [float(each) for each, _ in days],
        "whole": [float(each) for _, each in days],
    }
    pq.write_table(pa.table(shares), f"{folder}/shares.parquet")
    values = [None, 3.0, 3.5, 4.5, -2.5, 0.285, 1e9, 0.0]
    of_plan = {"row": range(8), "value": values, "quantity": [1, 2, -7, 0, 12, 3, None, 2**40]}
    pq.write_table(pa.table(of_plan), f"{folder}/plans.parquet")
    columns = [pa.array(each, kind) for each, kind in zip(zip(*rows(), strict=True), SCHEMA.types, strict=True)]
    pq.write_table(pa.table(columns, SCHEMA), f"{folder}/rows.parquet")


def evaluate(session: SparkSession, folder: str) -> dict[str, pa.Table]:
    """Return the values of all functions over the rows of a folder, by kind of function."""
    frame, plans, shares = (session.read.parquet(f"{folder}/{name}.parquet") for name in ("rows", "plans", "shares"))
    found = {
        "of_rows": values(frame.select("row", *named(of_rows())), "row"),
        "of_windows": values(frame.select("row", *named(of_windows())), "row"),
        "of_groups": values(frame.groupBy("g").agg(*named(of_groups())), "g"),
        "of_plans": values(plans.select("row", *named(of_plans())), "row"),
    }
    for days, longer in ((7, 28), (28, 90), (90, 180)):
        few = shares.where(f"recent <= {days} AND whole <= {longer}")
        few = few.select("row", *[F.col(a).alias(f"target_days_{b}") for a, b in (("recent", days), ("whole", longer))])
        found[f"of_{days}_days"] = values(few.select("row", of_shares(days, longer).alias("trend")), "row")
    return found


def named(columns: dict[str, Column]) -> list[Column]:
    return [column.alias(name) for name, column in columns.items()]


def values(frame: DataFrame, key: str) -> pa.Table:
    return frame.toArrow().sort_by(key)

"""Functions of pyspark that sqlframe lacks, or computes differently on DuckDB."""

from collections.abc import Callable
from typing import Any

import sqlglot
from sqlframe.duckdb import Column
from sqlframe.duckdb import functions as F
from sqlglot import exp

from common.engines import duck

FUNCTIONS: dict[str, Callable[..., Any]] = {}


def function(defined: Callable[..., Any]) -> Callable[..., Any]:
    FUNCTIONS[defined.__name__] = defined
    return defined


def call(name: str, *operands: Any) -> Column:
    """Return the call of a function of DuckDB."""
    return Column(exp.Anonymous(this=name, expressions=[F.col(each).column_expression for each in operands]))


@function
def rint(col: Any) -> Column:
    """Round to a whole number, halves to even ones."""
    return call("round_even", col, F.lit(0))


@function
def log1p(col: Any) -> Column:
    sql = duck.log_of_one_more(F.col(col).column_expression.sql("duckdb"))
    return Column(sqlglot.parse_one(sql, read="duckdb"))


@function
def count_if(col: Any) -> Column:
    """Count rows, 0 of none, as a 64-bit number."""
    return F.count(F.when(F.col(col), F.lit(1)))


@function
def octet_length(col: Any) -> Column:
    return call("strlen", col)


@function
def get(col: Any, index: Any) -> Column:
    """Return an entry of an array by its position from 0; null outside."""
    position = F.col(index) if not isinstance(index, int) else F.lit(index)
    return F.when(position >= F.lit(0), call("list_extract", col, position + F.lit(1)))


@function
def weekday(col: Any) -> Column:
    """Return the day of the week, Monday as 0."""
    return call("isodow", col) - F.lit(1)


@function
def substring_index(text: Any, delim: str, count: int) -> Column:
    """Return the text before the nth delimiter, of a negative number after the nth from its end."""
    ends = (F.lit(1), F.lit(count)) if count >= 0 else (F.lit(count), F.lit(-1))
    return call("array_to_string", call("list_slice", call("string_split", text, F.lit(delim)), *ends), F.lit(delim))


@function
def collect_list(col: Any) -> Column:
    """Collect values without nulls, which DuckDB's list keeps; of none an empty array."""
    values = F.col(col)
    some = exp.Filter(
        this=exp.Anonymous(this="list", expressions=[values.column_expression]),
        expression=exp.Where(this=values.isNotNull().column_expression),
    )
    return F.coalesce(Column(some), Column(exp.Array(expressions=[])))


@function
def collect_set(col: Any) -> Column:
    return call("list_distinct", collect_list(col))


@function
def max_by(col: Any, ord: Any) -> Column:
    """Return the value of the row with the greatest; DuckDB's arg_max leaves out null values."""
    return call("arg_max_null", col, ord)


@function
def mode(col: Any, deterministic: bool = False) -> Column:
    """Return the most frequent value, of equally frequent ones the least: DuckDB takes the first one."""
    values = F.col(col).column_expression
    order = exp.Order(this=values, expressions=[exp.Ordered(this=values.copy())])
    return Column(exp.Anonymous(this="mode", expressions=[order]))


@function
def last(col: Any, ignorenulls: bool = False) -> Column:
    """Return the last value over a window; DuckDB can ignore nulls in a window, but not filter there."""
    value = exp.LastValue(this=F.col(col).column_expression)
    return Column(exp.IgnoreNulls(this=value) if ignorenulls else value)


@function
def broadcast(frame: Any) -> Any:
    return frame

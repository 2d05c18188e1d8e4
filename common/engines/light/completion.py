"""Methods of pyspark that sqlframe lacks, or computes differently on DuckDB."""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sqlframe.base import functions as base
from sqlframe.base import types
from sqlframe.duckdb import Column, DuckDBDataFrame, DuckDBGroupedData, WindowSpec
from sqlframe.duckdb import functions as F
from sqlglot import exp

from common.engines import duck
from common.engines.light.functions import FUNCTIONS

METHODS: dict[str, Callable[..., Any]] = {}
NUMBERS = itertools.count(1)
# Methods of sqlframe that the ones below call.
JOIN: Callable[..., Any] = DuckDBDataFrame.join
AGG: Callable[..., Any] = DuckDBGroupedData.agg
ORDER_BY: Callable[..., Any] = WindowSpec.orderBy
LITERAL: Callable[..., Column] = Column._lit
IS_IN: Callable[..., Column] = Column.isin


def complete() -> None:
    """Put the functions and methods of the light engine into pyspark's modules."""
    sql: Any = sys.modules["pyspark.sql"]
    for name, function in FUNCTIONS.items():
        setattr(F, name, function)
        setattr(base, name, function)  # what its own functions call
    for name, method in METHODS.items():
        setattr(DuckDBDataFrame, name, method)
    replaced: list[Any] = [(Column, "_lit", staticmethod(literal)), (Column, "isin", isin)]
    for kind, name, method in [*replaced, (WindowSpec, "orderBy", order_by), (DuckDBGroupedData, "agg", agg)]:
        setattr(kind, name, method)
    sql.Observation = Observation
    map_type: Any = types.MapType
    written = map_type.simpleString
    map_type.simpleString = lambda kind: written(kind).replace(" ", "")
    sql.SparkSession.active = classmethod(lambda kind: kind())


def table_of(session: Any, name: str) -> Any:
    """Return a table or view as a frame, with the columns and types that DuckDB gives it."""
    relation = session._conn.table(name)
    kinds = [exp.DataType.build(str(kind), dialect="duckdb") for kind in relation.types]
    session.catalog.add_table(name, dict(zip(relation.columns, kinds, strict=True)))
    return session.table(name)


def view_from(session: Any, sql: str) -> Any:
    """Return the rows of DuckDB's SQL as a frame: a view, so that they are evaluated when they are used."""
    name = f"view_{next(NUMBERS)}"
    session._conn.execute(f"CREATE TEMP VIEW {name} AS {sql}")
    return table_of(session, name)


def sql_of(frame: Any) -> str:
    """Return DuckDB's SQL of a frame."""
    (expression,) = frame._get_expressions(optimize=False)
    return str(frame.session._to_sql(expression))


def method(defined: Callable[..., Any]) -> Callable[..., Any]:
    METHODS[defined.__name__] = defined
    return defined


class Observation:
    """Aggregates of a frame's rows, computed when they are asked for."""

    def __init__(self, name: str | None = None) -> None:
        self.counted: Callable[[], dict[str, Any]] | None = None

    @property
    def get(self) -> dict[str, Any]:
        if self.counted is None:
            raise RuntimeError("No frame is observed.")
        return self.counted()


@method
def observe(frame: Any, observation: Observation, *columns: Column) -> Any:
    observation.counted = lambda: frame.agg(*columns).collect()[0].asDict()
    return frame


@method
def persist(frame: Any, level: Any = None) -> Any:
    """Evaluate a frame once, into a table that DuckDB spills to disk if need be."""
    name = frame.session._random_id
    frame.session._conn.execute(f"CREATE TEMP TABLE {name} AS {sql_of(frame)}")
    return table_of(frame.session, name)


@method
@functools.wraps(JOIN)  # sqlframe's crossJoin takes what is wrapped
def join(frame: Any, other: Any, on: Any = None, how: str = "inner") -> Any:
    """Join frames; after it, the name of a key is the joined key, of which sqlframe takes one side or the other."""
    return settled(JOIN(frame, other, on, how))


def agg(grouped: Any, *columns: Any) -> Any:
    """Aggregate groups; totals of all rows are mostly the last step, which needs no view."""
    summed = AGG(grouped, *columns)
    return settled(summed) if grouped.group_by_cols else summed


def settled(frame: Any) -> Any:
    """Return a frame as a view: each step of sqlframe copies the expressions of all former ones several times."""
    return view_from(frame.session, sql_of(frame))


@method
def groupingSets(frame: Any, sets: Any, *columns: str) -> Any:
    return GroupingSets(frame, sets, columns)


class GroupingSets:
    """A frame grouped by several sets of its columns."""

    def __init__(self, frame: Any, sets: Any, columns: Sequence[str]) -> None:
        self.session = frame.session
        listed = [", ".join(map(duck.quoted, columns)) for columns in (columns, *sets)]
        self.sql = (
            f"SELECT {listed[0]}, count(*) AS count FROM ({sql_of(frame)}) "
            f"GROUP BY GROUPING SETS ({', '.join(f'({each})' for each in listed[1:])})"
        )

    def count(self) -> Any:
        return view_from(self.session, self.sql)


@method
def repartition(frame: Any, *partitions: Any) -> Any:
    return frame


@method
def coalesce(frame: Any, partitions: int) -> Any:
    return frame


@method
def sortWithinPartitions(frame: Any, *columns: Any) -> Any:
    return frame.orderBy(*columns)


def order_by(window: Any, *columns: Any) -> Any:
    """Order the rows of a window, nulls first as in Spark."""
    given = [F.col(each) for each in columns]
    return ORDER_BY(window, *[each if isinstance(each.expression, exp.Ordered) else each.asc() for each in given])


def literal(value: Any) -> Column:
    """Return a value as a column; a float with an exponent, because DuckDB takes 0.5 for a decimal."""
    if type(value) is not float or not math.isfinite(value):
        return LITERAL(value)
    text = repr(abs(value))
    number = Column(exp.Literal.number(text if "e" in text else f"{text}e0"))
    return -number if math.copysign(1, value) < 0 else number


def isin(column: Column, *values: Any) -> Column:
    """Look for a value among others; among none it is false, even if it is null."""
    none = len(values) == 1 and isinstance(values[0], (list, set, tuple)) and not values[0]
    return F.lit(False) if none else IS_IN(column, *values)

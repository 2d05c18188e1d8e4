"""Spark SQL over the columns of events on the light engine, by the rules that sources have for DuckDB."""

import functools

import sqlglot
from pyspark.sql import Column

from common.engines import arrow, duck


def of_events(text: str) -> Column:
    """Return a Spark SQL expression over the columns of `events@3`, as those of the tracking plan."""
    return Column(sqlglot.parse_one(translator().sql_of(text), read="duckdb"))


@functools.cache
def translator() -> duck.Translator:
    return duck.Translator(arrow.schema_of("events@3"))

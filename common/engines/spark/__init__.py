"""Spark for jobs: the session of a task, tables in and out, rows appended to a dataset."""

from common.engines.spark.append import append
from common.engines.spark.io import ROWS_PER_PARTITION, read, schema, small_table, write
from common.engines.spark.session import session

__all__ = ["ROWS_PER_PARTITION", "append", "read", "schema", "session", "small_table", "write"]

"""Spark for jobs: the session of a task, reading and writing tables, appending to a dataset."""

from common.engines.spark.append import append
from common.engines.spark.io import ROWS_PER_PARTITION, partitions_for, read, schema, small_table, write
from common.engines.spark.session import session

__all__ = ["ROWS_PER_PARTITION", "append", "partitions_for", "read", "schema", "session", "small_table", "write"]

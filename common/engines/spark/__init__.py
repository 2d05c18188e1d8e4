"""Spark for jobs: the session of a task, reading and writing tables, appending to a dataset, sums."""

from common.engines.spark.append import append
from common.engines.spark.buckets import PLACE, in_buckets
from common.engines.spark.io import ROWS_PER_PARTITION, partitions_for, read, schema, small_table, write, write_buckets
from common.engines.spark.session import session
from common.engines.spark.sums import rounded

__all__ = [
    "PLACE",
    "ROWS_PER_PARTITION",
    "append",
    "in_buckets",
    "partitions_for",
    "read",
    "rounded",
    "schema",
    "session",
    "small_table",
    "write",
    "write_buckets",
]

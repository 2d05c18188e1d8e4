"""Frames for Spark jobs, in pyspark's interface: session, reading and writing tables, appending to a dataset, sums.

The engine is Spark, or DuckDB in a process that `common.engines.light.submit` started.
"""

from common.engines.frames import engine
from common.engines.frames.append import append
from common.engines.frames.io import ROWS_PER_PARTITION, partitions_for, read, read_back, write, write_buckets
from common.engines.frames.sums import rounded
from common.engines.schemas import PLACE, schema

in_buckets, of_events = engine.buckets.in_buckets, engine.expressions.of_events
scan, small_table = engine.files.scan, engine.files.small_table
session = engine.session.session

__all__ = [
    "PLACE",
    "ROWS_PER_PARTITION",
    "append",
    "in_buckets",
    "of_events",
    "partitions_for",
    "read",
    "read_back",
    "rounded",
    "scan",
    "schema",
    "session",
    "small_table",
    "write",
    "write_buckets",
]

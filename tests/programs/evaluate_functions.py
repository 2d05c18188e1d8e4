"""Evaluates functions on the light engine over the rows of a folder; writes a table per kind into another."""

import sys

import pyarrow.parquet as pq

from common.engines.light.activate import activate

activate()
from common.engines.light.session import start  # noqa: E402 - pyspark is the light engine now
from tests.function_cases import evaluate  # noqa: E402

rows, folder = sys.argv[1:]
for kind, table in evaluate(start(folder), rows).items():
    pq.write_table(table, f"{folder}/{kind}.parquet")

"""Contracts as schemas of frames, and the conditions that forbid values."""

import math

from pyspark.sql import Column as SparkColumn
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DoubleType,
    FloatType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from common import contracts
from common.contracts import Column, Contract

PLACE = "_place"  # a column of frames in buckets, with one value per bucket
TYPES: dict[str, DataType] = {
    "string": StringType(),
    "int64": LongType(),
    "float64": DoubleType(),
    "float32": FloatType(),
    "boolean": BooleanType(),
    "date": DateType(),
    "timestamp": TimestampType(),
    "map": MapType(StringType(), StringType()),
}


def schema(contract: Contract) -> StructType:
    """Return the columns of a contract as a schema."""
    return StructType(
        [StructField(name, TYPES[column.type], column.nullable) for name, column in contract.columns.items()]
    )


def is_forbidden(name: str, column: Column) -> SparkColumn:
    """Return a condition that holds for the values of a column that its contract forbids."""
    value = F.col(name)
    forbidden = F.lit(False) if column.nullable else value.isNull()
    if column.type == "string":
        size = F.octet_length(value)
        forbidden = forbidden | (size == 0) | (size > column.max_bytes) | value.rlike(contracts.CONTROL)
    if column.type in ("float64", "float32"):
        forbidden = forbidden | ~(F.abs(value) < math.inf)
    if column.minimum is not None:
        forbidden = forbidden | (value < column.minimum)
    if column.maximum is not None:
        forbidden = forbidden | (value > column.maximum)
    return forbidden

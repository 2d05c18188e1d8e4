"""Buckets of a frame by a key on the light engine: looked up by key, because DuckDB has no CRC-32."""

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from common.engines import arrow
from common.engines.light.files import table_from
from common.engines.schemas import PLACE


def in_buckets(frame: DataFrame, key: str, buckets: int) -> DataFrame:
    """Return the frame with its bucket in the column PLACE; evaluates its keys once before."""
    keys = frame.select(key).distinct().toArrow()[key].combine_chunks()
    places = pa.table({"_key": keys, PLACE: pa.array(arrow.bucket_of(keys, buckets))})
    return frame.join(table_from(places), F.col(key).eqNullSafe(F.col("_key"))).drop("_key")

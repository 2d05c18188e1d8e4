"""Buckets of a frame by a key: a shuffle to one partition per bucket, whose file then has the bucket's number."""

import itertools
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from common.engines.schemas import PLACE

SEED = 42  # of the hash that Spark partitions by


def bucket_of(key: str, buckets: int) -> Column:
    """Return the bucket of a key: a power of two of buckets, so the last bits of the hash."""
    return F.crc32(F.col(key).cast("binary")).bitwiseAND(buckets - 1)


def in_buckets(frame: DataFrame, key: str, buckets: int) -> DataFrame:
    """Return the frame shuffled to one partition per bucket, with the column PLACE.

    Group by PLACE and the key to aggregate without another shuffle.
    """
    places = F.lit(places_of(frame.sparkSession, buckets))
    return frame.withColumn(PLACE, F.get(places, bucket_of(key, buckets).cast("int"))).repartition(buckets, PLACE)


def places_of(session: SparkSession, partitions: int) -> list[int]:
    """Return for each partition a number that Spark's hash sends to it.

    Spark places rows by the hash of a value: the numbers of buckets would leave partitions empty, and double others.
    """
    java: Any = session._jvm
    spark_hash = java.org.apache.spark.unsafe.hash.Murmur3_x86_32(SEED)  # Py4J may miss its static method
    places: dict[int, int] = {}
    numbers = itertools.count()
    while len(places) < partitions:
        number = next(numbers)
        places.setdefault(spark_hash.hashInt(number) % partitions, number)
    return [places[partition] for partition in range(partitions)]

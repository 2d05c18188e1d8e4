"""Buckets of a hand-over: its rows by a hash of their key, one file per bucket, so that a shard opens its own only.

The bucket of a key is the CRC-32 of its UTF-8 modulo the number of buckets: zlib and Spark compute it alike.
"""

import re
from typing import Any

from common.errors import TaskError

MIN_BUCKETS = 8  # a file and a Spark task each, also for a few rows; more shards than that need more rows
ROWS_PER_BUCKET = 500_000  # with more of them the hash aggregate of a 1 GiB heap sorts and spills
FILE_NAME = re.compile(r"part-(\d+)\b.*\.parquet")  # Spark's too, where the number is that of the partition


def buckets_for(rows: int) -> int:
    """Return the number of buckets for some rows: a power of two, at least MIN_BUCKETS."""
    return max(MIN_BUCKETS, 1 << (-(-rows // ROWS_PER_BUCKET) - 1).bit_length())


def bucket_of_file(path: str) -> int:
    """Return the bucket that a file holds, by its name; TaskError if the name has no number."""
    named = FILE_NAME.fullmatch(path.rpartition("/")[2])
    if named is None:
        raise TaskError(f"The file {path} is named after no bucket, expected part-NUMBER; check how it is written.")
    return int(named[1])


def shard_of_bucket(bucket: int, shards: int, buckets: int) -> int:
    """Return the shard that reads a bucket: each shard has a range of buckets."""
    return bucket * shards // buckets


def bucket_entries(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of a manifest's files, each with its bucket, in the order of the buckets."""
    return sorted(({**file, "bucket": bucket_of_file(file["path"])} for file in files), key=lambda file: file["bucket"])

"""What a frontend does to read a product: two GetItems.

The first reads the pointer, the second the item in the version that it points to. Whoever is not listed in that version
gets the rows for all others, which the pointer brings along. Versions lie beside each other, in partitions that are
named after version and bucket, so a version can be counted without a look at the others; a key's bucket is its CRC-32
(of ISO 3309, as zlib and java.util.zip have it) modulo the number of buckets.
"""

import zlib
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

Item = dict[str, Any]  # of attribute values in DynamoDB's own form

MAX_KEY = 1024  # bytes, of a sort key
POINTER: Item = {"part": {"S": "current"}, "id": {"S": "current"}}


def read(client: Any, table: str, key: str) -> Any:
    """What the version in place shows for a key: a list of rows or one row, numbers as Decimal.

    `client` is boto3's client of DynamoDB. Returns what is shown to all others if the key is not listed, None if there
    is no such thing or nothing was published yet.
    """
    # Consistent, so that a switch is one for all; the item was there and counted before the pointer came to it.
    pointer = client.get_item(TableName=table, Key=POINTER, ConsistentRead=True).get("Item")
    if pointer is None:
        return None
    found = pointer
    if 0 < len(key.encode()) <= MAX_KEY:  # no other key is listed, and DynamoDB refuses to look for one
        place = place_of(pointer["version"]["S"], int(pointer["buckets"]["N"]), key)
        found = client.get_item(TableName=table, Key=place).get("Item", pointer)
    return TypeDeserializer().deserialize(found["content"]) if "content" in found else None


def place_of(version: str, buckets: int, key: str) -> Item:
    """The primary key of the item that a version has for a key."""
    return {"part": {"S": f"{version}/{bucket_of(key, buckets)}"}, "id": {"S": key}}


def bucket_of(key: str, buckets: int) -> int:
    """The bucket that a key lies in, from 0."""
    return zlib.crc32(key.encode()) % buckets

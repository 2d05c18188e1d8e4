"""Reading of a product in DynamoDB as a frontend does it: two GetItems.

The first reads the pointer, the second the item in the version that it points to. A key that is not listed in that
version gets the default rows, which the pointer contains. Each version has its own partitions, named after version and
bucket, so a version can be expired without reading the others. A key's bucket is its CRC-32 (of ISO 3309, as in zlib
and java.util.zip) modulo the number of buckets.
"""

import json
import zlib
from typing import Any

MAX_KEY = 1024  # bytes, of a sort key
POINTER = {"part": {"S": "current"}, "id": {"S": "current"}}


def read(client: Any, table: str, key: str) -> Any:
    """Return the content of the live version for a key: a list of rows or one row.

    `client` is boto3's client of DynamoDB. Returns the default content if the key is not listed, None if there is none
    or nothing was published yet.
    """
    # Consistent, so that all readers switch at once; the items were written and counted before the pointer moved.
    pointer = client.get_item(TableName=table, Key=POINTER, ConsistentRead=True).get("Item")
    if pointer is None:
        return None
    item = pointer
    if 0 < len(key.encode()) <= MAX_KEY:  # DynamoDB refuses other keys, so none is listed
        bucket = zlib.crc32(key.encode()) % int(pointer["buckets"]["N"])
        part = f"{pointer['version']['S']}/{bucket}"
        item = client.get_item(TableName=table, Key={"part": {"S": part}, "id": {"S": key}}).get("Item", pointer)
    return json.loads(zlib.decompress(item["content"]["B"])) if "content" in item else None

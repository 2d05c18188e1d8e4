"""Reading of a product as a frontend does it: two HGETs of Redis or Valkey.

The first reads the pointer, the second the item in the version that it points to. A key that is not listed in that
version gets the default rows, which the pointer contains. A key's bucket is its CRC-32 (of ISO 3309, as in zlib and
java.util.zip) modulo the number of buckets.
"""

import json
import zlib
from typing import Any

MAX_KEY = 1024  # bytes, of an item's key


def read(client: Any, name: str, key: str) -> Any:
    """Return the content of the live version for a key: a list of rows or one row.

    `client` is a redis.Redis or RedisCluster that reads from primaries and returns bytes (without `decode_responses`),
    `name` such as tandem-prod-recommendations. Returns the default content if the key is not listed, None if there is
    none or nothing was published yet.
    """
    found = client.hget(f"{name}:documents", "current")
    if found is None:
        return None
    pointer = json.loads(found)
    if 0 < len(key.encode()) <= MAX_KEY:  # others are never listed
        bucket = zlib.crc32(key.encode()) % pointer["buckets"]
        if item := client.hget(f"{name}:{pointer['version']}/{bucket}", key):
            return json.loads(zlib.decompress(item))
    return pointer.get("content")

"""Reading of a product as a frontend does it: two reads of a row in Bigtable.

The first reads the pointer, the second the item in the version that it points to. A key that is not listed in that
version gets the default rows, which the pointer contains. A key's bucket is its CRC-32 (of ISO 3309, as in zlib and
java.util.zip) modulo the number of buckets.
"""

import json
import zlib
from typing import Any

from google.cloud.bigtable.data import Table
from google.cloud.bigtable.data.row_filters import ColumnQualifierRegexFilter

MAX_KEY = 1024  # bytes, of an item's key
POINTER = ColumnQualifierRegexFilter(b"current")


def read(table: Table, key: str) -> Any:
    """Return the content of the live version for a key: a list of rows or one row.

    `table` is BigtableDataClient(project=…).get_table(instance, "tandem-prod-recommendations"). Returns the default
    content if the key is not listed, None if there is none or nothing was published yet.
    """
    row = table.read_row(b"documents", row_filter=POINTER)
    if row is None:
        return None
    pointer = json.loads(row.cells[0].value)
    if 0 < len(key.encode()) <= MAX_KEY:  # others are never listed
        bucket = zlib.crc32(key.encode()) % pointer["buckets"]
        if item := table.read_row(f"{bucket}/{pointer['version']}/{key}".encode()):
            return json.loads(zlib.decompress(item.cells[0].value))
    return pointer.get("content")

"""Contents of items as compressed JSON, and documents as JSON."""

import json
import zlib
from typing import Any

from common.delivery.store import Document
from common.errors import ArgumentError

# 7% fewer write units than level 6 for the demo's lists, for 10% more time; 9 is three times as slow at worst.
LEVEL = 8


def as_json(value: Any) -> bytes:
    """Return a plain value as JSON in UTF-8; ValueError for a NaN or infinite number, which JSON does not have."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def packed(content: Any) -> bytes:
    """Return a plain value as JSON in UTF-8, compressed by zlib (RFC 1950)."""
    return zlib.compress(as_json(content), LEVEL)


def unpacked(content: bytes) -> Any:
    """Return the plain value of packed content; ArgumentError if it is not packed, as those of release 0.1.0."""
    try:
        return json.loads(zlib.decompress(content))
    except zlib.error:
        raise of_earlier_release() from None


def of_earlier_release() -> ArgumentError:
    """Return the error for content that is not packed."""
    return ArgumentError(
        "The store has content of an earlier release, expected JSON compressed by zlib; set another prefix "
        "'tables', see CHANGELOG.md."
    )


def as_document(content: bytes) -> Document:
    """Return a document from JSON of its values and its `tag`."""
    values = json.loads(content)
    return Document(values, values.pop("tag"))

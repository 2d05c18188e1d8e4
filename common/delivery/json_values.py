"""Plain values and documents as JSON, for stores that keep bytes."""

import json
from typing import Any

from common.delivery.store import Document


def as_json(value: Any) -> bytes:
    """Return a plain value as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def as_document(content: bytes) -> Document:
    """Return a document from JSON of its values and its `tag`."""
    values = json.loads(content)
    return Document(values, values.pop("tag"))

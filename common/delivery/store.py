"""The interface of a product's store, which DynamoDB, Bigtable and Redis implement: documents and items.

Documents are few and small: the pointer, and one for each version. They are replaced on condition that others are
unchanged. Items are many: each is the content of a key in a part of a version, written once and unconditionally.
Documents are plain values: text, whole numbers, floats, booleans, None, and lists and dicts of these. The content of an
item is bytes: such a value, packed by common.delivery.json_values.
"""

import datetime
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

MAX_KEY = 1024  # bytes, of an item's key
POINTER = "current"  # key of the document that readers follow
VERSIONS = "versions/"  # and a version's name: key of its document


@dataclass(frozen=True)
class Document:
    """A document as it was read; each write gives it another tag."""

    values: dict[str, Any]
    tag: str


class Place(NamedTuple):
    """An item's part, `<version>/<bucket>`, and its key."""

    part: str
    key: str


class Store(Protocol):
    """The store of one product, in all its versions.

    Each method retries for a limited time while the store is busy, and then raises TaskError.
    """

    @property
    def name(self) -> str:
        """The product's name in the store, as in messages: tandem-prod-recommendations."""

    @property
    def threads(self) -> int:
        """The number of threads that may call the store concurrently."""

    def explained(self) -> AbstractContextManager[None]:
        """Raise the store's own errors as TaskError, or ArgumentError if no retry helps (no table, no rights)."""

    def create(self, units: tuple[int, int] | None) -> list[str]:
        """Create what the product needs, and return the steps that were missing; resumes a call that was killed.

        `units` are the read and write units to reserve in a store that has such; None: on demand.
        """

    def exists(self) -> bool:
        """Return True if the store was created."""

    def read(self, key: str) -> tuple[Document | None, datetime.datetime]:
        """Return the newest state of a document, None if it does not exist, and the time by the store's clock."""

    def versions(self) -> dict[str, Document]:
        """Return the documents of all versions, by the names of versions, in order."""

    def commit(self, writes: Mapping[str, dict[str, Any] | None], expected: Mapping[str, str | None]) -> bool:
        """Replace documents, or delete (None), all or none, if each expected one still has its tag.

        The expected tag None: the document does not exist. Every key of `writes` is in `expected` too. Returns False if
        nothing was written. It is True if the documents were written but the response to that attempt was lost.
        """

    def put(self, items: list[tuple[Place, bytes]]) -> int:
        """Write items, at most 100 of any parts; return the number re-sent because the store was too busy."""

    def find(self, places: list[Place]) -> set[str]:
        """Return the keys of those of a version's items, at most 100, that exist and do not expire."""

    def get(self, places: list[Place]) -> dict[str, bytes]:
        """Return the contents, by key, of those of a version's items that exist and do not expire; any number."""

    def items(self, part: str) -> Iterator[tuple[str, bytes]]:
        """Yield key and content of the items in a part that do not expire."""

    def expire(self, part: str, at: int) -> int:
        """Let the items of a part expire at a time in seconds since 1970, or delete them; return the number of these.

        Items that expire already or were deleted stay so, and do not count; so a call that was killed is resumed.
        """

    def delete(self, part: str) -> int:
        """Delete the items of a part that do not expire yet; return their number."""

    def scan(self, units: float | None) -> Iterator[Place]:
        """Yield all items in all parts, also of versions that are not listed, and items that expire.

        `units` are the read units that are reserved, if any: half of them stays for readers.
        """

    def erase(self, places: list[Place]) -> None:
        """Delete single items, any number."""

    def shown(self, key: str) -> Any:
        """Return the value that a frontend reads for a key, by the store's reader."""


def bucket_of(key: str, buckets: int) -> int:
    """Return the bucket of a key, from 0."""
    return zlib.crc32(key.encode()) % buckets


def place_of(version: str, buckets: int, key: str) -> Place:
    """Return the place of a version's item for a key."""
    return Place(f"{version}/{bucket_of(key, buckets)}", key)


def table_name(prefix: str, contract: str) -> str:
    """Return a product's name in its store, which all versions of its contract share."""
    return prefix + contract.partition("@")[0]

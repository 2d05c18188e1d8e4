"""A product in a table of Google's Bigtable: documents as the columns of one row, a row for each item.

All documents are in one row, because Bigtable compares and swaps within one row. The row has a generation, which each
commit replaces on condition that it is still the one read. All cells but the clock's have the timestamp 0, so a write
replaces the cell: there is no older one that a condition could match.

An item's row is `<bucket>/<version>/<key>`, bucket first, so that all nodes share the writes of a version.
"""

import datetime
import itertools
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from google.api_core.exceptions import NotFound
from google.cloud.bigtable import Client
from google.cloud.bigtable.column_family import MaxVersionsGCRule
from google.cloud.bigtable.data import (
    BigtableDataClient,
    DeleteAllFromRow,
    DeleteRangeFromColumn,
    ReadRowsQuery,
    RowMutationEntry,
    RowRange,
    SetCell,
    Table,
)
from google.cloud.bigtable.data.exceptions import MutationsExceptionGroup
from google.cloud.bigtable.data.mutations import Mutation
from google.cloud.bigtable.data.read_modify_write_rules import AppendValueRule
from google.cloud.bigtable.data.row import Row
from google.cloud.bigtable.data.row_filters import (
    ColumnQualifierRegexFilter,
    LiteralValueFilter,
    RowFilter,
    RowFilterChain,
    StripValueTransformerFilter,
)

from common.delivery.bigtable import reader
from common.delivery.bigtable.errors import Address, busy, explained
from common.delivery.json_values import as_document, as_json
from common.delivery.patience import persist, send_all
from common.delivery.store import VERSIONS, Document, Place
from common.errors import ArgumentError

REACH = 60.0  # seconds for which Google's client retries a request by itself
BATCH = 100  # items of one request
PAGE = 1000  # keys of one request
DOCUMENTS, ITEMS = "documents", "items"  # families of columns
DOCUMENT_ROW, CLOCK_ROW = b"documents", b"clock"
GENERATION = "generation"
ANY_GENERATION = ColumnQualifierRegexFilter(GENERATION.encode())
KEYS_ONLY = StripValueTransformerFilter(True)


class Bigtable:
    """The store of one product; see common.delivery.store.Store."""

    def __init__(self, table: Table, address: Address, threads: int) -> None:
        self.table, self.address, self.threads = table, address, threads
        self.name = address.table

    @classmethod
    def open(cls, url: str, name: str, threads: int) -> "Bigtable":
        """Open a product's table at bigtable://PROJECT/INSTANCE, or on the server BIGTABLE_EMULATOR_HOST."""
        matched = re.fullmatch(r"bigtable://([^/]+)/([^/]+)", url)
        if not matched:
            raise ArgumentError(f"The store '{url}' is not complete, expected bigtable://PROJECT/INSTANCE; correct it.")
        address = Address(matched[1], matched[2], name)
        with explained(address), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it warns of each use of an emulator
            client = BigtableDataClient(project=address.project)
            table = client.get_table(
                address.instance,
                name,
                default_operation_timeout=REACH,
                default_read_rows_operation_timeout=REACH,
                default_mutate_rows_operation_timeout=REACH,
                default_mutate_rows_attempt_timeout=REACH,
            )
        return cls(table, address, threads)

    def explained(self) -> AbstractContextManager[None]:
        return explained(self.address)

    def create(self, units: tuple[int, int] | None) -> list[str]:
        """Create the table and its families of columns; Bigtable's capacity belongs to the instance."""
        rule = MaxVersionsGCRule(1)
        with explained(self.address, creating=True), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            table = Client(project=self.address.project, admin=True).instance(self.address.instance).table(self.name)
            if not table.exists():
                table.create(column_families={DOCUMENTS: rule, ITEMS: rule})
                return ["table"]
            missing = {DOCUMENTS, ITEMS} - set(table.list_column_families())
            for family in sorted(missing):
                table.column_family(family, rule).create()
            return [f"family {family}" for family in sorted(missing)]

    def exists(self) -> bool:
        try:
            self.read_row(DOCUMENT_ROW, KEYS_ONLY)
        except NotFound:
            return False
        return True

    def read(self, key: str) -> tuple[Document | None, datetime.datetime]:
        documents = self.documents(re.escape(key))
        # An append to a cell is dated by Bigtable's clock: never earlier than the previous one.
        rule = AppendValueRule(DOCUMENTS, b"clock", b"")
        clock = persist(self.name, lambda: self.table.read_modify_write_row(CLOCK_ROW, rule), busy)
        now = datetime.datetime.fromtimestamp(clock.cells[0].timestamp_micros / 1e6, datetime.UTC)
        return documents.get(key), now

    def versions(self) -> dict[str, Document]:
        return {key.removeprefix(VERSIONS): found for key, found in self.documents(f"{VERSIONS}.*").items()}

    def documents(self, pattern: str) -> dict[str, Document]:
        """Return the documents whose keys match a pattern, sorted by key."""
        row = self.read_row(DOCUMENT_ROW, ColumnQualifierRegexFilter(pattern.encode()))
        found = {cell.qualifier.decode(): cell.value for cell in row} if row else {}
        return {key: as_document(found[key]) for key in sorted(found) if key != GENERATION}

    def commit(self, writes: Mapping[str, dict[str, Any] | None], expected: Mapping[str, str | None]) -> bool:
        tag = uuid.uuid4().hex
        mutations = [document_mutation(key, values, tag) for key, values in writes.items()]
        mutations.append(SetCell(DOCUMENTS, GENERATION, tag, timestamp_micros=0))
        pattern = "|".join(map(re.escape, (*expected, GENERATION)))

        def attempt() -> bool | None:
            """Swap; None if another document was written since this attempt read the generation."""
            row = self.read_row(DOCUMENT_ROW, ColumnQualifierRegexFilter(pattern.encode()))
            cells = {cell.qualifier.decode(): cell.value for cell in row} if row else {}
            generation = cells.pop(GENERATION, None)
            tags = {key: as_document(value).tag for key, value in cells.items()}
            if generation == tag.encode() or tag in tags.values():
                return True  # the response to an earlier attempt was lost
            if any(tags.get(key) != old for key, old in expected.items()):
                return False
            if generation is None:
                done = not self.table.check_and_mutate_row(DOCUMENT_ROW, ANY_GENERATION, false_case_mutations=mutations)
            else:
                same = RowFilterChain([ANY_GENERATION, LiteralValueFilter(generation)])
                done = self.table.check_and_mutate_row(DOCUMENT_ROW, same, true_case_mutations=mutations)
            return True if done else None

        while (done := persist(self.name, attempt, busy)) is None:
            pass
        return done

    def put(self, items: list[tuple[Place, bytes]]) -> int:
        return self.mutate(
            [
                RowMutationEntry(row_key(place), SetCell(ITEMS, b"content", content, timestamp_micros=0))
                for place, content in items
            ]
        )

    def find(self, places: list[Place]) -> set[str]:
        rows = self.read_rows(ReadRowsQuery([row_key(place) for place in places], row_filter=KEYS_ONLY))
        return {place_of_row(row).key for row in rows}

    def get(self, places: list[Place]) -> dict[str, bytes]:
        found = {}
        for start in range(0, len(places), BATCH):
            query = ReadRowsQuery([row_key(place) for place in places[start : start + BATCH]])
            found.update({place_of_row(row).key: row.cells[0].value for row in self.read_rows(query)})
        return found

    def items(self, part: str) -> Iterator[tuple[str, bytes]]:
        for row in self.rows_of(part):
            yield place_of_row(row).key, row.cells[0].value

    def expire(self, part: str, at: int) -> int:
        """Delete the items of a part: a row has no time of expiry in Bigtable."""
        return self.delete(part)

    def delete(self, part: str) -> int:
        count = 0
        rows = self.rows_of(part, KEYS_ONLY)
        while some := list(itertools.islice(rows, BATCH)):
            self.mutate([RowMutationEntry(row.row_key, DeleteAllFromRow()) for row in some])
            count += len(some)
        return count

    def scan(self, units: float | None) -> Iterator[Place]:
        for row in self.pages(b"0", b":", KEYS_ONLY):  # the keys of other rows begin with a letter
            yield place_of_row(row)

    def erase(self, places: list[Place]) -> None:
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            self.mutate([RowMutationEntry(row_key(place), DeleteAllFromRow()) for place in some])

    def read_row(self, key: bytes, columns: RowFilter) -> Row | None:
        return persist(self.name, lambda: self.table.read_row(key, row_filter=columns), busy)

    def read_rows(self, query: ReadRowsQuery) -> list[Row]:
        return persist(self.name, lambda: self.table.read_rows(query), busy)

    def rows_of(self, part: str, columns: RowFilter | None = None) -> Iterator[Row]:
        """Yield the rows of a part."""
        prefix = row_key(Place(part, ""))
        return self.pages(prefix, prefix[:-1] + b"0", columns)  # 0 follows the slash

    def pages(self, start: bytes, end: bytes, columns: RowFilter | None) -> Iterator[Row]:
        """Yield the rows of a range; each request is for some, so that it can be repeated."""
        limit = PAGE if columns else BATCH
        while True:
            rows = self.read_rows(ReadRowsQuery(row_ranges=RowRange(start, end), limit=limit, row_filter=columns))
            yield from rows
            if len(rows) < limit:
                return
            start = rows[-1].row_key + b"\0"

    def mutate(self, entries: list[RowMutationEntry]) -> int:
        """Change rows; return the number of changes that were repeated because the instance was busy."""

        def send(waiting: list[RowMutationEntry]) -> tuple[list[RowMutationEntry], str]:
            try:
                self.table.bulk_mutate_rows(waiting)
            except MutationsExceptionGroup as group:
                reasons = [busy(error.__cause__) for error in group.exceptions]
                if None in reasons:
                    raise
                return [error.entry for error in group.exceptions], reasons[0] or ""
            return [], ""

        return send_all(self.name, entries, send)

    def shown(self, key: str) -> Any:
        return reader.read(self.table, key)


def document_mutation(key: str, values: dict[str, Any] | None, tag: str) -> Mutation:
    """Return the change that replaces a document, or deletes it (None)."""
    if values is None:
        return DeleteRangeFromColumn(DOCUMENTS, key.encode())
    return SetCell(DOCUMENTS, key, as_json({**values, "tag": tag}), timestamp_micros=0)


def row_key(place: Place) -> bytes:
    version, _, bucket = place.part.rpartition("/")
    return f"{bucket}/{version}/{place.key}".encode()


def place_of_row(row: Row) -> Place:
    bucket, version, key = row.row_key.decode().split("/", 2)
    return Place(f"{version}/{bucket}", key)

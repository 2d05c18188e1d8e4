"""The rows of a product as the items of its store, one for each key that every store can hold.

The limits are those of DynamoDB, so that a product does not depend on its store.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.contracts import Contract, Product
from common.delivery.store import MAX_KEY
from common.errors import GateRefused, InputError

MAX_ITEM = 400 * 1024  # bytes, names and values together, before compression
ITEM_BYTES = 100  # of an item: names of the attributes, the partition's name, the time of expiry
MAX_BUCKETS = 1024
POINTER_BYTES = 4096  # of the pointer, in addition to the default rows
EXPLAINED = {  # why a key cannot be published
    "empty_key": "it is empty",
    "long_key": f"it has more than {MAX_KEY:,} bytes",
    "same_place_twice": "two rows have the same position",
    "large_item": f"its rows have more than {MAX_ITEM:,} bytes",
}


@dataclass
class Items:
    """Items in the order of their first rows; and the default content for keys that are not listed, if any.

    The rows of item i are starts[i] to starts[i + 1].
    """

    product: Product
    keys: list[str]
    starts: np.ndarray
    columns: dict[str, pa.Array]  # text, whole numbers, floats of 64 bits, booleans
    default: Any  # content, None if there is none
    rows: int
    unpublishable: dict[str, list[str]]  # left out: keys that cannot be stored, by reason

    def contents(self, first: int, after: int) -> list[Any]:
        """Return the content of each of the items from `first` up to `after`, as plain values."""
        start, end = self.starts[first], self.starts[after]
        rows = content_rows(self.columns, start, end)
        if self.product.order is None:
            return rows
        bounds = (self.starts[first : after + 1] - start).tolist()
        return [rows[begin:stop] for begin, stop in itertools.pairwise(bounds)]


def bucket_count(product: Product, rows: int) -> int:
    """Return the number of partitions of a version: each takes 1,000 writes and 3,000 reads per second.

    It is known before the keys of all shards are: lists are taken to have ten rows.
    """
    return min(MAX_BUCKETS, max(16, rows // (10_000 if product.order else 1000)))


def make_items(table: pa.Table, contract: Contract) -> Items:
    """Return the items of a product's rows, whose numbers are finite, without the keys that cannot be stored.

    Raises GateRefused if the default rows cannot be stored, those without a key.
    """
    product = contract.product
    if product is None:
        raise InputError(f"{contract.name} has no [product], expected the contract of a product; add it.")
    table = table.combine_chunks()
    encoded = table[product.key].combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)  # -1: rows without a key
    positions = table[product.order].to_numpy() if product.order else np.zeros(len(codes), dtype=np.int64)
    shown = table.select([name for name in contract.columns if name not in (product.key, product.order)])
    columns = {name: to_plain(shown[name], contract.columns[name].type) for name in shown.column_names}
    keys = encoded.dictionary.cast(pa.string())
    faults = find_faults(keys, codes, positions, row_sizes(columns, len(codes)))
    check_default(faults, contract)
    names = keys.to_pylist()
    unpublishable, left_out = unpublishable_keys(faults, names)
    kept = np.flatnonzero(~left_out)
    rows, starts = order_rows(codes, positions, kept, len(names))
    columns = {name: values.take(pa.array(rows)) for name, values in columns.items()}
    default = content_rows(columns, 0, int(starts[0]))
    content = default if product.order else next(iter(default), None)
    return Items(
        product,
        [names[code] for code in kept],
        starts,
        columns,
        content if default else None,
        table.num_rows,
        unpublishable,
    )


def find_faults(
    keys: pa.Array, codes: np.ndarray, positions: np.ndarray, bytes_of_rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Mark the keys that cannot be stored, by reason and by code + 1, so that the default rows come first."""
    lengths = pc.binary_length(keys).to_numpy()
    sizes = np.bincount(codes + 1, bytes_of_rows, len(keys) + 1)
    return {
        "empty_key": np.concatenate([[False], lengths == 0]),
        "long_key": np.concatenate([[False], lengths > MAX_KEY]),
        "same_place_twice": mark_keys(codes, mark_repeated(codes, positions), len(keys)),
        "large_item": sizes + np.concatenate([[POINTER_BYTES], lengths + ITEM_BYTES]) > MAX_ITEM,
    }


def unpublishable_keys(faults: dict[str, np.ndarray], names: list[str]) -> tuple[dict[str, list[str]], np.ndarray]:
    """Return the keys with a fault, each under its first reason, and mark them by code."""
    unpublishable, left_out = {}, np.zeros(len(names), dtype=bool)
    for reason, affected in faults.items():
        if (new := affected[1:] & ~left_out).any():
            unpublishable[reason] = [names[code] for code in np.flatnonzero(new)]
            left_out |= new
    return unpublishable, left_out


def order_rows(codes: np.ndarray, positions: np.ndarray, kept: np.ndarray, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to publish, default rows first, then by key and position; and the start of each kept key's."""
    ranks = np.full(keys + 1, -2)  # by code: -2 of keys that are left out, -1 of rows without a key
    ranks[kept], ranks[-1] = np.arange(len(kept)), -1
    rank = ranks[codes]
    rows = np.lexsort((positions, rank))[np.count_nonzero(rank == -2) :]
    return rows, np.searchsorted(rank[rows], np.arange(len(kept) + 1))


def mark_keys(codes: np.ndarray, rows: np.ndarray, keys: int) -> np.ndarray:
    """Mark the keys, by code + 1, of the marked rows."""
    marked = np.zeros(keys + 1, dtype=bool)
    marked[codes[rows] + 1] = True
    return marked


def mark_repeated(codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Mark the rows with the same key and the same position as an earlier row."""
    order = np.lexsort((positions, codes))
    same = (np.diff(codes[order]) == 0) & (np.diff(positions[order]) == 0)
    rows = np.zeros(len(codes), dtype=bool)
    rows[order[1:][same]] = True
    return rows


def check_default(faults: dict[str, np.ndarray], contract: Contract) -> None:
    """Raise GateRefused if the rows without a key cannot be stored: nothing can replace them."""
    for reason, affected in faults.items():
        if affected[0]:
            raise GateRefused(
                f"The default rows of {contract.name}, those without a key, cannot be stored ({EXPLAINED[reason]}); "
                "nothing was written: correct the task that wrote them."
            )


def to_plain(column: pa.ChunkedArray, kind: str) -> pa.Array:
    """Return a column whose values become plain ones; a float's shortest text stays the same."""
    values = column.combine_chunks()
    if kind == "timestamp":
        return pc.strftime(values, "%Y-%m-%dT%H:%M:%SZ")
    if kind == "date":
        return values.cast(pa.string())
    if kind == "float32":
        return values.cast(pa.string()).cast(pa.float64())
    return values


def row_sizes(columns: dict[str, pa.Array], count: int) -> np.ndarray:
    """Return the bytes of each row, counted as DynamoDB counts or a few bytes higher."""
    rows = np.full(count, 4, dtype=np.int64)  # a map in a list
    for name, values in columns.items():
        if pa.types.is_boolean(values.type):
            length = 1
        else:
            length = pc.fill_null(pc.binary_length(values.cast(pa.string())), 1).to_numpy()
            length = length if pa.types.is_string(values.type) else (length + 1) // 2 + 1
        rows += len(name) + 1 + length
    return rows


def content_rows(columns: dict[str, pa.Array], start: int, end: int) -> list[dict[str, Any]]:
    """Return rows as plain values by column."""
    return [dict(zip(columns, row)) for row in zip(*(values[start:end].to_pylist() for values in columns.values()))]

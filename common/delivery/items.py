"""The rows of a product as the items of its table, one for each key that DynamoDB can hold, in its own types."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.contracts import Contract, Product
from common.delivery.reader import MAX_KEY, Item, bucket_of
from common.errors import GateRefused, InputError

MAX_ITEM = 400 * 1024  # bytes, names and values together
ITEM_BYTES = 100  # of an item: names of the attributes, the partition's name, the time of expiry
POINTER_BYTES = 4096  # of the pointer, beside the rows that are shown to whoever is not listed
MIN_NUMBER, GREATEST_NUMBER = 1e-130, 9.9e125  # in absolute value
EXPLAINED = {  # why a key cannot be published
    "empty_key": "it is empty",
    "long_key": f"it has more than {MAX_KEY:,} bytes",
    "number_out_of_range": f"a number is not below {GREATEST_NUMBER}",
    "same_place_twice": "two rows are in the same place",
    "large_item": f"its rows have more than {MAX_ITEM:,} bytes",
}
TAGS = {"string": "S", "date": "S", "timestamp": "S", "boolean": "BOOL"}  # all others are numbers


@dataclass
class Items:
    """Items by bucket, and in a bucket by key; and what is shown to whoever is not listed, if there is anything.

    The rows of item i are starts[i] to starts[i + 1]. Columns are text (booleans of those), with DynamoDB's letter for
    their type. A number that DynamoDB would round to nothing is 0.
    """

    product: Product
    keys: list[str]
    starts: np.ndarray
    buckets: np.ndarray  # the items of bucket b are buckets[b] to buckets[b + 1]
    columns: dict[str, tuple[str, pa.Array]]
    default: Any  # content, None if there is none
    rows: int
    unpublishable: dict[str, list[str]]  # keys that DynamoDB cannot hold, which are left out, by reason

    def contents(self, first: int, after: int) -> list[Any]:
        """What is shown for each of the items from `first` up to `after`, as attribute values."""
        start, end = self.starts[first], self.starts[after]
        rows = content_rows(self.columns, start, end)
        if self.product.order is None:
            return rows
        bounds = (self.starts[first : after + 1] - start).tolist()
        return [{"L": rows[begin:stop]} for begin, stop in itertools.pairwise(bounds)]


def bucket_count(keys: int) -> int:
    """How many partitions a version is spread over: each of them takes 1,000 writes and 3,000 reads a second."""
    return min(1024, max(16, keys // 1000))


def make_items(table: pa.Table, contract: Contract) -> Items:
    """The items of a product's rows, without the keys that DynamoDB cannot hold.

    Raises GateRefused if it cannot hold the rows without a key, which are shown to whoever is not listed.
    """
    product = contract.product
    if product is None:
        raise InputError(f"{contract.name} has no [product], expected the contract of a product; give it one.")
    table = table.combine_chunks()
    encoded = table[product.key].combine_chunks().dictionary_encode()
    keys = encoded.dictionary.cast(pa.string())
    codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)  # -1: rows without a key
    within = table[product.order].to_numpy() if product.order else np.zeros(len(codes), dtype=np.int64)
    shown = {name: table[name] for name in contract.columns if name not in (product.key, product.order)}
    columns = {name: converted(column, contract.columns[name].type) for name, column in shown.items()}
    sizes = np.bincount(codes + 1, row_sizes(columns, len(codes)), len(keys) + 1)
    lengths = pc.binary_length(keys).to_numpy()
    faults = {  # by code + 1
        "empty_key": np.concatenate([[False], lengths == 0]),
        "long_key": np.concatenate([[False], lengths > MAX_KEY]),
        "number_out_of_range": holding(codes, out_of_range(shown, contract), len(keys)),
        "same_place_twice": holding(codes, repeated(codes, within), len(keys)),
        "large_item": sizes + np.concatenate([[POINTER_BYTES], lengths + ITEM_BYTES]) > MAX_ITEM,
    }
    check_default(faults, contract)
    names = keys.to_pylist()
    unpublishable, left_out = {}, np.zeros(len(names), dtype=bool)
    for reason, found in faults.items():
        if (new := found[1:] & ~left_out).any():
            unpublishable[reason] = [names[code] for code in np.flatnonzero(new)]
            left_out |= new
    kept = np.flatnonzero(~left_out).tolist()
    count = bucket_count(len(kept))
    buckets = {code: bucket_of(names[code], count) for code in kept}
    # A key's rank by bucket, then by its bytes. Rows that are left out come first, then those without a key.
    order = sorted(kept, key=lambda code: (buckets[code], names[code].encode()))
    ranks = np.full(len(names) + 1, -2)
    ranks[[*order, -1]] = [*range(len(order)), -1]
    rank = ranks[codes]
    sorting = np.lexsort((within, rank))[np.count_nonzero(rank == -2) :]
    columns = {name: (tag, values.take(pa.array(sorting))) for name, (tag, values) in columns.items()}
    starts = np.searchsorted(rank[sorting], np.arange(len(order) + 1))
    everyone = int(starts[0])
    default = content_rows(columns, 0, everyone)
    return Items(
        product,
        [names[code] for code in order],
        starts,
        np.searchsorted([buckets[code] for code in order], np.arange(count + 1)),
        columns,
        (({"L": default} if product.order else default[0]) if everyone else None),
        table.num_rows,
        unpublishable,
    )


def holding(codes: np.ndarray, rows: np.ndarray, keys: int) -> np.ndarray:
    """The keys, by code + 1, that have one of the rows."""
    found = np.zeros(keys + 1, dtype=bool)
    found[codes[rows] + 1] = True
    return found


def repeated(codes: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The rows that have the same key and the same place in its order as another row."""
    order = np.lexsort((within, codes))
    same = (np.diff(codes[order]) == 0) & (np.diff(within[order]) == 0)
    rows = np.zeros(len(codes), dtype=bool)
    rows[order[1:][same]] = True
    return rows


def out_of_range(columns: dict[str, pa.ChunkedArray], contract: Contract) -> np.ndarray:
    """The rows with a number that DynamoDB does not have: too large, infinite or NaN."""
    rows = np.zeros(len(next(iter(columns.values()))), dtype=bool)
    for name, column in columns.items():
        if contract.columns[name].type in ("float64", "float32"):
            rows |= ~pc.fill_null(pc.less(pc.abs(column), GREATEST_NUMBER), True).to_numpy()
    return rows


def check_default(faults: dict[str, np.ndarray], contract: Contract) -> None:
    """GateRefused if DynamoDB cannot hold the rows without a key: there is nothing to show in their place."""
    for reason, found in faults.items():
        if found[0]:
            raise GateRefused(
                f"The rows of {contract.name} without a key, which are shown to whoever is not listed, cannot be "
                f"stored ({EXPLAINED[reason]}); nothing was written: correct the task that wrote them."
            )


def converted(column: pa.ChunkedArray, kind: str) -> tuple[str, pa.Array]:
    """A column as text, or as booleans, with DynamoDB's letter for its type."""
    values = column.combine_chunks()
    if kind == "timestamp":
        values = pc.strftime(values, "%Y-%m-%dT%H:%M:%SZ")
    elif kind in ("float64", "float32"):
        values = pc.if_else(pc.less(pc.abs(values), MIN_NUMBER), pa.scalar(0, values.type), values)
    return TAGS.get(kind, "N"), values if kind == "boolean" else values.cast(pa.string())


def row_sizes(columns: dict[str, tuple[str, pa.Array]], count: int) -> np.ndarray:
    """Bytes of each row, counted as DynamoDB counts or a few bytes higher."""
    rows = np.full(count, 4, dtype=np.int64)  # a map in a list
    for name, (tag, values) in columns.items():
        length = pc.fill_null(pc.binary_length(values), 1).to_numpy() if tag != "BOOL" else 1
        rows += len(name) + 1 + ((length + 1) // 2 + 1 if tag == "N" else length)
    return rows


def content_rows(columns: dict[str, tuple[str, pa.Array]], start: int, end: int) -> list[Item]:
    """Rows as maps of attribute values."""
    parts = [
        [{tag: value} if value is not None else {"NULL": True} for value in values[start:end].to_pylist()]
        for tag, values in columns.values()
    ]
    return [{"M": dict(zip(columns, row))} for row in zip(*parts)]

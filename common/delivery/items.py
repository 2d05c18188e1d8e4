"""The rows of a product as the items of its table, one a key, in DynamoDB's own types."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.contracts import Contract, Product
from common.delivery.reader import Item, bucket_of
from common.failures import InputError, Refused

LARGEST_ITEM = 400 * 1024  # bytes, names and values together
LONGEST_KEY = 1024  # bytes, of a sort key
LEAST_NUMBER, GREATEST_NUMBER = 1e-130, 9.9e125  # in absolute value
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
    """The items of a product's rows.

    Raises InputError for a key that is empty, too long or given twice and for a number that DynamoDB cannot hold, and
    Refused for an item that is too large.
    """
    product = contract.product
    if product is None:
        raise InputError(f"{contract.name} has no [product], expected the contract of a product; give it one.")
    table = table.combine_chunks()
    encoded = table[product.key].combine_chunks().dictionary_encode()
    names = encoded.dictionary.cast(pa.string()).to_pylist()
    check_keys(names, product, contract)
    count = bucket_count(len(names))
    buckets = np.array([bucket_of(name, count) for name in names], dtype=np.int64)
    # A key's rank by bucket, then by its bytes; -1 is for the rows without one, which come first.
    order = sorted(range(len(names)), key=lambda position: (buckets[position], names[position].encode()))
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[order] = np.arange(len(names))
    codes = encoded.indices.fill_null(-1).to_numpy()
    rank = np.where(codes >= 0, ranks[codes], -1) if len(names) else np.full(len(codes), -1)
    within = table[product.order].to_numpy() if product.order else np.zeros(len(rank), dtype=np.int64)
    sorting = np.lexsort((within, rank))
    check_single(rank[sorting], within[sorting], [names[position] for position in order], product, contract)
    shown = [name for name in contract.columns if name not in (product.key, product.order)]
    columns = {name: converted(table[name].take(pa.array(sorting)), name, contract) for name in shown}
    starts = np.searchsorted(rank[sorting], np.arange(len(names) + 1))
    everyone = int(starts[0])
    default = content_rows(columns, 0, everyone)
    items = Items(
        product,
        [names[position] for position in order],
        starts,
        np.searchsorted(buckets[order], np.arange(count + 1)),
        columns,
        (({"L": default} if product.order else default[0]) if everyone else None),
        table.num_rows,
    )
    check_sizes(items, contract)
    return items


def check_keys(keys: list[str], product: Product, contract: Contract) -> None:
    for key in keys:
        if not 0 < len(key.encode()) <= LONGEST_KEY:
            raise InputError(
                f"A {product.key} of {contract.name} has {len(key.encode()):,} bytes ('{key[:40]}'), "
                f"DynamoDB allows 1 to {LONGEST_KEY:,}; correct the task that wrote it."
            )


def check_single(rank: np.ndarray, within: np.ndarray, keys: list[str], product: Product, contract: Contract) -> None:
    twice = np.flatnonzero((np.diff(rank) == 0) & (np.diff(within) == 0))
    if len(twice):
        place = rank[twice[0]]
        what = f"{product.order} {within[twice[0]]}" if product.order else "row"
        raise InputError(
            f"{contract.name} has {len(twice):,} rows too many: {product.key} '{keys[place] if place >= 0 else None}' "
            f"has the same {what} twice, expected one each; correct the task that wrote them."
        )


def converted(column: pa.ChunkedArray, name: str, contract: Contract) -> tuple[str, pa.Array]:
    """A column as text, or as booleans, with DynamoDB's letter for its type."""
    kind = contract.columns[name].type
    values = column.combine_chunks()
    if kind == "timestamp":
        values = pc.strftime(values, "%Y-%m-%dT%H:%M:%SZ")
    elif kind in ("number", "small_number"):
        size = pc.abs(values)
        if bad := pc.sum(pc.greater_equal(size, GREATEST_NUMBER)).as_py():
            raise InputError(
                f"{bad:,} values in '{name}' of {contract.name} are beyond {GREATEST_NUMBER}, expected numbers that "
                "DynamoDB holds; correct the task that wrote them."
            )
        values = pc.if_else(pc.less(size, LEAST_NUMBER), pa.scalar(0, values.type), values)
    return TAGS.get(kind, "N"), values if kind == "boolean" else values.cast(pa.string())


def check_sizes(items: Items, contract: Contract) -> None:
    """Refused if an item is larger than DynamoDB allows, counted as it counts or a few bytes higher."""
    rows = np.full(len(next(iter(items.columns.values()))[1]), 4, dtype=np.int64)  # a map in a list
    for name, (tag, values) in items.columns.items():
        length = pc.fill_null(pc.binary_length(values), 1).to_numpy() if tag != "BOOL" else 1
        rows += len(name) + 1 + ((length + 1) // 2 + 1 if tag == "N" else length)
    totals = np.concatenate([[0], np.cumsum(rows)])
    sizes = totals[items.starts[1:]] - totals[items.starts[:-1]]
    keys = np.array([len(key.encode()) for key in items.keys], dtype=np.int64)
    sizes += keys + 100  # names of the attributes, the partition's name, the time of expiry
    for key, size in [*zip(items.keys, sizes.tolist()), (None, int(totals[items.starts[0]]) + 1000)]:
        if size > LARGEST_ITEM:
            raise Refused(
                f"The item of {items.product.key} '{key}' in {contract.name} has {size:,} bytes, DynamoDB allows "
                f"{LARGEST_ITEM:,}; nothing was written: shorten its rows or show fewer."
            )


def content_rows(columns: dict[str, tuple[str, pa.Array]], start: int, end: int) -> list[Item]:
    """Rows as maps of attribute values."""
    parts = [
        [{tag: value} if value is not None else {"NULL": True} for value in values[start:end].to_pylist()]
        for tag, values in columns.values()
    ]
    return [{"M": dict(zip(columns, row))} for row in zip(*parts)]

"""Exact top items of each user, in blocks of users, from scores computed block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from common.recommending.blocks import blocks, in_parallel
from common.recommending.histories import Floats

SMALLEST = np.finfo(np.float32).smallest_subnormal
FLOAT_BITS, MAX_FLOAT = 31, 2**31 - 1  # of positive floats
MAX_BLOCK = 4096  # rows
BLOCK_VALUES = 2_000_000  # scores per block of users: 8 MB, to stay near the cache

Positions = NDArray[np.int64]
Entries = tuple[Positions, Positions, Floats]  # rows, columns, values


class Ranking(NamedTuple):
    """Recommendations, one per entry: row (user), rank (from 0), item (position), score; by row, then by rank."""

    rows: Positions
    ranks: Positions
    items: Positions
    scores: Floats


class Scorer(Protocol):
    """A model applied to the histories of some users, its rows."""

    @property
    def width(self) -> int:
        """Approximate number of scores per user in memory: all items, or fewer if scores are sparse."""

    def scores(self, part: slice) -> Floats | sp.csr_matrix:
        """Return the scores of a block of rows, which the caller may modify: users x catalogue; missing ones are 0."""

    def reasons(self, ranking: Ranking) -> tuple[Positions, Floats]:
        """Return the item of the history that contributed most to each entry, and the score of the entry.

        The item is -1 without a contribution; ties go to the lower position. O(entries x items of the user) time and
        memory: call it block by block.
        """


class NonPersonalizedScorer:
    """The same scores (items) for every user, for example popularity."""

    def __init__(self, scores: NDArray[np.floating]) -> None:
        self.same = np.asarray(scores, dtype=np.float32)
        self.width = len(self.same)

    def scores(self, part: slice) -> Floats:
        return np.tile(self.same, (part.stop - part.start, 1))

    def reasons(self, ranking: Ranking) -> tuple[Positions, Floats]:
        return np.full(len(ranking.items), -1), self.same[ranking.items]


def rank(
    scorer: Scorer,
    users: int,
    count: int,
    exclude: sp.csr_matrix | None = None,
    only: sp.csr_matrix | None = None,
) -> Iterator[Ranking]:
    """Yield the `count` items of highest positive score of each row, by block; ties go to the lower position.

    Items stored in a row of `exclude`, or not stored in one of `only` (users x items, ones), are left out, as are
    scores of zero and below: a user may get fewer items, or none. Exact. Memory: one block of 8 MB per core, never
    users x items. Time: the scores, and two passes over them.
    """

    def of_block(part: slice) -> Ranking:
        block = scorer.scores(part)
        if only is not None:
            block = entries_of(block, only[part])
        excluded = None if exclude is None else exclude[part]
        rows, columns, values = top_of_sparse(block, count, excluded) if sp.issparse(block) else top(block, excluded)
        return Ranking(rows + part.start, cumcount(rows), columns, values)

    def top(block: Floats, excluded: sp.csr_matrix | None) -> Entries:
        if excluded is not None:
            block[rows_of(excluded), excluded.indices] = 0
        return top_entries(block, count)

    yield from in_parallel(of_block, blocks(users, min(MAX_BLOCK, BLOCK_VALUES // max(1, scorer.width))))


def entries_of(block: Floats | sp.csr_matrix, own: sp.csr_matrix) -> sp.csr_matrix:
    """Return the entries of a block that are stored in `own`, which has ones."""
    if isinstance(block, np.ndarray):
        return sp.csr_matrix((block[rows_of(own), own.indices], own.indices, own.indptr), shape=own.shape)
    return block.multiply(own).tocsr()


def concatenate(rankings: list[Ranking]) -> Ranking:
    """Return blocks of a ranking as one."""
    if not rankings:
        empty = np.zeros(0, dtype=np.int64)
        return Ranking(empty, empty, empty, np.zeros(0, dtype=np.float32))
    return Ranking(*(np.concatenate(arrays) for arrays in zip(*rankings, strict=True)))


def top_entries(block: Floats, count: int) -> Entries:
    """Return rows, columns, values of the `count` largest positive entries per row; best first, ties to lower columns.

    Exact by a threshold: the columns are split into at least `count` groups, and the count-th largest of the group
    maxima of a row is at most its count-th largest value, so only entries from that threshold need sorting. One pass
    over the block for the maxima and one for the comparison; memory: one bit per entry and the sorted entries.
    """
    rows, columns = block.shape
    if not (rows and columns and count > 0):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    threshold = np.full(rows, SMALLEST, dtype=np.float32)
    groups = 4 * count
    if columns > 2 * groups:
        deep = columns // groups
        maxima = block[:, : deep * groups].reshape(rows, deep, groups).max(axis=1)
        np.maximum(threshold, np.partition(maxima, groups - count, axis=1)[:, groups - count], out=threshold)
    row, column = np.nonzero(block >= threshold[:, None])
    return first_entries(row, column, block[row, column], count)


def top_of_sparse(block: sp.csr_matrix, count: int, excluded: sp.csr_matrix | None = None) -> Entries:
    """Return `top_entries` of a sparse block without the entries stored in `excluded`, from the stored entries only.

    Of a row with e excluded entries the count + e largest are candidates: at most e of them are removed.
    """
    rows, columns = block.shape
    if not (block.nnz and count > 0):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    lengths = np.diff(block.indptr)
    wanted = np.full(rows, count) if excluded is None else count + np.diff(excluded.indptr)
    threshold = np.full(rows, SMALLEST, dtype=np.float32)
    groups = 4 * int(np.median(wanted))
    long = np.flatnonzero((lengths > 2 * groups) & (wanted <= groups))
    if len(long):
        bounds = block.indptr[long, None] + lengths[long, None] * np.arange(groups + 1, dtype=np.int64) // groups
        bounds = np.minimum(bounds, block.nnz - 1)  # the last group of the last row omits its last entry
        maxima = np.maximum.reduceat(block.data, bounds.ravel()).reshape(bounds.shape)[:, :groups]
        maxima.sort(axis=1)
        np.maximum(SMALLEST, maxima[np.arange(len(long)), groups - wanted[long]], out=maxima[:, 0])
        threshold[long] = maxima[:, 0]
    position = np.flatnonzero(block.data >= np.repeat(threshold, lengths))
    row = np.searchsorted(block.indptr, position, side="right") - 1
    column, value = block.indices[position].astype(np.int64), block.data[position]
    if excluded is not None:
        keys = np.sort(rows_of(excluded) * columns + excluded.indices)
        kept = ~is_in(row * columns + column, keys)
        row, column, value = row[kept], column[kept], value[kept]
    return first_entries(row, column, value, count)


def first_entries(row: Positions, column: Positions, value: Floats, count: int) -> Entries:
    """Return the `count` largest positive values of each row; best first, ties to the lower column.

    Sorts integers packed from row, value and column, many times faster than sorting by three keys. The bits of positive
    floats have the order of the floats.
    """
    if not len(row):
        return row, column, value
    width = int(column.max()).bit_length()
    if int(row.max()).bit_length() + FLOAT_BITS + width > 64:
        raise ValueError(
            f"{row.max() + 1} rows of {column.max() + 1} columns are too many for one block: use smaller blocks"
        )
    below = np.uint64(MAX_FLOAT) - value.view(np.uint32).astype(np.uint64)
    keys = (
        (row.astype(np.uint64) << np.uint64(FLOAT_BITS + width))
        | (below << np.uint64(width))
        | column.astype(np.uint64)
    )
    keys.sort()
    row = (keys >> np.uint64(FLOAT_BITS + width)).astype(np.int64)
    number = cumcount(row)
    keys, row = keys[number < count], row[number < count]
    column = (keys & np.uint64((1 << width) - 1)).astype(np.int64)
    bits = np.uint64(MAX_FLOAT) - ((keys >> np.uint64(width)) & np.uint64(MAX_FLOAT))
    return row, column, bits.astype(np.uint32).view(np.float32)


def is_in(values: Positions, ascending: Positions) -> NDArray[np.bool_]:
    """Mark the values that are among the ascending ones."""
    if not len(ascending):
        return np.zeros(len(values), dtype=bool)
    equal: NDArray[np.bool_] = ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values
    return equal


def rows_of(matrix: sp.csr_matrix) -> Positions:
    """Return the row of each stored entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def cumcount(*keys: NDArray[Any]) -> Positions:
    """Return the number, from 0, of each entry among those with equal keys, which must be adjacent."""
    starts = np.ones(len(keys[0]), dtype=bool)
    starts[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    positions = np.arange(len(starts))
    numbers: Positions = positions - np.maximum.accumulate(np.where(starts, positions, 0))
    return numbers

"""The best items of each user, exactly and in blocks of users, and why a model ranked them there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from common.recommending.blocks import blocks, in_parallel
from common.recommending.histories import Floats, History, user_vectors

BLOCK_VALUES = 2_000_000  # dense scores of a block of users x items: 8 MB, to stay near the cache

Positions = NDArray[np.int64]
Scores = Callable[[slice], Floats]  # dense scores, users of the slice x items


class Ranking(NamedTuple):
    """Recommendations, one entry each: row (user), rank (from 0), item (position), score; by row, then by rank."""

    rows: Positions
    ranks: Positions
    items: Positions
    scores: Floats


@dataclass(frozen=True)
class ItemModel:
    """A model of items that score items. With x the vector of a user, the score of item j is

        (sum over i of x[i] weights[i, j] + own x[j]) factor[j].

    weights: items x items of the model, dense or sparse rows, zero diagonal. own: weight of an item for itself, which
    matters only where repeat purchases are recommended. factor: of each item, positive. columns: the positions of the
    model's items in the catalogue, ascending. half_life: of the user vectors, in days.
    """

    weights: Floats | sp.csr_matrix
    columns: Positions
    factor: Floats
    own: float
    half_life: float

    def vectors(self, pairs: History) -> sp.csr_matrix:
        """Users x items of the model. O(pairs)."""
        vectors = user_vectors(pairs, self.half_life)
        if len(self.columns) < pairs.item_count:
            vectors = vectors[:, self.columns]
        vectors.sort_indices()
        return vectors

    def scores(self, vectors: sp.csr_matrix) -> Scores:
        """Scores by the formula above for blocks of users; O(pairs of the block x items) time for dense weights."""

        def of_block(part: slice) -> Floats:
            some = vectors[part]
            product = some @ self.weights
            block: Floats = product.toarray() if sp.issparse(product) else product
            if self.own:
                block[_rows(some), some.indices] += np.float32(self.own) * some.data
            block *= self.factor
            return block

        return of_block

    def reasons(self, vectors: sp.csr_matrix, ranking: Ranking) -> Positions:
        """Per entry the item i of the user's history with the largest part x[i] weights[i, j] (i = j: own x[j]).

        Positions among the model's items; -1 where no part is positive. Ties go to the lower position. `ranking` holds
        positions among the model's items too. O(entries x items of the user) time and memory: call it block by block.
        """
        lengths = np.diff(vectors.indptr)[ranking.rows]
        starts = np.cumsum(lengths) - lengths
        entry = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(lengths.sum()) - np.repeat(starts - vectors.indptr[ranking.rows], lengths)
        source, target = vectors.indices[place], ranking.items[entry]
        part = np.asarray(self.weights[source, target]).ravel()
        part[source == target] = self.own
        part *= vectors.data[place]
        result = np.full(len(lengths), -1, dtype=np.int64)
        best = np.zeros(len(lengths), dtype=part.dtype)
        np.maximum.at(best, entry, part)
        found = np.flatnonzero((part == best[entry]) & (part > 0))
        which, first = np.unique(entry[found], return_index=True)
        result[which] = source[found[first]]
        return result


def same_for_all(scores: Floats) -> Scores:
    """The same scores (items) for every user, such as a popularity."""
    return lambda part: np.tile(np.asarray(scores, dtype=np.float32), (part.stop - part.start, 1))


def rank(scores: Scores, users: int, items: int, count: int, exclude: sp.csr_matrix | None = None) -> Iterator[Ranking]:
    """The `count` items of highest positive score for each of `users` rows, block by block; ties to the lower position.

    Items stored in a row of `exclude` (users x items) are left out, as are scores of zero and below: a user may get
    fewer items, or none. Exact. Memory: one block of 8 MB per core, never users x items. Time: that of the scores, and
    two passes over them.
    """

    def of_block(part: slice) -> Ranking:
        block = scores(part)
        if exclude is not None:
            excluded = exclude[part]
            block[_rows(excluded), excluded.indices] = 0
        rows, columns, values = top_entries(block, count)
        ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
        return Ranking(rows + part.start, ranks, columns, values)

    yield from in_parallel(of_block, blocks(users, BLOCK_VALUES // max(1, items)))


def joined(rankings: list[Ranking]) -> Ranking:
    """Blocks of a ranking as one."""
    if not rankings:
        nothing = np.zeros(0, dtype=np.int64)
        return Ranking(nothing, nothing, nothing, np.zeros(0, dtype=np.float32))
    return Ranking(*(np.concatenate(arrays) for arrays in zip(*rankings, strict=True)))


def top_entries(block: Floats, count: int) -> tuple[Positions, Positions, Floats]:
    """Rows, columns, values of the `count` largest positive entries of each row; best first, ties to the lower column.

    Exact by a threshold: the columns are dealt into groups, at least `count` of them, and the count-th largest of the
    group maxima of a row is at most its count-th largest value, so that only entries from there on need sorting. One
    pass over the block for the maxima and one for the comparison; memory: a bit of each entry and what is sorted.
    """
    rows, columns = block.shape
    if not (rows and columns and count > 0):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    threshold = np.full(rows, np.finfo(np.float32).smallest_subnormal, dtype=np.float32)
    groups = 4 * count
    if columns > 2 * groups:
        deep = columns // groups
        maxima = block[:, : deep * groups].reshape(rows, deep, groups).max(axis=1)
        np.maximum(threshold, np.partition(maxima, groups - count, axis=1)[:, groups - count], out=threshold)
    row, column = np.nonzero(block >= threshold[:, None])
    value = block[row, column]
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < count
    return row[kept], column[kept], value[kept]


def _rows(matrix: sp.csr_matrix) -> Positions:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))

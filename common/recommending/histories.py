"""Items of users before one moment, as aligned arrays, and the matrices that models take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BY_NOTHING, BY_EVENTS, BY_WEIGHT = 0.0, 1.0, 2.0  # what the strength of a pair counts


@dataclass(frozen=True)
class History:
    """Pairs of users and items in compressed rows: `indices[indptr[u]:indptr[u + 1]]` are the items of user u.

    indptr (users + 1), indices (pairs, positions of items), events (pairs, target events of the pair: 0 if it was only
    looked at), weight (pairs, by the tracking plan), age (pairs, days from its last event to the moment), item_count
    (the catalogue's size).
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    events: Floats
    weight: Floats
    age: Floats
    item_count: int

    def __post_init__(self) -> None:
        for name in ("events", "weight", "age"):
            values = getattr(self, name)
            if len(values) != len(self.indices):
                raise ValueError(f"{name} of a history has {len(values)} values for {len(self.indices)} pairs")
            if not np.isfinite(values).all() or (values < 0).any():
                raise ValueError(
                    f"{name} of a history must be finite and not negative: filter or repair the pairs first"
                )
        if len(self.indices) and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < self.item_count:
            raise ValueError(f"a history of {self.item_count} items contains positions outside of them")

    @property
    def user_count(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of items of each user."""
        return np.diff(self.indptr)

    def matrix(self, values: Floats) -> sp.csr_matrix:
        """Return users x items with one value per pair; shares the index arrays."""
        return sp.csr_matrix((values, self.indices, self.indptr), shape=(self.user_count, self.item_count), copy=False)

    def rows(self, users: NDArray[np.int64] | slice) -> History:
        """Return the history of some users, in the given order. Time and memory: the pairs kept."""
        numbers = self.matrix(np.arange(len(self.indices), dtype=np.float64))[users]
        kept = numbers.data.astype(np.int64)
        values = self.indices[kept], self.events[kept], self.weight[kept], self.age[kept]
        return History(numbers.indptr.astype(np.int64), *values, self.item_count)


def history(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    exists: NDArray[np.bool_],
    events: NDArray[np.generic],
    weight: NDArray[np.generic],
    age: NDArray[np.generic],
    item_count: int,
) -> History:
    """Return the pairs of a larger table that exist as of a moment; users without any keep an empty row.

    `exists`, `events`, `weight` and `age` have one value per pair of `indices`. One pass, memory of the pairs kept.
    """
    before = np.concatenate(([0], np.cumsum(exists, dtype=np.int64)))
    return History(
        before[indptr],
        indices[exists].astype(np.int32),
        events[exists].astype(np.float32),
        weight[exists].astype(np.float32),
        age[exists].astype(np.float32),
        item_count,
    )


def decay(age: Floats, half_life: float) -> Floats:
    """Return 2^(-age / half_life), shapes as `age`, both in days; ones for an infinite half-life."""
    decayed: Floats = np.exp2(-age / np.float32(half_life), dtype=np.float32)
    return decayed


def without_long_rows(pairs: History, most: int) -> History:
    """Return the pairs with empty rows for users of more than `most` items: little signal, and a quadratic cost."""
    too_long = pairs.lengths > most
    if not too_long.any():
        return pairs
    kept = ~np.repeat(too_long, pairs.lengths)
    return history(pairs.indptr, pairs.indices, kept, pairs.events, pairs.weight, pairs.age, pairs.item_count)


def strength(pairs: History, counting: float) -> Floats:
    """Return the strength of each pair: log2(1 + target events), so 1 for one and 0 for none; its weight; or 1."""
    if counting == BY_EVENTS:
        return np.log2(1 + pairs.events, dtype=np.float32)
    return pairs.weight if counting == BY_WEIGHT else np.ones_like(pairs.events)


def fitting_matrix(pairs: History, half_life: float, counting: float) -> sp.csr_matrix:
    """Return users x items to fit on: 2^(-age / half_life) for each pair, times its strength; mean 1 of all pairs.

    The mean is 1 so that one grid of regularizations serves data of any age; a mean of 0 stays 0.
    """
    weights = decay(pairs.age, half_life) * strength(pairs, counting)
    mean = weights.mean(dtype=np.float64, where=weights > 0) if (weights > 0).any() else 0.0
    return _without_zeros(pairs.matrix(weights / np.float32(mean) if mean > 0 else weights))


def user_vectors(pairs: History, half_life: float, counting: float) -> sp.csr_matrix:
    """Return users x items to score from: strength * 2^(-age / half_life) for each pair."""
    vectors = _without_zeros(pairs.matrix(strength(pairs, counting) * decay(pairs.age, half_life)))
    vectors.sort_indices()
    return vectors


def _without_zeros(matrix: sp.csr_matrix) -> sp.csr_matrix:
    if (matrix.data == 0).any():
        matrix = matrix.copy()  # the index arrays are shared
        matrix.eliminate_zeros()
    return matrix

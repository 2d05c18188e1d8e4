"""Purchases of users before one moment, as aligned arrays, and the matrices that models take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MAX_FITTED = 5_000  # items; users above this are resellers or bots: little signal, quadratic cost


@dataclass(frozen=True)
class History:
    """Pairs of users and items in compressed rows: `indices[indptr[u]:indptr[u + 1]]` are the items of user u.

    indptr (users + 1), indices (pairs, positions of items), events (pairs, purchases of the pair),
    age (pairs, days from its last purchase to the moment), item_count (the catalogue's size).
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    events: Floats
    age: Floats
    item_count: int

    def __post_init__(self) -> None:
        for name in ("events", "age"):
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
        return History(
            numbers.indptr.astype(np.int64), self.indices[kept], self.events[kept], self.age[kept], self.item_count
        )


def history(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    exists: NDArray[np.bool_],
    events: NDArray[np.generic],
    age: NDArray[np.generic],
    item_count: int,
) -> History:
    """Return the pairs of a larger table that exist as of a moment; users without any keep an empty row.

    `exists`, `events` and `age` have one value per pair of `indices`. One pass, memory of the pairs kept.
    """
    before = np.concatenate(([0], np.cumsum(exists, dtype=np.int64)))
    return History(
        before[indptr],
        indices[exists].astype(np.int32),
        events[exists].astype(np.float32),
        age[exists].astype(np.float32),
        item_count,
    )


def decay(age: Floats, half_life: float) -> Floats:
    """Return 2^(-age / half_life), shapes as `age`, both in days; ones for an infinite half-life."""
    decayed: Floats = np.exp2(-age / np.float32(half_life), dtype=np.float32)
    return decayed


def strength(events: Floats) -> Floats:
    """Return the weight of a pair by its number of purchases: log2(1 + purchases), so 1 for one."""
    return np.log2(1 + events, dtype=np.float32)


def fitting_matrix(pairs: History, half_life: float, counting: bool) -> sp.csr_matrix:
    """Return users x items to fit on: 2^(-age / half_life) for each pair, times its strength if `counting`; mean 1.

    The mean is 1 so that one grid of regularizations serves data of any age; a mean of 0 stays 0. The rows of users
    with more than MAX_FITTED items are empty.
    """
    too_long = pairs.lengths > MAX_FITTED
    if too_long.any():
        kept = ~np.repeat(too_long, pairs.lengths)
        pairs = history(pairs.indptr, pairs.indices, kept, pairs.events, pairs.age, pairs.item_count)
    weights = decay(pairs.age, half_life)
    if counting:
        weights = weights * strength(pairs.events)
    mean = weights.mean(dtype=np.float64) if len(weights) else 0.0
    return pairs.matrix(weights / np.float32(mean) if mean > 0 else weights)


def user_vectors(pairs: History, half_life: float) -> sp.csr_matrix:
    """Return users x items to score from: strength * 2^(-age / half_life) for each pair."""
    return pairs.matrix(strength(pairs.events) * decay(pairs.age, half_life))

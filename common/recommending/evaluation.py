"""Quality of rankings on the later target events of users, with its sampling noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from common.recommending.histories import History
from common.recommending.ranking import Positions, Ranking, cumcount, is_in

Numbers = NDArray[np.float64]
DEPTH = 10


@dataclass(frozen=True)
class Truth:
    """Items of the target events of each user (row) in a window: those stored in `items` (users x items, binary)."""

    items: sp.csr_matrix

    @property
    def counts(self) -> Positions:
        """Number of items of each user."""
        return np.diff(self.items.indptr).astype(np.int64)

    @cached_property
    def keys(self) -> Positions:
        """The pairs as row * items + item, ascending."""
        rows = np.repeat(np.arange(self.items.shape[0], dtype=np.int64), self.counts)
        return np.sort(rows * self.items.shape[1] + self.items.indices)

    def only(self, items: NDArray[np.bool_]) -> Truth:
        """Return the marked ones of the items (items). O(pairs)."""
        kept = self.items.copy()
        kept.data = items[kept.indices].astype(kept.data.dtype)
        kept.eliminate_zeros()
        return Truth(kept)

    def new_to_users(self, pairs: History) -> Truth:
        """Return the items that are not in the user's row of `pairs`. O(pairs)."""
        kept = self.items - self.in_history(pairs).items
        kept.eliminate_zeros()
        return Truth(kept)

    def in_history(self, pairs: History) -> Truth:
        """Return the items that are in the user's row of `pairs`. O(pairs)."""
        return Truth(self.items.multiply(pairs.matrix(np.ones_like(pairs.events)) > 0).tocsr())


@dataclass(frozen=True)
class Quality:
    """Quality per user with items in the truth: row, nDCG, recall and average precision at 10."""

    rows: Positions
    ndcg: Numbers
    recall: Numbers
    precision: Numbers

    def means(self) -> dict[str, float]:
        """Return means over users; `map` is the mean of the average precisions. All 0 without users."""
        values = {"ndcg": self.ndcg, "recall": self.recall, "map": self.precision}
        return {name: float(value.mean()) if len(value) else 0.0 for name, value in values.items()}


def quality(ranking: Ranking, truth: Truth) -> Quality:
    """Return nDCG@10, recall@10 and AP@10 per user.

    nDCG@10 = sum over hits of 1 / log2(rank + 2), over that of the ideal list of min(10, n) hits; rank from 0.

    Recall@10 = hits / n, and AP@10 = sum over hits of precision at the hit / n, with n the user's items in the
    truth, including those that no model can know. Users without items in the truth are left out; users without
    recommendations count as 0. (Jarvelin and Kekalainen 2002; AP as in the recommenders project.) O(entries log pairs).
    """
    users, items = truth.items.shape
    top = ranking.ranks < DEPTH
    rows, ranks = ranking.rows[top], ranking.ranks[top]
    hit = is_in(rows * items + ranking.items[top], truth.keys)
    rows, ranks = rows[hit], ranks[hit]
    order = np.lexsort((ranks, rows))
    rows, ranks = rows[order], ranks[order]
    hits_until = cumcount(rows) + 1
    discounts = 1 / np.log2(np.arange(DEPTH) + 2)
    ideal = np.cumsum(discounts)
    evaluated = np.flatnonzero(truth.counts)
    counts = truth.counts[evaluated]

    def per_user(values: Numbers) -> Numbers:
        return np.bincount(rows, values, minlength=users)[evaluated].astype(np.float64)

    return Quality(
        evaluated,
        per_user(discounts[ranks]) / ideal[np.minimum(counts, DEPTH) - 1],
        per_user(np.ones(len(rows))) / counts,
        per_user(hits_until / (ranks + 1)) / counts,
    )


def coverage(ranking: Ranking, items: int) -> float:
    """Return the share of `items` in the first 10 of at least one user."""
    return len(np.unique(ranking.items[ranking.ranks < DEPTH])) / max(1, items)


def interval(values: Numbers, seed: int, resamples: int = 500) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values` (users), by the percentile bootstrap over users (Efron 1979).

    O(resamples x users) time, O(users) memory. (0, 0) without users.
    """
    if not len(values):
        return 0.0, 0.0
    random = np.random.default_rng(seed)
    means = [values[random.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


LENGTHS = (1, 5, 20, 100)  # groups of users by items in their history: 1-4, 5-19, 20-99, 100 and more


def by_length(result: Quality, lengths: Positions) -> dict[str, dict[str, float]]:
    """Return the number of users and mean nDCG@10 by length of history; `lengths`: items in each row's history."""
    lengths = lengths[result.rows]
    groups = {}
    for low, high in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        inside = (lengths >= low) if high is None else (lengths >= low) & (lengths < high)
        mean = float(result.ndcg[inside].mean()) if inside.any() else 0.0
        groups[f"{low}+" if high is None else f"{low}-{high - 1}"] = {"users": int(inside.sum()), "ndcg": mean}
    return groups

"""MovieLens 100K, split as the recommenders project splits it, and two of its published figures, to reproduce."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from common.recommending.evaluation import Truth, quality
from common.recommending.histories import History
from common.recommending.item_model import ItemModel, ItemScorer
from common.recommending.models import NEW, limits
from common.recommending.popularity import popularity
from common.recommending.ranking import NonPersonalizedScorer, Scorer, concatenate, rank
from common.recommending.scoring import Scoring

Table = NDArray[np.int64]  # user, item, rating, seconds since 1970; one row per rating
HARNESS = {"popularity": (0.2522, 5e-4), "SAR": (0.3938, 5e-5)}  # nDCG@10; ties of popularity are in any order


def ratings(source: Path) -> Table:
    """Read the ratings in their original order, of u.data or of a copy with a header; SystemExit for other files."""
    with source.open() as lines:
        table = np.loadtxt((line for line in lines if line[:1].isdigit()), dtype=np.int64)
    if table.shape != (100_000, 4):
        raise SystemExit(f"{source} has {table.shape} numbers, MovieLens 100K has 100,000 rows of 4; name its u.data.")
    table[:, :2] = np.stack([np.unique(table[:, column], return_inverse=True)[1] for column in (0, 1)], axis=1)
    return table


def split(table: Table, seed: int) -> tuple[Table, Table]:
    """Split into three quarters of each item's ratings, drawn by the seed, and the rest.

    Equals `python_stratified_split(ratio=.75, filter_by="item")` of the recommenders project.
    """
    order = np.lexsort((np.random.RandomState(seed).rand(len(table)), table[:, 1]))
    items = table[order, 1]
    number = np.arange(len(items)) - np.searchsorted(items, items) + 1
    kept = number <= np.round(0.75 * np.bincount(items)[items])
    return table[order[kept]], table[order[~kept]]


def matrix(table: Table, values: NDArray[np.generic], shape: tuple[int, int]) -> sp.csr_matrix:
    result = sp.csr_matrix((values.astype(np.float32), (table[:, 0], table[:, 1])), shape=shape)
    result.sort_indices()
    return result


def problem(train: Table, test: Table, shape: tuple[int, int]) -> tuple[History, Truth]:
    """Return histories in which a rating r counts as r purchases today, and the truth: all of `test`."""
    rated = matrix(train, train[:, 2], shape)
    pairs = History(
        rated.indptr.astype(np.int64), rated.indices, rated.data, rated.data, np.zeros_like(rated.data), shape[1]
    )
    return pairs, Truth(matrix(test, np.ones(len(test)), shape).astype(np.int8))


def harness(train: Table, pairs: History, truth: Truth) -> dict[str, float]:
    """Return nDCG@10 of popularity and of the published SAR (Jaccard similarity, ratings halved every 30 days)."""
    items = pairs.item_count
    bought = pairs.matrix(np.ones_like(pairs.events))
    together = (bought.T @ bought).toarray()
    alone = np.diag(together)
    jaccard = (together / np.maximum(alone[:, None] + alone - together, 1)).astype(np.float32)
    age = (train[:, 3].max() - train[:, 3]) / 86_400
    affinity = matrix(train, train[:, 2] * 2 ** (-age / 30), (pairs.user_count, items))
    model = ItemModel(sp.csr_matrix((items, items), dtype=np.float32), jaccard, np.arange(items), Scoring(30.0))
    results = {}
    scorers: dict[str, Scorer] = {
        "popularity": NonPersonalizedScorer(popularity(pairs)),
        "SAR": ItemScorer(model, affinity),
    }
    for name, scorer in scorers.items():
        ranking = concatenate(list(rank(scorer, pairs.user_count, 10, **limits(pairs, NEW))))
        results[name] = quality(ranking, truth).means()["ndcg"]
        expected, allowed = HARNESS[name]
        if abs(results[name] - expected) > allowed:
            raise SystemExit(f"{name} has nDCG@10 {results[name]:.4f}, expected {expected}: the protocol differs.")
    return results

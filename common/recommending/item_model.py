"""Models of weights from item to item: sparse over the catalogue, dense over its head, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from common.recommending.histories import Floats, History, user_vectors
from common.recommending.ranking import Positions, Ranking

SPARSE_PARTS = ("data", "indices", "indptr")


@dataclass(frozen=True)
class ItemModel:
    """With x the vector of a user, the score of item j is the sum over i of x[i] W[i, j].

    W is `sparse` (catalogue x catalogue) plus `dense` (head x head) at the positions `head` (ascending). Its diagonal
    is what a purchase says of buying the same again. half_life: of the user vectors, in days.
    """

    sparse: sp.csr_matrix
    dense: Floats
    head: Positions
    half_life: float
    kind = "items"

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float]) -> ItemModel:
        """The model whose `arrays` and `numbers` these are."""
        items = len(arrays["sparse_indptr"]) - 1
        parts = tuple(arrays[f"sparse_{part}"] for part in SPARSE_PARTS)
        return cls(sp.csr_matrix(parts, shape=(items, items)), arrays["dense"], arrays["head"], **numbers)

    def scorer(self, pairs: History) -> ItemScorer:
        """Scores for the rows of `pairs`. O(pairs)."""
        return ItemScorer(self, user_vectors(pairs, self.half_life))

    def arrays(self) -> dict[str, np.ndarray]:
        parts = {f"sparse_{part}": getattr(self.sparse, part) for part in SPARSE_PARTS}
        return {"dense": self.dense, "head": self.head, **parts}

    def numbers(self) -> dict[str, float]:
        return {"half_life": self.half_life}


class ItemScorer:
    """An ItemModel at work; the scores stay sparse where the model is and few of them are not 0."""

    def __init__(self, model: ItemModel, vectors: sp.csr_matrix) -> None:
        vectors.sort_indices()
        self.model, self.vectors = model, vectors
        users, items = vectors.shape
        self.whole_head = len(model.head) == items
        self.of_head = vectors if self.whole_head else vectors[:, model.head]
        stored = np.diff(model.sparse.indptr)[vectors.indices].sum() / max(1, users)
        self.stays_sparse = not len(model.head) and stored < items / 4
        self.width = int(stored) if self.stays_sparse else items

    def scores(self, part: slice) -> Floats | sp.csr_matrix:
        if self.stays_sparse:
            return self.vectors[part] @ self.model.sparse
        if self.whole_head and not self.model.sparse.nnz:
            return np.asarray(self.of_head[part] @ self.model.dense)
        block: Floats = (self.vectors[part] @ self.model.sparse).toarray()
        if len(self.model.head):
            block[:, self.model.head] += self.of_head[part] @ self.model.dense
        return block

    def reasons(self, ranking: Ranking) -> tuple[Positions, Floats]:
        vectors = self.vectors
        lengths = np.diff(vectors.indptr)[ranking.rows]
        starts = np.cumsum(lengths) - lengths
        entry = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(lengths.sum()) - np.repeat(starts - vectors.indptr[ranking.rows], lengths)
        source = vectors.indices[place].astype(np.int64)
        parts = vectors.data[place] * self._weights(source, ranking.items[entry])
        return strongest(entry, source, parts, len(lengths)), np.bincount(entry, parts, len(lengths)).astype(np.float32)

    def _weights(self, sources: Positions, targets: Positions) -> Floats:
        model = self.model
        weights = np.zeros(len(sources), dtype=np.float32)
        if model.sparse.nnz and len(sources):
            weights += np.asarray(model.sparse[sources, targets]).ravel()
        if len(model.head):
            place = np.full(model.sparse.shape[0], -1)
            place[model.head] = np.arange(len(model.head))
            inside = np.flatnonzero((place[sources] >= 0) & (place[targets] >= 0))
            weights[inside] += model.dense[place[sources[inside]], place[targets[inside]]]
        return weights


def strongest(entry: Positions, source: Positions, parts: Floats, entries: int) -> Positions:
    """Of each of `entries` the source of its largest positive part, -1 without one; parts stand by entry and source."""
    best = np.zeros(entries, dtype=parts.dtype)
    np.maximum.at(best, entry, parts)
    found = np.flatnonzero((parts == best[entry]) & (parts > 0))
    which, first = np.unique(entry[found], return_index=True)
    result = np.full(entries, -1, dtype=np.int64)
    result[which] = source[found[first]]
    return result

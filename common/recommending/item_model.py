"""Models of weights from item to item: sparse over the catalogue, dense over its head, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from common.recommending.histories import Floats, History
from common.recommending.ranking import Positions, Ranking
from common.recommending.scoring import Scoring

SPARSE_PARTS = ("data", "indices", "indptr")


@dataclass(frozen=True)
class ItemModel:
    """With x the vector of a user, the fitted score of item j is the sum over i of x[i] W[i, j].

    W is `sparse` (catalogue x catalogue) plus `dense` (head x head) at the positions `head` (ascending).
    """

    sparse: sp.csr_matrix
    dense: Floats
    head: Positions
    scoring: Scoring
    kind = "items"

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float], scoring: Scoring) -> ItemModel:
        """Return the model with these `arrays` and `numbers`."""
        items = len(arrays["sparse_indptr"]) - 1
        parts = tuple(arrays[f"sparse_{part}"] for part in SPARSE_PARTS)
        return cls(sp.csr_matrix(parts, shape=(items, items)), arrays["dense"], arrays["head"], scoring, **numbers)

    def scorer(self, pairs: History) -> ItemScorer:
        """Return a scorer for the rows of `pairs`. O(pairs)."""
        return ItemScorer(self, self.scoring.vectors(pairs))

    def arrays(self) -> dict[str, np.ndarray]:
        parts = {f"sparse_{part}": getattr(self.sparse, part) for part in SPARSE_PARTS}
        return {"dense": self.dense, "head": self.head, **parts}

    def numbers(self) -> dict[str, float]:
        return {}


class ItemScorer:
    """Scorer of an ItemModel; the scores stay sparse if the model is sparse and few of them are not 0."""

    def __init__(self, model: ItemModel, vectors: sp.csr_matrix) -> None:
        self.model, self.vectors = model, vectors
        users, items = vectors.shape
        self.whole_head = len(model.head) == items
        self.of_head = vectors if self.whole_head else vectors[:, model.head]
        stored = np.diff(model.sparse.indptr)[vectors.indices].sum() / max(1, users)
        self.stays_sparse = not len(model.head) and stored < items / 4
        self.width = int(stored) if self.stays_sparse else items

    def scores(self, part: slice) -> Floats | sp.csr_matrix:
        vectors = self.vectors[part]
        return self.model.scoring.finish(self._fitted_scores(part, vectors), vectors)

    def _fitted_scores(self, part: slice, vectors: sp.csr_matrix) -> Floats | sp.csr_matrix:
        if self.stays_sparse:
            return vectors @ self.model.sparse
        if self.whole_head and not self.model.sparse.nnz:
            return np.asarray(self.of_head[part] @ self.model.dense)
        block: Floats = (vectors @ self.model.sparse).toarray()
        if len(self.model.head):
            block[:, self.model.head] += self.of_head[part] @ self.model.dense
        return block

    def reasons(self, ranking: Ranking) -> tuple[Positions, Floats]:
        vectors = self.vectors
        lengths = np.diff(vectors.indptr)[ranking.rows]
        starts = np.cumsum(lengths) - lengths
        entry = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(lengths.sum()) - np.repeat(starts - vectors.indptr[ranking.rows], lengths)
        source = vectors.indices[position].astype(np.int64)
        contributions = vectors.data[position] * self._weights(source, ranking.items[entry])
        scores = np.bincount(entry, contributions, len(lengths)).astype(np.float32)
        return strongest_source(entry, source, contributions, len(lengths)), scores

    def _weights(self, sources: Positions, targets: Positions) -> Floats:
        model = self.model
        weights = np.zeros(len(sources), dtype=np.float32)
        if model.sparse.nnz and len(sources):
            weights += np.asarray(model.sparse[sources, targets]).ravel()
        if len(model.head):
            in_head = np.full(model.sparse.shape[0], -1)
            in_head[model.head] = np.arange(len(model.head))
            inside = np.flatnonzero((in_head[sources] >= 0) & (in_head[targets] >= 0))
            weights[inside] += model.dense[in_head[sources[inside]], in_head[targets[inside]]]
        weights[sources == targets] += np.float32(model.scoring.self_weight)
        return weights * model.scoring.of_targets(targets)


def strongest_source(entry: Positions, source: Positions, contributions: Floats, entries: int) -> Positions:
    """Return the source of the largest positive contribution to each entry, -1 without one.

    The contributions are sorted by entry and source.
    """
    best = np.zeros(entries, dtype=contributions.dtype)
    np.maximum.at(best, entry, contributions)
    largest = np.flatnonzero((contributions == best[entry]) & (contributions > 0))
    which, first = np.unique(entry[largest], return_index=True)
    result = np.full(entries, -1, dtype=np.int64)
    result[which] = source[largest[first]]
    return result

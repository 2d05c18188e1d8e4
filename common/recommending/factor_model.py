"""Models of factors: a user's history gives the user's factors, and those times an item's factors its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from common.recommending.als import fold_in, influence
from common.recommending.histories import Floats, History, user_vectors
from common.recommending.item_model import strongest
from common.recommending.ranking import Positions, Ranking, rows_of


@dataclass(frozen=True)
class FactorModel:
    """With x the vector of a user and u its factors, the score of item j is u.outputs[j] + own[j] x[j].

    u is x times `inputs` (items x factors) if `confidence` is 0. Otherwise it is what `als.fold_in` finds for x, with
    `inputs` as the factors of the items, and that confidence and regularization. outputs: items x factors. own (items):
    what a purchase says of buying the same again. half_life: of the user vectors, in days.
    """

    inputs: Floats
    outputs: Floats
    own: Floats
    half_life: float
    confidence: float
    regularization: float
    kind = "factors"

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float]) -> FactorModel:
        """The model whose `arrays` and `numbers` these are."""
        return cls(arrays["inputs"], arrays["outputs"], arrays["own"], **numbers)

    def scorer(self, pairs: History) -> FactorScorer:
        """Scores for the rows of `pairs`. O(pairs x factors), with `confidence` times factors again."""
        vectors = user_vectors(pairs, self.half_life)
        vectors.sort_indices()
        return FactorScorer(self, vectors, self._users(vectors))

    def _users(self, vectors: sp.csr_matrix) -> Floats:
        if not self.confidence:
            return np.asarray(vectors @ self.inputs)
        return fold_in(vectors, self.inputs, self.confidence, self.regularization)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"inputs": self.inputs, "outputs": self.outputs, "own": self.own}

    def numbers(self) -> dict[str, float]:
        return {
            "half_life": self.half_life,
            "confidence": self.confidence,
            "regularization": self.regularization,
        }


@dataclass(frozen=True)
class FactorScorer:
    """A FactorModel at work on user vectors and the users' factors."""

    model: FactorModel
    vectors: sp.csr_matrix
    users: Floats

    @property
    def width(self) -> int:
        return len(self.model.outputs)

    def scores(self, part: slice) -> Floats:
        block: Floats = self.users[part] @ self.model.outputs.T
        some = self.vectors[part]
        block[rows_of(some), some.indices] += self.model.own[some.indices] * some.data
        return block

    def reasons(self, ranking: Ranking) -> tuple[Positions, Floats]:
        sources, scores = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
        bounds = np.flatnonzero(np.diff(ranking.rows, prepend=-1, append=-1))
        for start, stop in pairwise(bounds):
            source, score = self._reasons_of(int(ranking.rows[start]), ranking.items[start:stop])
            sources.append(source)
            scores.append(score)
        return np.concatenate(sources), np.concatenate(scores)

    def _reasons_of(self, row: int, targets: Positions) -> tuple[Positions, Floats]:
        """The same for the items of one row, from the part of each item of the history in the user's factors."""
        own = self.vectors[row]
        had = own.indices.astype(np.int64)
        if self.model.confidence:
            factors = influence(own, self.model.inputs, self.model.confidence, self.model.regularization)
        else:
            factors = self.model.inputs[had] * own.data[:, None]
        parts = factors @ self.model.outputs[targets].T  # history x targets
        again, entry = np.nonzero(had[:, None] == targets)
        parts[again, entry] += self.model.own[had[again]] * own.data[again]
        entry = np.repeat(np.arange(len(targets)), len(had))
        return strongest(entry, np.tile(had, len(targets)), parts.T.ravel(), len(targets)), parts.sum(axis=0)

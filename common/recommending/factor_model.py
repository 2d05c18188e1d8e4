"""Models of factors: a score is the product of the user's factors, from the history, and the item's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from common.recommending.als import fold_in, influence
from common.recommending.histories import Floats, History
from common.recommending.item_model import strongest_source
from common.recommending.ranking import Positions, Ranking
from common.recommending.scoring import Scoring


@dataclass(frozen=True)
class FactorModel:
    """With x the vector of a user and u its factors, the fitted score of item j is u.outputs[j].

    u is x times `inputs` (items x factors) if `confidence` is 0. Otherwise it is `als.fold_in` of x, with `inputs`
    as the factors of the items, and that confidence and regularization. outputs: items x factors.
    """

    inputs: Floats
    outputs: Floats
    scoring: Scoring
    confidence: float = 0.0
    regularization: float = 0.0
    kind = "factors"

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float], scoring: Scoring) -> FactorModel:
        """Return the model with these `arrays` and `numbers`."""
        return cls(arrays["inputs"], arrays["outputs"], scoring, **numbers)

    def scorer(self, pairs: History) -> FactorScorer:
        """Return a scorer for the rows of `pairs`. O(pairs x factors), with `confidence` O(pairs x factors^2)."""
        vectors = self.scoring.vectors(pairs)
        return FactorScorer(self, vectors, self._users(vectors))

    def _users(self, vectors: sp.csr_matrix) -> Floats:
        if not self.confidence:
            return np.asarray(vectors @ self.inputs)
        return fold_in(vectors, self.inputs, self.confidence, self.regularization)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"inputs": self.inputs, "outputs": self.outputs}

    def numbers(self) -> dict[str, float]:
        return {"confidence": self.confidence, "regularization": self.regularization}


@dataclass(frozen=True)
class FactorScorer:
    """Scorer of a FactorModel, with user vectors and the users' factors."""

    model: FactorModel
    vectors: sp.csr_matrix
    users: Floats

    @property
    def width(self) -> int:
        return len(self.model.outputs)

    def scores(self, part: slice) -> Floats | sp.csr_matrix:
        return self.model.scoring.finish(self.users[part] @ self.model.outputs.T, self.vectors[part])

    def reasons(self, ranking: Ranking) -> tuple[Positions, Floats]:
        sources, scores = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
        bounds = np.flatnonzero(np.diff(ranking.rows, prepend=-1, append=-1))
        for start, stop in pairwise(bounds):
            source, score = self._reasons_of(int(ranking.rows[start]), ranking.items[start:stop])
            sources.append(source)
            scores.append(score)
        return np.concatenate(sources), np.concatenate(scores)

    def _reasons_of(self, row: int, targets: Positions) -> tuple[Positions, Floats]:
        """Return the reasons of one row's items, from the contribution of each item of the history to the factors."""
        vector = self.vectors[row]
        had = vector.indices.astype(np.int64)
        if self.model.confidence:
            factors = influence(vector, self.model.inputs, self.model.confidence, self.model.regularization)
        else:
            factors = self.model.inputs[had] * vector.data[:, None]
        contributions = factors @ self.model.outputs[targets].T  # history x targets
        repeated, entry = np.nonzero(had[:, None] == targets)
        contributions[repeated, entry] += np.float32(self.model.scoring.self_weight) * vector.data[repeated]
        contributions = contributions * self.model.scoring.of_targets(targets)
        entry = np.repeat(np.arange(len(targets)), len(had))
        sources = strongest_source(entry, np.tile(had, len(targets)), contributions.T.ravel(), len(targets))
        return sources, contributions.sum(axis=0)

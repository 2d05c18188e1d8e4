"""Scoring by a fitted model: all that needs no other fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from common.recommending.histories import BY_EVENTS, Floats, History, user_vectors
from common.recommending.ranking import rows_of


@dataclass(frozen=True)
class Scoring:
    """With x the vector of a user, the score of item j is factor[j] (fitted score of j + self_weight x[j]).

    x decays by `half_life` (days) and has the strengths of `counting`. self_weight scores repeats. factor is `ratio`
    (items) to the power of `momentum`, or 1.
    """

    half_life: float
    counting: float = BY_EVENTS
    self_weight: float = 0.0
    momentum: float = 0.0
    ratio: Floats = field(default_factory=lambda: np.ones(0, dtype=np.float32))

    def vectors(self, pairs: History) -> sp.csr_matrix:
        """Return the vectors of the users, users x items."""
        return user_vectors(pairs, self.half_life, self.counting)

    @cached_property
    def factor(self) -> Floats | None:
        """The factor of each item, None if all are 1."""
        return np.asarray(self.ratio**self.momentum, dtype=np.float32) if self.momentum else None

    def finish(self, block: Floats | sp.csr_matrix, vectors: sp.csr_matrix) -> Floats | sp.csr_matrix:
        """Return the scores of users with these vectors from fitted ones, which it may change."""
        own = np.float32(self.self_weight) * vectors.data
        if isinstance(block, np.ndarray):
            block[rows_of(vectors), vectors.indices] += own
            return block if self.factor is None else np.multiply(block, self.factor, out=block)
        if self.self_weight:
            block = block + sp.csr_matrix((own, vectors.indices, vectors.indptr), shape=vectors.shape)
        if self.factor is not None:
            block.data *= self.factor[block.indices]
        return block

    def of_targets(self, targets: np.ndarray) -> Floats:
        """Return the factors of some items."""
        return np.ones(len(targets), dtype=np.float32) if self.factor is None else self.factor[targets]

    def numbers(self) -> dict[str, float]:
        """Return everything but `ratio`."""
        names = ("half_life", "counting", "self_weight", "momentum")
        return {name: float(getattr(self, name)) for name in names}

"""Trials of a fit: the quality of several styles, momenta and self weights from its scores, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from common.recommending.blocks import blocks, in_parallel
from common.recommending.evaluation import DEPTH, Numbers, Truth, quality
from common.recommending.histories import Floats, History, decay, strength
from common.recommending.models import AGAIN, MIXED, NEW, Fitted, Parameters
from common.recommending.ranking import (
    BLOCK_VALUES,
    MAX_BLOCK,
    Entries,
    Ranking,
    cumcount,
    first_entries,
    rows_of,
    top_entries,
)


class Variant(NamedTuple):
    """Scores that share a fit and user vectors; self_weight in multiples of the fit's typical weight."""

    style: str
    momentum: float
    self_weight: float

    def numbers(self) -> dict[str, float]:
        """Return the parameters."""
        return {"momentum": self.momentum, "self_weight": self.self_weight}


def trial(
    fitted: Fitted,
    parameters: Parameters,
    momenta: Sequence[float],
    self_weights: Sequence[float],
    queries: History,
    truths: Mapping[str, Truth],
) -> dict[Variant, Numbers]:
    """Return the nDCG@10 of the users with truth, as `quality`, of each style, momentum and self weight.

    `truths` (by style) have the rows of `queries`. Of `parameters` only those of the user vectors count. The fitted
    scores are computed once. Each momentum takes one pass over them, because the first 10 of `mixed` are among those
    of `again` and `new`. Exactly the rankings of `models.ranking_of`. Memory: one dense block of 8 MB per core, twice.
    """
    scorer = fitted.scored({**parameters, "self_weight": 0, "momentum": 0}).scorer(queries)
    own = queries.matrix(
        strength(queries, parameters["user_counting"]) * decay(queries.age, parameters["user_half_life"])
    )

    def of_block(part: slice) -> dict[Variant, Numbers]:
        scores = scorer.scores(part)
        block: Floats = scores if isinstance(scores, np.ndarray) else scores.toarray()
        parts = {style: Truth(truth.items[part]) for style, truth in truths.items()}
        return _trial_of_block(fitted, block, own[part], momenta, self_weights, parts)

    size = min(MAX_BLOCK, BLOCK_VALUES // max(1, queries.item_count))
    found = list(in_parallel(of_block, blocks(queries.user_count, size)))
    return {variant: np.concatenate([each[variant] for each in found]) for variant in (found[0] if found else {})}


def _trial_of_block(
    fitted: Fitted,
    block: Floats,
    own: sp.csr_matrix,
    momenta: Sequence[float],
    self_weights: Sequence[float],
    truths: Mapping[str, Truth],
) -> dict[Variant, Numbers]:
    """Return `trial` of some users from their fitted scores, which it changes, and their vectors, zeros stored."""
    rows, columns = rows_of(own), own.indices.astype(np.int64)
    of_own = block[rows, columns]
    block[rows, columns] = 0
    result: dict[Variant, Numbers] = {}
    for momentum in momenta:
        factor = np.asarray(fitted.ratio**momentum, dtype=np.float32) if momentum else None
        new = top_entries(block if factor is None else block * factor, DEPTH)
        if NEW in truths:
            result[Variant(NEW, momentum, 0)] = quality(_ranking(new), truths[NEW]).ndcg
        for self_weight in self_weights if truths.keys() - {NEW} else ():
            scores = of_own + np.float32(self_weight * fitted.typical) * own.data
            again = _best(rows, columns, scores if factor is None else scores * factor[columns])
            both = (np.concatenate([new[part], again[part]]) for part in range(3))
            rankings = {AGAIN: again, MIXED: _best(*both)}
            for style in truths.keys() - {NEW}:
                ndcg = quality(_ranking(rankings[style]), truths[style]).ndcg
                result[Variant(style, momentum, self_weight)] = ndcg
    return result


def _best(rows: np.ndarray, columns: np.ndarray, values: Floats) -> Entries:
    positive = values > 0
    return first_entries(rows[positive], columns[positive], values[positive], DEPTH)


def _ranking(entries: Entries) -> Ranking:
    rows, columns, values = entries
    return Ranking(rows, cumcount(rows), columns, values)

"""Blends of models: the weighted sum of their scores, each divided by its standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from common.recommending.blocks import blocks, in_parallel
from common.recommending.evaluation import DEPTH, Truth, quality
from common.recommending.histories import Floats, History
from common.recommending.ranking import (
    BLOCK_VALUES,
    MAX_BLOCK,
    Positions,
    Ranking,
    Scorer,
    cumcount,
    entries_of,
    rows_of,
    top_entries,
)

CANDIDATES = 50  # of each member, to choose weights on
STEPS = (0.25, 0.5, 1.0, 2.0)  # weights to try for a member


class Model(Protocol):
    """A fitted model, which scores items for users with a history."""

    def scorer(self, pairs: History) -> Scorer:
        """Return a scorer for the rows of `pairs`."""


@dataclass(frozen=True)
class Blend:
    """The score of an item is the sum over members of weight * score / std.

    std: the standard deviation of the member's scores for the user over the catalogue. So ranks are those of
    weighted z-scores: a z-score's mean is the same for all items of a user. Weights are positive.
    """

    members: Sequence[Model]
    weights: Sequence[float]

    def scorer(self, pairs: History) -> BlendScorer:
        return BlendScorer([member.scorer(pairs) for member in self.members], self.weights, pairs.user_count)


class BlendScorer:
    """Scorer of a Blend; it keeps 1 / std of each user and member once the user was scored."""

    def __init__(self, members: Sequence[Scorer], weights: Sequence[float], users: int) -> None:
        self.members, self.weights = members, weights
        self.factors = np.zeros((len(members), users), dtype=np.float32)
        self.width = sum(member.width for member in members)

    def scores(self, part: slice) -> Floats | sp.csr_matrix:
        total: Floats | sp.csr_matrix | None = None
        for number, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            block = member.scores(part)
            factor = np.float32(weight) * inverse_std(block)
            self.factors[number, part] = factor
            if isinstance(block, np.ndarray):
                block *= factor[:, None]
            else:
                block.data *= np.repeat(factor, np.diff(block.indptr))
            total = block if total is None else _add(total, block)
        return total

    def reasons(self, ranking: Ranking) -> tuple[Positions, Floats]:
        """Return the reason of the member with the largest contribution; only for rows that were scored before."""
        sources, contributions = [], []
        for factors, member in zip(self.factors, self.members, strict=True):
            source, score = member.reasons(ranking)
            sources.append(source)
            contributions.append(factors[ranking.rows] * score)
        strongest = np.argmax(contributions, axis=0)
        return np.asarray(sources)[strongest, np.arange(len(strongest))], np.sum(
            contributions, axis=0, dtype=np.float32
        )


def inverse_std(block: Floats | sp.csr_matrix) -> Floats:
    """Return 1 / the standard deviation over the items, per row; 0 if all scores are equal."""
    items = max(1, block.shape[1])
    if isinstance(block, np.ndarray):
        total, squares = block.sum(axis=1, dtype=np.float64), np.einsum("ui,ui->u", block, block).astype(np.float64)
    else:
        rows = rows_of(block)
        total, squares = (np.bincount(rows, block.data**power, block.shape[0]) for power in (1, 2))
    variance = squares / items - (total / items) ** 2
    usable = variance > 1e-12 * squares / items
    result: Floats = np.where(usable, 1 / np.sqrt(np.where(usable, variance, 1)), 0).astype(np.float32)
    return result


def _add(one: Floats | sp.csr_matrix, other: Floats | sp.csr_matrix) -> Floats | sp.csr_matrix:
    if not isinstance(one, np.ndarray):
        if not isinstance(other, np.ndarray):
            return one + other
        one, other = other, one
    if isinstance(other, np.ndarray):
        one += other
    else:
        one[rows_of(other), other.indices] += other.data
    return one


@dataclass(frozen=True)
class Candidates:
    """Candidate items: row, item, and unweighted blend scores (entries x members)."""

    rows: Positions
    items: Positions
    scores: Floats


def candidates(
    members: Sequence[Scorer], users: int, exclude: sp.csr_matrix | None = None, only: sp.csr_matrix | None = None
) -> Candidates:
    """Return the items among the first CANDIDATES of any member for each row; `exclude` and `only` as of `rank`.

    Memory: the candidates, and one block of scores per member and core.
    """

    def of_block(part: slice) -> tuple[Positions, Positions, Floats]:
        scores = [_dense(member.scores(part)) for member in members]
        keys_of_members = []
        for score in scores:
            score *= inverse_std(score)[:, None]
            if exclude is not None:
                excluded = exclude[part]
                score[rows_of(excluded), excluded.indices] = 0
            allowed = score if only is None else entries_of(score, only[part]).toarray()
            rows, items, _ = top_entries(allowed, CANDIDATES)
            keys_of_members.append(rows * score.shape[1] + items)
        keys = np.unique(np.concatenate(keys_of_members))
        rows, items = np.divmod(keys, max(1, scores[0].shape[1]))
        return rows + part.start, items, np.stack([score[rows, items] for score in scores], axis=1)

    size = min(MAX_BLOCK, BLOCK_VALUES // max(1, sum(member.width for member in members)))
    parts = list(in_parallel(of_block, blocks(users, size)))
    if not parts:
        return Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, len(members)), np.float32))
    return Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def choose_weights(candidates: Candidates, truth: Truth) -> tuple[list[float], float, int]:
    """Choose the weights of the members (0: left out) of highest nDCG@10; return them, the nDCG@10, the number tried.

    Starts from the best member alone: each other member in turn, best first, with each of STEPS or without, twice.
    Memory: the candidates, each row as long as the longest.
    """
    users, count = truth.items.shape[0], candidates.scores.shape[1]
    place = cumcount(candidates.rows)
    width = int(place.max()) + 1 if len(place) else 0
    items = np.zeros((users, width), dtype=np.int64)
    items[candidates.rows, place] = candidates.items
    scores = np.zeros((users, width, count), dtype=np.float32)
    scores[candidates.rows, place] = candidates.scores

    def score(weights: list[float]) -> float:
        rows, places, values = top_entries(scores @ np.asarray(weights, dtype=np.float32), DEPTH)
        return quality(Ranking(rows, cumcount(rows), items[rows, places], values), truth).means()["ndcg"]

    alone = [score([float(number == member) for number in range(count)]) for member in range(count)]
    by_quality = sorted(range(count), key=lambda member: -alone[member])
    best = [float(number == by_quality[0]) for number in range(count)]
    highest = alone[by_quality[0]]
    for member in by_quality[1:] * 2:
        for step in (0.0, *STEPS):
            tried = [step if number == member else weight for number, weight in enumerate(best)]
            reached = score(tried)
            if reached > highest:
                best, highest = tried, reached
    return best, highest, count + 2 * (count - 1) * (1 + len(STEPS))


def _dense(block: Floats | sp.csr_matrix) -> Floats:
    return block if isinstance(block, np.ndarray) else block.toarray()

"""Rankings and reasons against plain sorting and plain sums."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from shapes import random_history

from common.recommending import models, ranking
from common.recommending.als import fold_in
from common.recommending.blend import Blend
from common.recommending.factor_model import FactorModel
from common.recommending.histories import BY_EVENTS, user_vectors
from common.recommending.item_model import ItemModel
from common.recommending.ranking import NonPersonalizedScorer, concatenate, rank, top_entries, top_of_sparse
from common.recommending.scoring import Scoring

few_values = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.sampled_from([-1, 0, 0.5, 1, 2])
)


def plain_top(scores: np.ndarray, count: int) -> list[list[int]]:
    """Return per row the columns of positive score, best first, ties to the lower column."""
    return [[column for column in np.argsort(-row, kind="stable")[:count] if row[column] > 0] for row in scores]


def columns_by_row(rows: np.ndarray, columns: np.ndarray, count: int) -> list[list[int]]:
    return [columns[rows == row].tolist() for row in range(count)]


@given(few_values, st.integers(0, 12))
def test_threshold_equals_sorting_with_ties(scores: np.ndarray, count: int) -> None:
    rows, columns, values = top_entries(scores, count)
    assert columns_by_row(rows, columns, len(scores)) == plain_top(scores, count)
    assert (values == scores[rows, columns]).all()


def test_threshold_equals_sorting_in_long_rows() -> None:
    scores = np.random.default_rng(0).normal(size=(50, 3001)).astype(np.float32)
    rows, columns, _ = top_entries(scores, 10)
    assert columns_by_row(rows, columns, 50) == plain_top(scores, 10)


@given(few_values, st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_top_of_sparse_rows_equals_top_of_dense_ones(scores: np.ndarray, count: int, seed: int) -> None:
    seen = np.random.default_rng(seed).random(scores.shape) < 0.2
    rows, columns, values = top_of_sparse(sp.csr_matrix(scores), count, sp.csr_matrix(seen.astype(np.int8)))
    assert columns_by_row(rows, columns, len(scores)) == plain_top(np.where(seen, 0, scores), count)
    assert (values == scores[rows, columns]).all()


@pytest.mark.parametrize("excluded", [0, 3, 90])
def test_top_of_long_sparse_rows_in_any_order(excluded: int) -> None:
    random = np.random.default_rng(2)
    scores = random.normal(size=(40, 4000)).astype(np.float32) * (random.random((40, 4000)) < 0.3)
    scores[7], scores[39, 5:] = 0, 0
    seen = np.zeros(scores.shape, dtype=bool)
    for row in range(0, 40, 3):  # the best are excluded: the next ones must be found
        seen[row, np.argsort(-scores[row])[:excluded]] = True
    block = sp.csr_matrix(scores)
    for row in range(40):
        part = slice(block.indptr[row], block.indptr[row + 1])
        order = random.permutation(part.stop - part.start)
        block.indices[part], block.data[part] = block.indices[part][order], block.data[part][order]
    rows, columns, _ = top_of_sparse(block, 10, sp.csr_matrix(seen.astype(np.int8)))
    assert columns_by_row(rows, columns, 40) == plain_top(np.where(seen, 0, scores), 10)


class Fixed:
    """Fixed scores, dense or sparse."""

    def __init__(self, all_scores: np.ndarray, sparse: bool = False) -> None:
        self.all_scores, self.width, self.sparse = all_scores, all_scores.shape[1], sparse

    def scores(self, part: slice):
        block = self.all_scores[part].copy()
        return sp.csr_matrix(block) if self.sparse else block

    def reasons(self, found):
        return np.full(len(found.items), -1), self.all_scores[found.rows, found.items]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("block", [1, 17 * 3, 10**6])
def test_ranking_ignores_blocks_and_leaves_out_excluded_items(monkeypatch, block: int, sparse: bool) -> None:
    monkeypatch.setattr(ranking, "BLOCK_VALUES", block)
    random = np.random.default_rng(1)
    scores = random.integers(0, 9, (20, 17)).astype(np.float32)
    seen = random.random((20, 17)) < 0.3
    found = concatenate(list(rank(Fixed(scores, sparse), 20, 5, sp.csr_matrix(seen.astype(np.int8)))))
    expected = plain_top(np.where(seen, 0, scores), 5)
    assert columns_by_row(found.rows, found.items, 20) == expected
    assert found.ranks.tolist() == [place for row in expected for place in range(len(row))]
    assert (found.scores == scores[found.rows, found.items]).all()


def test_non_personalized_scores_are_ranked_for_each_user() -> None:
    found = concatenate(list(rank(NonPersonalizedScorer(np.array([1, 3, 0, 3])), 2, 3)))
    assert found.items.tolist() == [1, 3, 0, 1, 3, 0]


ITEMS = 16
RATIO = np.linspace(0.5, 2, ITEMS).astype(np.float32)
SCORING = Scoring(30.0, BY_EVENTS, 0.7, 0.5, RATIO)
HEADS = {"sparse": [], "dense": list(range(ITEMS)), "head and tail": [0, 3, 4, 9, 15]}


def items_of(kind: str) -> tuple[ItemModel, np.ndarray]:
    """Return a model and its weights as one dense matrix."""
    random = np.random.default_rng(3)
    head = np.array(HEADS[kind], dtype=np.int64)
    dense = random.normal(size=(len(head), len(head))).astype(np.float32)
    sparse = random.normal(size=(ITEMS, ITEMS)).astype(np.float32) * (random.random((ITEMS, ITEMS)) < 0.2)
    sparse *= kind != "dense"
    sparse[np.ix_(head, head)] = 0
    whole = sparse.copy()
    whole[np.ix_(head, head)] = dense
    return ItemModel(sp.csr_matrix(sparse), dense, head, SCORING), whole


def factors_of(kind: str) -> FactorModel:
    random = np.random.default_rng(4)
    inputs, outputs = (random.normal(size=(ITEMS, 5)).astype(np.float32) for _ in range(2))
    return FactorModel(inputs, outputs, SCORING, 3.0 if kind == "solved" else 0.0, 2.0)


def contributions_of(kind: str, pairs) -> np.ndarray:
    """Return contributions (users x history x items) to each score, by the models' formulas."""
    x = user_vectors(pairs, 30, BY_EVENTS).toarray().astype(float)
    own = SCORING.self_weight * np.eye(ITEMS)
    if kind in HEADS:
        return x[:, :, None] * (items_of(kind)[1] + own) * RATIO**0.5
    model = factors_of(kind)
    if kind == "linear":
        parts = x[:, :, None] * (model.inputs @ model.outputs.T)
    else:
        y = model.inputs.astype(float)
        parts = np.zeros((len(x), ITEMS, ITEMS))
        for user, row in enumerate(x):
            solved = np.linalg.solve(y.T @ y + (y.T * (3 * row)) @ y + 2 * np.eye(5), y.T)
            parts[user] = ((row > 0) * (1 + 3 * row))[:, None] * (solved.T @ model.outputs.T)
    return (parts + x[:, :, None] * own) * RATIO**0.5


def model_of(kind: str):
    return items_of(kind)[0] if kind in HEADS else factors_of(kind)


@pytest.mark.parametrize("kind", [*HEADS, "linear", "solved"])
@pytest.mark.parametrize("style", models.STYLES)
def test_scores_and_reasons_follow_the_formula(kind: str, style: str) -> None:
    pairs = random_history(30, ITEMS, seed=2)
    parts = contributions_of(kind, pairs)
    scores, had = parts.sum(axis=1), pairs.matrix(pairs.events).toarray() > 0
    left_out = {"mixed": False & had, "again": ~had, "new": had}[style]
    scorer = model_of(kind).scorer(pairs)
    found = concatenate(list(models.recommend(scorer, pairs, 4, style)))
    assert columns_by_row(found.rows, found.items, 30) == plain_top(np.where(left_out, 0, scores), 4)
    np.testing.assert_allclose(found.scores, scores[found.rows, found.items], rtol=1e-3)

    because, again = scorer.reasons(found)
    of_entries = parts[found.rows, :, found.items]
    expected = np.where(of_entries.max(axis=1) > 0, of_entries.argmax(axis=1), -1)
    assert because.tolist() == expected.tolist()
    np.testing.assert_allclose(again, found.scores, rtol=1e-3)


def test_sparse_model_scores_sparsely_if_few_scores_are_nonzero() -> None:
    pairs = random_history(30, ITEMS, seed=2)
    few = ItemModel(
        sp.eye(ITEMS, format="csr", dtype=np.float32), np.zeros((0, 0)), np.zeros(0, np.int64), Scoring(30.0)
    )
    assert sp.issparse(few.scorer(pairs).scores(slice(0, 5)))
    assert not sp.issparse(items_of("sparse")[0].scorer(pairs).scores(slice(0, 5)))


@pytest.mark.parametrize("members", [["linear", "dense"], ["head and tail", "solved", "sparse"], ["few", "few twice"]])
def test_blend_ranks_by_weighted_z_scores(members: list[str]) -> None:
    pairs = random_history(30, ITEMS, seed=5)
    few = ItemModel(
        sp.eye(ITEMS, k=1, format="csr", dtype=np.float32), np.zeros((0, 0)), np.zeros(0, np.int64), Scoring(30.0)
    )
    made = [few if kind.startswith("few") else model_of(kind) for kind in members]
    weights = [1.0, 0.25, 0.7][: len(made)]
    scores = []
    for member in made:
        block = member.scorer(pairs).scores(slice(0, 30))
        scores.append(block.toarray() if sp.issparse(block) else block)
    spreads = [score.std(axis=1, keepdims=True) for score in scores]
    parts = [
        weight * np.divide(score, spread, out=np.zeros_like(score), where=spread > 0)
        for weight, score, spread in zip(weights, scores, spreads, strict=True)
    ]
    scorer = Blend(made, weights).scorer(pairs)
    found = concatenate(list(models.recommend(scorer, pairs, 5, models.MIXED)))
    total = np.sum(parts, axis=0)
    np.testing.assert_allclose(found.scores, total[found.rows, found.items], rtol=1e-3)
    assert [len(row) for row in columns_by_row(found.rows, found.items, 30)] == [
        len(row) for row in plain_top(total, 5)
    ]
    np.testing.assert_allclose(
        total[found.rows, found.items],
        np.concatenate([total[r, row] for r, row in enumerate(plain_top(total, 5))]),
        rtol=1e-4,
    )
    because, _ = scorer.reasons(found)
    most = np.argmax([part[found.rows, found.items] for part in parts], axis=0)
    reasons = np.asarray([member.scorer(pairs).reasons(found)[0] for member in made])
    assert because.tolist() == reasons[most, np.arange(len(most))].tolist()


@pytest.mark.parametrize("kinds", [["head and tail"], ["linear", "sparse", "solved"]])
def test_models_are_equal_after_serialisation(kinds: list[str]) -> None:
    pairs, made = random_history(9, ITEMS), [model_of(kind) for kind in kinds]
    weights = [0.5, 1.0, 2.0][: len(kinds)]
    arrays, fits = models.to_arrays(made)
    members = [{"fit": number, "weight": weight, "scoring": SCORING.numbers()} for number, weight in enumerate(weights)]
    again = models.from_arrays({**arrays, "momentum": RATIO}, fits, members)
    model = made[0] if len(made) == 1 else Blend(made, weights)
    rankings = (models.ranking_of(each, pairs, models.MIXED) for each in (model, again))
    for one, other in zip(*rankings, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fold_in_solves_least_squares_per_row() -> None:
    random = np.random.default_rng(6)
    of_items = random.normal(size=(12, 4)).astype(np.float32)
    x = sp.random(50, 12, 0.3, "csr", dtype=np.float32, random_state=1)
    found = fold_in(x, of_items, 2.0, 0.5)
    np.testing.assert_allclose(found[7], fold_in(x[7], of_items, 2.0, 0.5)[0], rtol=1e-4, atol=1e-5)
    confidence = 1 + 2 * x.toarray()
    for row in range(50):
        weighted = of_items.T * confidence[row]
        target = weighted @ (x.toarray()[row] > 0)
        expected = np.linalg.solve(weighted @ of_items + 0.5 * np.eye(4), target)
        np.testing.assert_allclose(found[row], expected, rtol=1e-3, atol=1e-5)

"""Rankings and reasons against plain sorting and plain sums."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from shapes import random_history

from common.recommending import models, ranking
from common.recommending.ranking import ItemModel, joined, rank, same_for_all, top_entries

few_values = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.sampled_from([-1, 0, 0.5, 1, 2])
)


def plain_top(scores: np.ndarray, count: int) -> list[list[int]]:
    """Per row the columns of positive score, best first, ties to the lower column."""
    return [[column for column in np.argsort(-row, kind="stable")[:count] if row[column] > 0] for row in scores]


def columns_by_row(rows: np.ndarray, columns: np.ndarray, count: int) -> list[list[int]]:
    return [columns[rows == row].tolist() for row in range(count)]


@given(few_values, st.integers(0, 12))
def test_the_threshold_finds_what_sorting_finds_ties_included(scores: np.ndarray, count: int) -> None:
    rows, columns, values = top_entries(scores, count)
    assert columns_by_row(rows, columns, len(scores)) == plain_top(scores, count)
    assert (values == scores[rows, columns]).all()


def test_the_threshold_finds_what_sorting_finds_in_long_rows() -> None:
    scores = np.random.default_rng(0).normal(size=(50, 3001)).astype(np.float32)
    rows, columns, _ = top_entries(scores, 10)
    assert columns_by_row(rows, columns, 50) == plain_top(scores, 10)


@pytest.mark.parametrize("block", [1, 17 * 3, 10**6])
def test_blocks_of_users_change_nothing_and_excluded_items_stay_away(monkeypatch, block: int) -> None:
    monkeypatch.setattr(ranking, "BLOCK_VALUES", block)
    random = np.random.default_rng(1)
    scores = random.integers(0, 9, (20, 17)).astype(np.float32)
    seen = random.random((20, 17)) < 0.3
    found = joined(list(rank(lambda part: scores[part].copy(), 20, 17, 5, sp.csr_matrix(seen.astype(np.int8)))))
    expected = plain_top(np.where(seen, 0, scores), 5)
    assert columns_by_row(found.rows, found.items, 20) == expected
    assert found.ranks.tolist() == [place for row in expected for place in range(len(row))]
    assert (found.scores == scores[found.rows, found.items]).all()


def test_the_same_scores_for_all_are_ranked_for_each() -> None:
    found = joined(list(rank(same_for_all(np.array([1, 3, 0, 3])), 2, 4, 3)))
    assert found.items.tolist() == [1, 3, 0, 1, 3, 0]


def made_model(sparse: bool, own: float) -> ItemModel:
    random = np.random.default_rng(3)
    weights = random.normal(size=(12, 12)).astype(np.float32) * (random.random((12, 12)) < 0.5)
    np.fill_diagonal(weights, 0)
    factor = random.random(12).astype(np.float32) + 0.1
    columns = np.array([0, 1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 14])
    return ItemModel(sp.csr_matrix(weights) if sparse else weights, columns, factor, own, 30.0)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("own", [0.0, 0.7])
@pytest.mark.parametrize("repeats", [False, True])
def test_scores_and_reasons_are_the_formula(sparse: bool, own: float, repeats: bool) -> None:
    pairs = random_history(30, 16, seed=2)
    model = made_model(sparse, own)
    vectors = model.vectors(pairs)
    x = (pairs.matrix(np.log1p(pairs.events) * 2 ** (-pairs.age / 30)).toarray())[:, model.columns]
    weights = model.weights.toarray() if sparse else model.weights
    scores = (x @ weights + own * x) * model.factor
    found = joined(list(models.recommend(model, vectors, 4, repeats)))
    expected = np.where((x > 0) & (not repeats), 0, scores)
    assert columns_by_row(found.rows, found.items, 30) == plain_top(expected, 4)
    np.testing.assert_allclose(found.scores, scores[found.rows, found.items], rtol=1e-4)

    parts = x[found.rows] * (weights + own * np.eye(12))[:, found.items].T
    because = np.where(parts.max(axis=1) > 0, parts.argmax(axis=1), -1)
    assert model.reasons(vectors, found).tolist() == because.tolist()


@pytest.mark.parametrize("sparse", [False, True])
def test_a_model_survives_its_arrays(sparse: bool) -> None:
    model, pairs = made_model(sparse, 0.4), random_history(9, 16)
    again = models.from_arrays(models.to_arrays(model), model.own, model.half_life)
    for one, other in zip(models.ranking_of(model, pairs, True), models.ranking_of(again, pairs, True), strict=True):
        np.testing.assert_array_equal(one, other)

"""Measures of quality against their definitions as loops over one user's list."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from shapes import of_dense

from common.recommending.evaluation import Truth, by_length, coverage, interval, quality
from common.recommending.ranking import Ranking

lists = st.lists(
    st.tuples(st.lists(st.integers(0, 14), unique=True, max_size=13), st.sets(st.integers(0, 14))),
    min_size=1,
    max_size=5,
)


def ranking(recommended: list[list[int]]) -> Ranking:
    rows = [row for row, items in enumerate(recommended) for _ in items]
    ranks = [place for items in recommended for place in range(len(items))]
    items = [item for items in recommended for item in items]
    return Ranking(*(np.array(values, dtype=np.int64) for values in (rows, ranks, items)), np.ones(len(rows)))


def truth(bought: list[set[int]], items: int = 15) -> Truth:
    return Truth(sp.csr_matrix([[int(item in own) for item in range(items)] for own in bought], dtype=np.int8))


def measures(recommended: list[int], bought: set[int]) -> tuple[float, float, float]:
    hits = [int(item in bought) for item in recommended[:10]]
    gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
    ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(bought))))
    precision = sum(sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit)
    return gain / ideal, sum(hits) / len(bought), precision / len(bought)


@given(lists)
def test_measures_are_their_definitions(users: list[tuple[list[int], set[int]]]) -> None:
    found = quality(ranking([items for items, _ in users]), truth([bought for _, bought in users]))
    evaluated = [row for row, (_, bought) in enumerate(users) if bought]
    assert found.rows.tolist() == evaluated
    expected = [measures(*users[row]) for row in evaluated]
    np.testing.assert_allclose(
        np.array([found.ndcg, found.recall, found.precision]).T, np.array(expected).reshape(-1, 3), rtol=1e-9
    )


def test_means_are_zero_without_users() -> None:
    assert quality(ranking([[1]]), truth([set()])).means() == {"ndcg": 0, "recall": 0, "map": 0}


def test_items_in_the_history_are_not_truth_without_repeats() -> None:
    pairs = of_dense(np.array([[3, 0, 1], [0, 0, 0]]))
    assert truth([{0, 1}, {0}], 3).new_to_users(pairs).items.toarray().tolist() == [[0, 1, 0], [1, 0, 0]]


def test_only_marked_items_count() -> None:
    marked = truth([{0, 1}, {2}], 3).only(np.array([True, False, False]))
    assert marked.counts.tolist() == [1, 0]


def test_coverage_counts_items_of_the_first_ten_once() -> None:
    assert coverage(ranking([list(range(12)), [0, 1]]), 20) == 10 / 20


def test_groups_by_length_contain_their_users() -> None:
    result = quality(ranking([[0], [1], [0], [1]]), truth([{0}, {0}, {0}, {0}]))
    groups = by_length(result, np.array([4, 5, 99, 100]))
    assert groups == {
        "1-4": {"users": 1, "ndcg": 1.0},
        "5-19": {"users": 1, "ndcg": 0.0},
        "20-99": {"users": 1, "ndcg": 1.0},
        "100+": {"users": 1, "ndcg": 0.0},
    }


def test_interval_contains_the_mean_in_95_percent() -> None:
    random = np.random.default_rng(5)
    samples = [random.exponential(1, 200) for _ in range(200)]
    inside = [low <= 1 <= high for low, high in (interval(sample, 1, 200) for sample in samples)]
    assert 0.88 <= np.mean(inside) <= 0.98


def test_interval_depends_on_the_seed_only() -> None:
    values = np.random.default_rng(0).random(50)
    assert interval(values, 1) == interval(values, 1) != interval(values, 2)
    assert interval(np.zeros(0), 1) == (0, 0)


@pytest.mark.parametrize("rank_of_hit, expected", [(0, 1.0), (9, 1 / math.log2(11)), (10, 0.0)])
def test_only_the_first_ten_count(rank_of_hit: int, expected: float) -> None:
    items = list(range(1, 13))
    items.insert(rank_of_hit, 0)
    assert quality(ranking([items]), truth([{0}])).ndcg[0] == pytest.approx(expected)

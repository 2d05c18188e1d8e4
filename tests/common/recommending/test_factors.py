"""Factors against the objectives that they minimise, with dense matrices."""

import numpy as np
import pytest
import scipy.sparse as sp
from shapes import random_history

from common.recommending import als
from common.recommending.svd import svd


def matrix(users: int = 60, items: int = 40) -> sp.csr_matrix:
    pairs = random_history(users, items, seed=3)
    return pairs.matrix(pairs.events)


def objective(x: np.ndarray, of_items: np.ndarray, confidence: float, ridge: float) -> float:
    """Return the loss of ALS with the optimal users' factors for the items' ones."""
    of_users = als.fold_in(sp.csr_matrix(x), of_items, confidence, ridge).astype(float)
    error = (1 + confidence * x) * ((x > 0) - of_users @ of_items.T) ** 2
    return float(error.sum() + ridge * ((of_users**2).sum() + (of_items.astype(float) ** 2).sum()))


def plain_als(x: np.ndarray, factors: int, confidence: float, ridge: float, iterations: int) -> np.ndarray:
    """Run alternating least squares, one row at a time."""
    sides = [np.random.default_rng(0).normal(0, 0.01, (size, factors)) for size in x.shape]
    for number in range(2 * iterations):
        this, other = sides[number % 2], sides[1 - number % 2]
        for row, values in enumerate(x if number % 2 == 0 else x.T):
            weighted = other.T * (1 + confidence * values)
            this[row] = np.linalg.solve(weighted @ other + ridge * np.eye(factors), weighted @ (values > 0))
    return sides[1]


@pytest.mark.parametrize("long_row", [als.LONG_ROW, 5])
def test_als_reaches_the_loss_of_exact_solutions(monkeypatch, long_row: int) -> None:
    monkeypatch.setattr(als, "LONG_ROW", long_row)  # with 5, most rows are summed in pieces
    x = matrix().toarray()
    found = objective(x, als.als(matrix(), 6, 3.0, 2.0, 15), 3.0, 2.0)
    expected = objective(x, plain_als(x, 6, 3.0, 2.0, 15).astype(np.float32), 3.0, 2.0)
    assert found == pytest.approx(expected, rel=0.01)


def test_result_does_not_depend_on_the_blocks(monkeypatch) -> None:
    found = als.als(matrix(), 6, 3.0, 2.0, 3)
    monkeypatch.setattr(als, "BLOCK_VALUES", 6 * 20)
    np.testing.assert_allclose(als.als(matrix(), 6, 3.0, 2.0, 3), found, atol=1e-4)


def test_factors_depend_on_the_seed_only() -> None:
    one, again, other = (als.als(matrix(), 4, 1.0, 1.0, 2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(svd(matrix(), 4, 0.3, 1)[0], svd(matrix(), 4, 0.3, 1)[0])


def test_empty_rows_and_columns_get_zero_factors() -> None:
    x = matrix(30, 10).tolil()
    x[4], x[:, 7] = 0, 0
    x = x.tocsr()
    of_items = als.als(x, 4, 1.0, 1.0)
    assert not of_items[7].any() and of_items[6].any()
    assert not als.fold_in(x, of_items, 1.0, 1.0)[4].any()


def test_influences_of_a_history_add_up_to_the_users_factors() -> None:
    of_items = als.als(matrix(), 5, 2.0, 1.0)
    row = matrix()[11]
    parts = als.influence(row, of_items, 2.0, 1.0)
    np.testing.assert_allclose(parts.sum(axis=0), als.fold_in(row, of_items, 2.0, 1.0)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.3])
def test_svd_projects_on_the_first_singular_vectors(power: float) -> None:
    x = matrix().toarray()
    users, items = (x > 0).sum(axis=1) ** 0.25, (x > 0).sum(axis=0) ** power
    vectors = np.linalg.svd(x / users[:, None] / items)[2][:5].T
    inputs, outputs = svd(matrix(), 5, power)
    expected = (vectors / items[:, None]) @ (vectors * items[:, None]).T
    np.testing.assert_allclose(inputs @ outputs.T, expected, atol=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_als_refuses_negative_and_infinite_weights(value: float) -> None:
    with pytest.raises(ValueError, match="finite weights that are not negative"):
        als.als(sp.csr_matrix(np.array([[1, value]])), 2, 1.0, 1.0)

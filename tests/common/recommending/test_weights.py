"""Weights between items, each against its formula written with dense matrices."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from shapes import counts, random_history

from common.recommending import blocks, ease, neighbours
from common.recommending.histories import BY_NOTHING, fitting_matrix


def kept_largest(dense: np.ndarray, count: int) -> np.ndarray:
    """Keep the `count` largest positive entries of each column, ties to the lower row; zero the rest."""
    result = np.zeros_like(dense)
    for column in range(dense.shape[1]):
        rows = [row for row in np.argsort(-dense[:, column], kind="stable")[:count] if dense[row, column] > 0]
        result[rows, column] = dense[rows, column]
    return result


def plain_cosine(x: np.ndarray, shrinkage: float) -> np.ndarray:
    lengths = np.sqrt((x * x).sum(axis=0))
    scale = np.outer(lengths, lengths) + shrinkage
    weights = np.divide(x.T @ x, scale, out=np.zeros_like(scale), where=scale > 0)
    np.fill_diagonal(weights, 0)
    return weights


def plain_rp3beta(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    popularity, lengths = x.sum(axis=0), x.sum(axis=1)
    weights = np.zeros((x.shape[1], x.shape[1]))
    for i in range(x.shape[1]):
        for j in range(x.shape[1]):
            for u in range(x.shape[0]):
                if i != j and x[u, i] and x[u, j]:
                    weights[i, j] += (x[u, i] / popularity[i] * x[u, j] / lengths[u]) ** alpha / popularity[j] ** beta
    return weights


@given(counts, st.sampled_from([0.0, 0.5, 20.0]))
def test_cosine_follows_its_formula(x: np.ndarray, shrinkage: float) -> None:
    found = neighbours.cosine(sp.csr_matrix(x), shrinkage).toarray()
    np.testing.assert_allclose(found, plain_cosine(x.astype(float), shrinkage), rtol=1e-5, atol=1e-7)


@given(counts, st.sampled_from([0.6, 1.0, 1.7]), st.sampled_from([0.0, 0.5]))
def test_rp3beta_follows_its_formula(x: np.ndarray, alpha: float, beta: float) -> None:
    found = neighbours.rp3beta(sp.csr_matrix(x), alpha, beta).toarray()
    np.testing.assert_allclose(found, plain_rp3beta(x.astype(float), alpha, beta), rtol=1e-4, atol=1e-7)


def test_rp3beta_keeps_the_strongest_of_each_target_or_source() -> None:
    x = fitting_matrix(random_history(40, 23), 50, BY_NOTHING).toarray()
    whole = plain_rp3beta(x.astype(float), 0.8, 0.4).astype(np.float32)
    for by_source, expected in ((False, kept_largest(whole, 4)), (True, kept_largest(whole.T, 4).T)):
        found = neighbours.rp3beta(sp.csr_matrix(x), 0.8, 0.4, 4, by_source).toarray()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_strongest_neighbours_do_not_depend_on_the_blocks(monkeypatch, block: int) -> None:
    x = fitting_matrix(random_history(40, 23), 50, BY_NOTHING).toarray()
    monkeypatch.setattr(neighbours, "BLOCK_VALUES", block * 23)
    found = neighbours.cosine(sp.csr_matrix(x), 1, neighbours=4)
    np.testing.assert_allclose(found.toarray(), kept_largest(plain_cosine(x, 1).astype(np.float32), 4), rtol=1e-5)
    assert found.has_sorted_indices


@given(counts, st.sampled_from([0.5, 3.0, 400.0]), st.sampled_from([0.0, 0.5]))
def test_ease_follows_its_formula(x: np.ndarray, regularization: float, dropout: float) -> None:
    gram = x.T.astype(float) @ x
    inverse = np.linalg.inv(
        gram + regularization * np.eye(x.shape[1]) + dropout / (1 - dropout) * np.diag(np.diag(gram))
    )
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(ease.ease(sp.csr_matrix(x), regularization, dropout), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dropout", [-0.1, 1, np.nan])
def test_ease_refuses_a_dropout_of_one_or_more(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout of EASE"):
        ease.ease(sp.csr_matrix(np.eye(3)), 1, dropout)


def test_ease_of_several_blocks_follows_its_formula() -> None:
    x = sp.random(300, 1100, 0.03, "csr", dtype=np.float32, random_state=1)
    inverse = np.linalg.inv((x.T @ x).toarray().astype(float) + 2 * np.eye(1100))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    found = ease.ease(x, 2)
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_ease_refuses_too_many_items() -> None:
    with pytest.raises(ValueError, match="at most 20000 items and got 20001"):
        ease.ease(sp.csr_matrix((1, 20_001), dtype=np.float32), 1)


def test_head_is_the_items_of_most_users_ties_to_lower_positions() -> None:
    x = sp.csr_matrix(np.array([[1, 1, 0, 1, 0], [1, 0, 9, 1, 0], [0, 0, 0, 1, 1]], dtype=np.float32))
    assert ease.head_items(x, 3).tolist() == [0, 1, 3]


@pytest.mark.parametrize("count, size", [(0, 3), (7, 3), (6, 3), (2, 9), (3, 0)])
def test_blocks_cover_everything_once_in_order(count: int, size: int) -> None:
    assert [number for part in blocks.blocks(count, size) for number in range(count)[part]] == list(range(count))

"""Implicit ALS: factors of users and items by alternating least squares, in blocks of rows of like lengths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from common.recommending.blocks import blocks, in_parallel, one_thread
from common.recommending.histories import Floats

BLOCK_VALUES = 250_000  # gathered factors per block of rows: 1 MB, to stay in a core's cache
LONG_ROW = 16_384  # entries; a longer row is summed in pieces instead of gathered at once
TINY = np.float32(np.finfo(np.float32).tiny)
STEPS = 3  # of conjugate gradients per half iteration, from the factors of the previous iteration


def als(
    matrix: sp.csr_matrix, factors: int, confidence: float, regularization: float, iterations: int = 10, seed: int = 1
) -> Floats:
    """Return the items' factors v (items x factors) of implicit alternating least squares.

    With users' factors u they minimise

        sum over all u, i of c[u, i] (p[u, i] - u.v)^2 + regularization (sum of |u|^2 + sum of |v|^2)

    where p is 1 and c is 1 + confidence * matrix[u, i] where the matrix (users x items, not negative) has an entry, and
    p is 0 and c is 1 elsewhere. (Hu, Koren and Volinsky 2008; with conjugate gradients: Takacs, Pilaszy and Tikk 2011.)

    O(iterations (entries factors + (users + items) factors^2)) time, on all cores; memory: the matrix twice, the
    factors, and 1 MB per core. The same seed gives the same factors.
    """
    _check(matrix)
    users, items = matrix.shape
    weights = sp.csr_matrix(
        (matrix.data.astype(np.float32) * np.float32(confidence), matrix.indices, matrix.indptr), matrix.shape
    )
    by_item = weights.T.tocsr()
    random = np.random.default_rng(seed)
    of_users = random.normal(0, 0.01, (users, factors)).astype(np.float32)
    of_items = random.normal(0, 0.01, (items, factors)).astype(np.float32)
    for _ in range(iterations):
        _solve(weights, of_items, regularization, of_users, exact=False)
        _solve(by_item, of_users, regularization, of_items, exact=False)
    return of_items


def fold_in(matrix: sp.csr_matrix, of_items: Floats, confidence: float, regularization: float) -> Floats:
    """Return the exact optimal users' factors (users x factors) for the items' factors; arguments as of `als`."""
    weights = sp.csr_matrix(
        (matrix.data.astype(np.float32) * np.float32(confidence), matrix.indices, matrix.indptr), matrix.shape
    )
    result = np.zeros((matrix.shape[0], of_items.shape[1]), dtype=np.float32)
    _solve(weights, of_items, regularization, result, exact=True)
    return result


def influence(row: sp.csr_matrix, of_items: Floats, confidence: float, regularization: float) -> Floats:
    """Return the contribution of each entry of one user's row to the user's factors (entries x factors).

    Their sum is `fold_in`.
    """
    weights = row.data.astype(np.float32) * np.float32(confidence)
    gathered = of_items[row.indices]
    gram = of_items.T @ of_items + (gathered * weights[:, None]).T @ gathered
    gram[np.diag_indices(len(gram))] += np.float32(regularization)
    contributions: Floats = np.linalg.solve(gram, gathered.T).T * (weights + 1)[:, None]
    return contributions


def _solve(weights: sp.csr_matrix, other: Floats, regularization: float, factors: Floats, exact: bool) -> None:
    """Improve `factors` (rows x factors) in place, given those of the other side; `weights` are c - 1."""
    lengths = np.diff(weights.indptr)
    order = np.argsort(lengths, kind="stable")
    factors[order[: np.searchsorted(lengths[order], 1)]] = 0  # rows without entries
    with one_thread():  # OpenBLAS's threads would spin after it
        common = other.T @ other
    common[np.diag_indices(len(common))] += np.float32(regularization)
    solve_block = partial(_solve_block, weights, other, common, factors, order, exact)
    for _ in in_parallel(solve_block, _slices_by_length(lengths[order], other.shape[1])):
        pass


def _slices_by_length(lengths: NDArray[np.int64], factors: int) -> list[slice]:
    """Return slices of ascending lengths, without zeros, whose padded rows have at most BLOCK_VALUES factors."""
    slices = []
    stop = len(lengths)
    first = int(np.searchsorted(lengths, 1))
    while stop > first:
        start = max(first, stop - max(1, BLOCK_VALUES // (factors * min(int(lengths[stop - 1]), LONG_ROW))))
        slices.append(slice(start, stop))
        stop = start
    return slices


def _solve_block(
    weights: sp.csr_matrix,
    other: Floats,
    common: Floats,
    factors: Floats,
    order: NDArray[np.int64],
    exact: bool,
    part: slice,
) -> None:
    rows = order[part]
    starts, lengths = weights.indptr[rows], np.diff(weights.indptr)[rows]
    if lengths[-1] > LONG_ROW:
        factors[rows] = np.stack(
            [_solve_long(weights, other, common, start, length) for start, length in zip(starts, lengths)]
        )
        return
    padded = np.arange(lengths[-1])
    entry = np.minimum(starts[:, None] + padded, len(weights.indices) - 1)
    inside = padded < lengths[:, None]
    weight = np.where(inside, weights.data[entry], np.float32(0))
    gathered = other[weights.indices[entry]]  # rows x length x factors
    target_weight = weight + inside  # c p
    if exact:
        target = np.matmul(target_weight[:, None, :], gathered)[:, 0]
        gram = np.matmul((gathered * weight[:, :, None]).transpose(0, 2, 1), gathered) + common
        factors[rows] = np.linalg.solve(gram, target[:, :, None])[:, :, 0]
        return

    def weigh(vectors: Floats) -> Floats:
        values: Floats = np.matmul(gathered, vectors[:, :, None])[:, :, 0] * weight
        return values

    def sum_up(values: Floats) -> Floats:
        sums: Floats = np.matmul(values[:, None, :], gathered)[:, 0]
        return sums

    start = factors[rows]
    residual = sum_up(target_weight - weigh(start)) - start @ common  # one pass over `gathered` instead of two
    factors[rows] = _conjugate_gradients(lambda vectors: sum_up(weigh(vectors)) + vectors @ common, residual, start)


def _conjugate_gradients(apply: Callable[[Floats], Floats], residual: Floats, start: Floats) -> Floats:
    """Take STEPS steps from `start`, with this `residual`, towards the x of each row where `apply`(x) has none."""
    x = start
    direction = residual
    squares = np.einsum("rf,rf->r", residual, residual)
    for _ in range(STEPS):
        image = apply(direction)
        step = squares / np.maximum(np.einsum("rf,rf->r", direction, image), TINY)
        x = x + step[:, None] * direction
        residual = residual - step[:, None] * image
        before, squares = squares, np.einsum("rf,rf->r", residual, residual)
        direction = residual + (squares / np.maximum(before, TINY))[:, None] * direction
    return x


def _solve_long(weights: sp.csr_matrix, other: Floats, common: Floats, start: int, length: int) -> Floats:
    """Return the exact solution for one row, its normal equations summed in pieces."""
    gram, target = common.copy(), np.zeros(other.shape[1], dtype=np.float32)
    for part in blocks(length, LONG_ROW):
        entries = slice(start + part.start, start + part.stop)
        gathered, weight = other[weights.indices[entries]], weights.data[entries]
        gram += (gathered * weight[:, None]).T @ gathered
        target += (weight + 1) @ gathered
    solution: Floats = np.linalg.solve(gram, target)
    return solution


def _check(matrix: sp.csr_matrix) -> None:
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise ValueError("ALS needs finite weights that are not negative: filter or repair the pairs first")

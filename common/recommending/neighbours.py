"""Neighbours of items: sparse item-to-item weights by random walks or cosines, the strongest per item."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from common.recommending.blocks import blocks, in_parallel
from common.recommending.histories import Floats
from common.recommending.ranking import rows_of, top_of_sparse

BLOCK_VALUES = 8_000_000  # cells per block of items x items: 64 MB if all are stored


def rp3beta(
    matrix: sp.csr_matrix, alpha: float, beta: float, neighbours: int = 100, by_source: bool = False
) -> sp.csr_matrix:
    """Return weights W (items x items, from row to column, zero diagonal) of random walks item - user - item.

    W[i, j] = sum over users u of (P[i, u] P[u, j])^alpha / popularity[j]^beta, P the transition probabilities: X' and X
    with rows that add up to 1; popularity the sums of X's columns. Each column (target) keeps its `neighbours`
    strongest rows, or, by source, each row its strongest columns.
    (Paudel et al., Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive Applications, 2016.)

    O(sum of squared row lengths of X) time; O(items x neighbours) memory and one block.
    """
    _check(matrix)
    popularity = np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel()
    from_users = _scale(matrix, 1 / _zero_to_one(np.asarray(matrix.sum(axis=1)).ravel()), None)
    to_users = _scale(matrix, None, 1 / _zero_to_one(popularity))
    from_users.data **= np.float32(alpha)
    to_users.data **= np.float32(alpha)
    penalty = (_zero_to_one(popularity) ** -beta).astype(np.float32)
    if by_source:
        of_rows = _strongest_per_column(to_users, from_users, neighbours, lambda values, _, to: values * penalty[to])
        return of_rows.T.tocsr()
    return _strongest_per_column(from_users, to_users, neighbours, lambda values, to, source: values * penalty[to])


def cosine(matrix: sp.csr_matrix, shrinkage: float, neighbours: int = 100) -> sp.csr_matrix:
    """Return weights W (items x items, from row to column, zero diagonal): cosine of the items' columns x, shrunk.

    W[i, j] = x_i.x_j / (|x_i| |x_j| + shrinkage). Each column keeps its `neighbours` strongest rows. (Deshpande and
    Karypis, Item-Based Top-N Recommendation Algorithms, 2004.)

    O(sum of squared row lengths of X) time; O(items x neighbours) memory and one block.
    """
    _check(matrix)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0), dtype=np.float64).ravel()).astype(np.float32)

    def shrink(values: Floats, to: np.ndarray, source: np.ndarray) -> Floats:
        shrunk: Floats = values / (lengths[to] * lengths[source] + np.float32(shrinkage or np.finfo(np.float32).tiny))
        return shrunk

    return _strongest_per_column(matrix, matrix, neighbours, shrink)


def _strongest_per_column(
    targets: sp.csr_matrix,
    sources: sp.csr_matrix,
    neighbours: int,
    finish: Callable[[Floats, np.ndarray, np.ndarray], Floats],
) -> sp.csr_matrix:
    """Return the `neighbours` largest positive entries of each column of sources' targets, without the diagonal.

    `finish` turns products into weights, given the target and the source item of each.
    """
    items = targets.shape[1]
    rows_of_targets = targets.T.tocsr().astype(np.float32, copy=False)
    sources = sources.astype(np.float32, copy=False)

    def of_block(part: slice) -> tuple[np.ndarray, np.ndarray, Floats]:
        block = rows_of_targets[part] @ sources  # row j - part.start is column j of W
        block.data = finish(block.data, rows_of(block) + part.start, block.indices)
        itself = sp.eye(part.stop - part.start, items, k=part.start, format="csr", dtype=np.int8)
        rows, columns, values = top_of_sparse(block, neighbours, itself)
        return rows + part.start, columns, values

    entries = list(in_parallel(of_block, blocks(items, BLOCK_VALUES // max(1, items))))
    if not entries:
        return sp.csr_matrix((items, items), dtype=np.float32)
    to, source, values = (np.concatenate(arrays) for arrays in zip(*entries, strict=True))
    weights = sp.csr_matrix((values, (source, to)), shape=(items, items), dtype=np.float32)
    weights.sort_indices()
    return weights


def _scale(matrix: sp.csr_matrix, rows: np.ndarray | None, columns: np.ndarray | None) -> sp.csr_matrix:
    values = matrix.data.astype(np.float32)
    if rows is not None:
        values *= np.repeat(rows.astype(np.float32), np.diff(matrix.indptr))
    if columns is not None:
        values *= columns.astype(np.float32)[matrix.indices]
    return sp.csr_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape)


def _zero_to_one(sums: np.ndarray) -> np.ndarray:
    return np.where(sums > 0, sums, 1.0)


def _check(matrix: sp.csr_matrix) -> None:
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise ValueError(
            "neighbours of items need finite weights that are not negative: filter or repair the pairs first"
        )

"""Truncated singular vectors of the scaled matrix: from a history to the items near it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from common.recommending.blocks import one_thread
from common.recommending.histories import Floats

USER_POWER = 0.25


def svd(matrix: sp.csr_matrix, factors: int, item_power: float, seed: int = 1) -> tuple[Floats, Floats]:
    """Return inputs and outputs (both items x factors), with which a history x scores all items: x inputs outputs'.

    V are the first right singular vectors of D_u^-1/4 X D_i^-p, with X the matrix (users x items), D_u and D_i the
    numbers of entries of its rows and columns and p `item_power`; inputs are D_i^-p V, outputs D_i^p V. (Randomized:
    Halko, Martinsson and Tropp 2011; scaling by degrees: Nikolakopoulos et al., EigenRec, 2019.)

    O(entries factors + (users + items) factors^2) time; memory: the matrix twice and (users + items) factors floats.
    On one core, because OpenBLAS's threads spin while they wait: up to 10 times the CPU of one on a busy machine.
    The same seed gives the same factors. At most as many factors as users or items.
    """
    from sklearn.utils.extmath import randomized_svd  # here: its import takes a second, which prediction need not wait

    if not np.isfinite(matrix.data).all():
        raise ValueError("SVD needs finite weights: filter or repair the pairs first")
    users, items = matrix.shape
    kept = min(factors, users, items)
    if not kept or not matrix.nnz:
        return np.zeros((items, factors), dtype=np.float32), np.zeros((items, factors), dtype=np.float32)
    row_scale = np.maximum(np.diff(matrix.indptr), 1.0) ** -USER_POWER
    item_scale = np.maximum(np.bincount(matrix.indices, minlength=items), 1.0) ** item_power
    scaled = (sp.diags(row_scale) @ matrix @ sp.diags(1 / item_scale)).astype(np.float32).tocsr()
    with one_thread():
        vectors = randomized_svd(scaled, kept, n_iter=4, random_state=seed)[2].T
    inputs, outputs = vectors / item_scale[:, None], vectors * item_scale[:, None]
    return inputs.astype(np.float32), outputs.astype(np.float32)

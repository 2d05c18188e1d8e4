"""Small histories for tests, made from dense matrices."""

import numpy as np
import scipy.sparse as sp
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from common.recommending.histories import History


def of_dense(events: np.ndarray, age: np.ndarray | None = None) -> History:
    """Return the history whose pairs are the cells that are not zero."""
    matrix = sp.csr_matrix(np.asarray(events, dtype=np.float32))
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    ages = np.zeros(matrix.nnz) if age is None else np.asarray(age)[rows, matrix.indices]
    values = matrix.data, np.log1p(matrix.data), ages.astype(np.float32)
    return History(matrix.indptr.astype(np.int64), matrix.indices, *values, matrix.shape[1])


def random_history(users: int, items: int, seed: int = 0, share: float = 0.2) -> History:
    random = np.random.default_rng(seed)
    events = random.integers(1, 5, (users, items)) * (random.random((users, items)) < share)
    return of_dense(events, random.random((users, items)) * 100)


# Users x items with many zeros and equal values, so that ties and empty rows and columns occur.
counts = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 0, 1, 2, 5]))

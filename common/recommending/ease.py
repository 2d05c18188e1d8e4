"""EASE: the item-to-item regression with a closed form."""

from __future__ import annotations

import ctypes

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import cython_lapack

from common.recommending.blocks import blocks, in_parallel, one_thread
from common.recommending.histories import Floats

MAX_HEAD = 20_000  # beyond it the memory grows past 2 GiB, and OpenBLAS has crashed at 37,000


def head_items(matrix: sp.csr_matrix, count: int) -> NDArray[np.int64]:
    """Return the positions, ascending, of the `count` items with most users; ties go to the lower position."""
    users = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return np.sort(np.argsort(-users, kind="stable")[:count])


def ease(matrix: sp.csr_matrix, regularization: float, dropout: float = 0.0) -> Floats:
    """Return weights B (items x items, from row to column, zero diagonal) that minimise |X - XB|^2 + |D B|^2.

    D^2 is diagonal: regularization + dropout / (1 - dropout) * diag(X'X), which equals training with that
    share of the entries dropped at random. With P = (X'X + D^2)^-1: B[i, j] = -P[i, j] / P[j, j]. (Steck:
    Embarrassingly Shallow Autoencoders, 2019; Autoencoders that don't overfit towards the Identity, 2020.)
    `matrix` X is users x items, at most 20,000 items: take `head_items` of a larger one.

    In place in one float32 array: 4 items^2 bytes and the blocks of X'X being filled in. O(sum of squared row lengths)
    for X'X, then about 2/3 items^3 multiplications (spotrf, spotri) on one core: 8,500 items take 6 s.
    Several threads of OpenBLAS wait for each other by spinning: up to 15 times as long on a busy machine.
    """
    items = matrix.shape[1]
    if items > MAX_HEAD:
        raise ValueError(f"EASE takes at most {MAX_HEAD} items and got {items}: pass the head items only")
    if not (np.isfinite(regularization) and regularization > 0):
        raise ValueError(f"the regularization of EASE must be a positive number, not {regularization}")
    if not 0 <= dropout < 1:
        raise ValueError(f"the dropout of EASE must be at least 0 and below 1, not {dropout}")
    if not np.isfinite(matrix.data).all():
        raise ValueError("EASE needs finite weights: filter or repair the pairs first")
    if items == 0:
        return np.zeros((0, 0), dtype=np.float32)
    inverse = _gram(matrix)
    diagonal = np.diag_indices(items)
    inverse[diagonal] += np.float32(regularization) + np.float32(dropout / (1 - dropout)) * inverse[diagonal]
    with one_thread():
        problem = _lapack("spotrf", inverse) or _lapack("spotri", inverse)
    if problem != 0:
        raise ValueError(
            f"X'X with {regularization} on its diagonal has no inverse in single precision: use a larger regularization"
        )
    weights = _mirror(inverse).T  # symmetric, so the transpose is the same matrix with contiguous rows
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0)
    return weights


def _gram(matrix: sp.csr_matrix) -> Floats:
    """Return the lower triangle of X'X, dense and in LAPACK's column order, from sparse products of 512 items each.

    What is above it is arbitrary.
    """
    items = matrix.shape[1]
    gram = np.empty((items, items), dtype=np.float32, order="F")
    rows = matrix.astype(np.float32)
    transposed = rows.T.tocsr()

    def fill(part: slice) -> None:
        gram[part.start :, part] = (transposed[part] @ rows[:, part.start :]).toarray().T

    for _ in in_parallel(fill, blocks(items, 512)):
        pass
    return gram


def _lapack(routine: str, matrix: Floats) -> int:
    """Call a LAPACK routine on the lower triangle of a square matrix in column order, in place; return its error code.

    scipy.linalg.lapack would hold the GIL for minutes, which blocks the alive line and SIGTERM.
    """
    capsule = ctypes.py_object(cython_lapack.__pyx_capi__[routine])
    python = ctypes.pythonapi
    python.PyCapsule_GetName.restype, python.PyCapsule_GetPointer.restype = ctypes.c_char_p, ctypes.c_void_p
    name = ctypes.c_char_p(python.PyCapsule_GetName(capsule))
    address = python.PyCapsule_GetPointer(capsule, name)
    size, problem = ctypes.c_int(len(matrix)), ctypes.c_int()
    arguments = [ctypes.c_char_p(b"L"), ctypes.byref(size), ctypes.c_void_p(matrix.ctypes.data), ctypes.byref(size)]
    ctypes.CFUNCTYPE(None)(address)(*arguments, ctypes.byref(problem))
    return problem.value


def _mirror(lower: Floats) -> Floats:
    """Copy the lower triangle over the upper, in place, in blocks that stay in the cache."""
    for part in blocks(len(lower), 256):
        lower[part, part.stop :] = lower[part.stop :, part].T
        corner = lower[part, part]
        rows, columns = np.triu_indices(len(corner), 1)
        corner[rows, columns] = corner[columns, rows]
    return lower

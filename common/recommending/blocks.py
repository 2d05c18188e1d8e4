"""Work in blocks of rows or columns, on every core that this process may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

from scipy.linalg import cython_lapack  # noqa: F401  (loads NumPy's and SciPy's BLAS, for the search below)
from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")


def cores() -> int:
    """Return the number of cores to use: OMP_NUM_THREADS, which an image sets from its CPU limit, else all."""
    if allowed := os.environ.get("OMP_NUM_THREADS"):
        return int(allowed)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blocks(count: int, size: int) -> list[slice]:
    """Return slices of at most `size`, or 1, that cover range(count) in order."""
    size = max(1, size)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # a search of milliseconds: too long for each of a fit's many small steps


def one_thread() -> AbstractContextManager[Any]:
    """Give BLAS one thread during a `with`: several threads would wait for each other by spinning."""
    limit: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return limit


def in_parallel(function: Callable[[slice], Result], slices: list[slice]) -> Iterator[Result]:
    """Yield the results of `function` in the order of `slices`, by threads: for code that releases the GIL.

    BLAS gets one thread during it, because these threads already use all cores.
    """
    with ThreadPoolExecutor(cores()) as pool, one_thread():
        yield from pool.map(function, slices)

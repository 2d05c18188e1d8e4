"""Blocks on all cores: BLAS starts no threads of its own next to them."""

from threadpoolctl import threadpool_info, threadpool_limits

from common.recommending.blocks import blocks, in_parallel


def threads_of_blas(*_: object) -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def test_blas_has_one_thread_while_blocks_are_worked_on() -> None:
    with threadpool_limits(2):
        assert list(in_parallel(threads_of_blas, blocks(2, 1))) == [[1, 1], [1, 1]], "NumPy's and SciPy's"
        assert threads_of_blas() == [2, 2]

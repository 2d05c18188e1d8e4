"""The split of the recommenders project, on synthetic ratings."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import movielens


def synthetic_ratings(rows: int = 400) -> np.ndarray:
    random = np.random.default_rng(0)
    pairs = random.permutation(30 * 50)[:rows]
    return np.stack([pairs // 50, pairs % 50, random.integers(1, 6, rows), random.integers(0, 10**6, rows)], axis=1)


def test_three_quarters_of_each_items_ratings_are_kept_by_seed() -> None:
    table = synthetic_ratings()
    train, test = movielens.split(table, 42)
    together = {tuple(row) for row in np.concatenate([train, test]).tolist()}
    assert together == {tuple(row) for row in table.tolist()} and len(train) + len(test) == len(table)
    for item in np.unique(table[:, 1]):
        count = (table[:, 1] == item).sum()
        assert (train[:, 1] == item).sum() == round(0.75 * count)
    assert (movielens.split(table, 42)[0] == train).all()
    assert not np.array_equal(movielens.split(table, 1)[0], train)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "u.data"
    file.write_text("user\titem\n1\t2\t3\t4\n1\t3\t3\t4\n")
    with pytest.raises(SystemExit, match=r"u\.data has \(2, 4\) numbers"):
        movielens.ratings(file)


def test_harness_with_other_figures_stops() -> None:
    table = synthetic_ratings()
    train, test = movielens.split(table, 42)
    with pytest.raises(SystemExit, match="the protocol differs"):
        movielens.harness(train, *movielens.problem(train, test, (30, 50)))

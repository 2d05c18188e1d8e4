"""Drift of features between two groups of users."""

import numpy as np
import pyarrow as pa

from common.churn.drift import drift


def users(mean: float, word: str, rows: int = 20_000, seed: int = 1) -> pa.Table:
    random = np.random.default_rng(seed)
    numbers = random.normal(mean, 1, rows)
    return pa.table(
        {
            "moved": pa.array(numbers, pa.float32()),
            "same": pa.array(random.normal(0, 1, rows), pa.float32()),
            "unknown": pa.array([None if position % 2 else 1.0 for position in range(rows)], pa.float32()),
            "word": pa.array(["web"] * (rows // 2) + [word] * (rows - rows // 2)),
        }
    )


def test_moved_numbers_and_new_words_drift_and_equal_ones_do_not() -> None:
    found = drift(users(0, "web"), users(1, "app", seed=2))
    assert list(found) == ["word", "moved", "same", "unknown"]  # largest first
    assert found["word"] > found["moved"] > 0.7  # a shift by its deviation has 1.0 by the formula for normal densities
    assert found["same"] < 0.01 and found["unknown"] == 0
    assert drift(users(0, "web"), users(1, "app", rows=3, seed=2))["word"] > 0.2  # few rows


def test_columns_without_values_do_not_drift() -> None:
    nothing = pa.table({"gap": pa.array([None, None], pa.float32()), "plan": pa.array([None, None], pa.string())})
    assert drift(nothing, nothing) == {"gap": 0, "plan": 0}
    assert drift(nothing, nothing.slice(0, 1)) == {"gap": 0, "plan": 0}

"""Popularity of items, all-time and decayed, and their momentum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.recommending.histories import Floats, History, decay

SHORT = 1 / 8  # of the long half-life of the momentum


def popularity(pairs: History, half_life: float = np.inf) -> NDArray[np.float64]:
    """Return the score of each item (items): the sum over its users of 2^(-age / half_life).

    age: of the user's last event with the item, in days.

    An infinite half-life counts the users (all-time popularity). A user counts once per item, however often they
    had it. O(pairs) time, O(items) memory.
    """
    decayed = decay(pairs.age, half_life).astype(np.float64)
    return np.bincount(pairs.indices, decayed, minlength=pairs.item_count).astype(np.float64)


def momentum(pairs: History) -> Floats:
    """Return the ratio of each item's recent popularity to that over a longer time (items).

    It is (popularity over the short half-life + 1/2) / (popularity over the long one + 1/2). The long half-life is the
    median age of the pairs, the short one an eighth of it, so that they follow the span of any data.

    Damps items that have stopped being used (out of season, out of stock) and lifts those that have begun to. The
    halves shrink items with few users towards 1. Ones if the pairs have no ages. O(pairs) time.
    """
    long = float(np.median(pairs.age)) if len(pairs.age) else 0.0
    if not long:
        return np.ones(pairs.item_count, dtype=np.float32)
    return np.asarray((popularity(pairs, SHORT * long) + 0.5) / (popularity(pairs, long) + 0.5), dtype=np.float32)

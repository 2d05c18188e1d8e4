"""Popularity of items, all-time and decayed, and their momentum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.recommending.histories import Floats, History, decay

SHORT_HALF_LIFE = 30.0
LONG_HALF_LIFE = 240.0


def popularity(pairs: History, half_life: float = np.inf) -> NDArray[np.float64]:
    """Return the score of each item (items): the sum over its users of 2^(-age / half_life).

    age: of the user's last purchase, in days.

    An infinite half-life counts the users (all-time popularity). A user counts once per item, however often they
    bought it. O(pairs) time, O(items) memory.
    """
    decayed = decay(pairs.age, half_life).astype(np.float64)
    return np.bincount(pairs.indices, decayed, minlength=pairs.item_count).astype(np.float64)


def momentum(pairs: History, exponent: float) -> Floats:
    """Return the factor of each item (items).

    It is ((popularity over 30 days + 1/2) / (popularity over 240 days + 1/2)) ^ exponent.

    Damps items that have stopped selling (out of season, out of stock) and lifts those that have begun to. The halves
    shrink items with few users towards 1. O(pairs) time.
    """
    ratio = (popularity(pairs, SHORT_HALF_LIFE) + 0.5) / (popularity(pairs, LONG_HALF_LIFE) + 0.5)
    return np.asarray(ratio**exponent, dtype=np.float32)

"""Drift of features between two groups of users, such as those of a training and those of today."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.churn.encoding import Floats

BINS = 10
LEAST = 1e-4  # share of an empty bin, so that its logarithm is finite
MAX_ROWS = 100_000  # of either group: more would not change two digits


def drift(before: pa.Table, after: pa.Table) -> dict[str, float]:
    """Return the population stability index of each column, largest first: 0 is none, from 0.2 on a large one.

    It is the sum over bins of (share after - share before) * log(share after / share before). The bins of numbers are
    tenths of `before`, those of words the words; missing values have a bin of their own.
    """
    before, after = spread(before), spread(after)
    found = {name: index(*shares(before[name], after[name])) for name in before.column_names}
    return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


def spread(rows: pa.Table) -> pa.Table:
    """Return at most MAX_ROWS rows, evenly spread."""
    step = -(-rows.num_rows // MAX_ROWS)
    return rows if step <= 1 else rows.take(pa.array(np.arange(0, rows.num_rows, step)))


def shares(before: pa.ChunkedArray, after: pa.ChunkedArray) -> tuple[Floats, Floats]:
    """Return the shares of both groups in the same bins."""
    if pa.types.is_string(before.type):
        words = pc.unique(pa.chunked_array([*before.chunks, *after.chunks], pa.string())).drop_null()
        bins = [pc.index_in(each, value_set=words).fill_null(len(words)).to_numpy() for each in (before, after)]
        count = len(words) + 1
    else:
        numbers = [each.cast(pa.float64()).to_numpy() for each in (before, after)]
        known = numbers[0][~np.isnan(numbers[0])]
        cuts = np.unique(np.quantile(known, np.arange(1, BINS) / BINS)) if len(known) else np.zeros(0)
        count = len(cuts) + 2
        bins = [np.where(np.isnan(each), count - 1, np.searchsorted(cuts, each, "left")) for each in numbers]
    one, other = (np.bincount(each, minlength=count) / max(len(each), 1) for each in bins)
    return one, other


def index(before: Floats, after: Floats) -> float:
    before, after = np.maximum(before, LEAST), np.maximum(after, LEAST)
    return round(float(((after - before) * np.log(after / before)).sum()), 4)

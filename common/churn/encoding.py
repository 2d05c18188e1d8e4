"""Encoding of features, numbers and words, as the matrix that models take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RARE = 0.01  # share of rows below which a word has no column of its own
MAX_WORDS = 20


@dataclass(frozen=True)
class Encoding:
    """Columns of a matrix: the feature of each, and its word (None: a number)."""

    features: list[str]
    words: list[str | None]

    def matrix(self, rows: pa.Table) -> Floats:
        """Return rows x columns: numbers, NaN for unknown ones; 1 if the row has the column's word, else 0."""
        matrix = np.empty((rows.num_rows, len(self.features)))
        for position, (feature, word) in enumerate(zip(self.features, self.words, strict=True)):
            column = rows[feature]
            numbers = column if word is None else pc.equal(column, word).fill_null(False)
            matrix[:, position] = numbers.cast(pa.float64()).to_numpy()
        return matrix

    def by_feature(self, columns: Floats) -> tuple[list[str], Floats]:
        """Return the features sorted by name, and values of columns (rows x columns) summed by feature."""
        names, feature_of_column = np.unique(self.features, return_inverse=True)
        belongs = np.zeros((len(self.features), len(names)))
        belongs[np.arange(len(feature_of_column)), feature_of_column] = 1
        return names.tolist(), columns @ belongs


def fit_encoding(rows: pa.Table) -> Encoding:
    """Return the informative columns: numbers that are not constant, words that are neither rare nor in all rows.

    `rows` has one column per feature, of numbers, booleans or strings. O(rows x features).
    """
    columns: list[tuple[str, str | None]] = []
    for name in rows.column_names:
        column = rows[name]
        if pa.types.is_string(column.type):
            counts = pc.value_counts(column.drop_null()).to_pylist()
            frequent = [entry for entry in counts if RARE * rows.num_rows <= entry["counts"] < rows.num_rows]
            frequent.sort(key=lambda entry: (-entry["counts"], entry["values"]))
            columns += [(name, entry["values"]) for entry in frequent[:MAX_WORDS]]
        else:
            low, high = (bound.as_py() for bound in pc.min_max(column).values())
            if low is not None and low < high:
                columns.append((name, None))
    return Encoding([feature for feature, _ in columns], [word for _, word in columns])

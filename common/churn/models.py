"""Churn models for prediction: logistic regression, boosted trees, and their blend; all return log-odds.

They are plain arrays, fitted by `common.churn.fitting`: numpy is enough to apply them, and no pickle is ever loaded.
Each returns the contribution of every column to the log-odds of a row; the model's average and the contributions add up
to the log-odds exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.churn.encoding import Floats

Arrays = dict[str, NDArray[Any]]
Kind = TypeVar("Kind", "Regression", "Trees")
BLOCK = 20_000  # rows; their contributions stay near the cache


class Model(Protocol):
    """Log-odds of rows (rows x columns of an encoding), as an average and the contribution of each column."""

    @property
    def average(self) -> float: ...

    def contributions(self, matrix: Floats) -> Floats: ...

    def arrays(self) -> Arrays: ...


def log_odds(model: Model, matrix: Floats) -> Floats:
    """Return the log-odds of each row (rows). Memory: rows x columns of one block."""
    blocks = [matrix[start : start + BLOCK] for start in range(0, len(matrix), BLOCK)]
    deviations: Floats = np.concatenate([np.zeros(0), *(model.contributions(block).sum(axis=1) for block in blocks)])
    return model.average + deviations


def probability(odds: Floats) -> Floats:
    """Return 1 / (1 + exp(-log-odds)), without overflow."""
    probabilities: Floats = 0.5 * (1 + np.tanh(odds / 2))
    return probabilities


class Calibration(NamedTuple):
    """Calibrated log-odds = slope * log-odds + shift (Platt 1999)."""

    slope: float
    shift: float

    def __call__(self, odds: Floats) -> Floats:
        return self.slope * odds + self.shift


@dataclass(frozen=True)
class Regression:
    """Log-odds = intercept + sum of weight (z - mean) / scale, with z = sign(x) log(1 + |x|), unknown values the mean.

    All arrays have one value per column.
    """

    intercept: Floats
    weight: Floats
    mean: Floats
    scale: Floats

    @property
    def average(self) -> float:
        return float(self.intercept[0])

    def contributions(self, matrix: Floats) -> Floats:
        return standardise(matrix, self.mean, self.scale) * self.weight

    def arrays(self) -> Arrays:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def standardise(matrix: Floats, mean: Floats, scale: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        damped: Floats = (np.sign(matrix) * np.log1p(np.abs(matrix)) - mean) / scale
    return np.where(np.isnan(damped), 0.0, damped)


@dataclass(frozen=True)
class Trees:
    """Concatenated trees, one value per node: log-odds = base + sum over trees of `value` of the leaf reached.

    A row goes to the node `left` if its value of column `feature` is at most `threshold`, or is unknown and
    `unknown_left` is set, else to `right`; positions are within all nodes, a leaf points to itself. The value of an
    inner node is the mean of the training rows in it. roots: the first node of each tree.
    """

    base: Floats
    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Floats
    unknown_left: NDArray[np.bool_]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats

    @property
    def average(self) -> float:
        return float(self.base[0] + self.value[self.roots].sum())

    def contributions(self, matrix: Floats) -> Floats:
        """Return for each column the sum of the changes of value at the nodes that split on it (Saabas 2014)."""
        rows = np.arange(len(matrix))
        contributions = np.zeros(matrix.shape)
        for root in self.roots:
            row, node = rows, np.full(len(rows), root)
            while len(node):  # rows that have reached a leaf drop out
                feature = self.feature[node]
                value = matrix[row, feature]
                goes_left = np.where(np.isnan(value), self.unknown_left[node], value <= self.threshold[node])
                below = np.where(goes_left, self.left[node], self.right[node])
                contributions[row, feature] += self.value[below] - self.value[node]
                inner = self.left[below] != below
                row, node = row[inner], below[inner]
        return contributions

    def arrays(self) -> Arrays:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Blend:
    """The mean of the log-odds of a regression and of trees."""

    regression: Model
    trees: Model

    @property
    def average(self) -> float:
        return (self.regression.average + self.trees.average) / 2

    def contributions(self, matrix: Floats) -> Floats:
        return (self.regression.contributions(matrix) + self.trees.contributions(matrix)) / 2

    def arrays(self) -> Arrays:
        return self.regression.arrays() | self.trees.arrays()


def from_arrays(arrays: Arrays) -> Model:
    """Return the model with these arrays."""

    def load(kind: type[Kind]) -> Kind:
        return kind(**{field.name: np.asarray(arrays[field.name]) for field in fields(kind)})

    if "roots" not in arrays:
        return load(Regression)
    return Blend(load(Regression), load(Trees)) if "weight" in arrays else load(Trees)
